"""The presets on disk are the ones in code, and mistakes are answered by the name of the field."""

from pathlib import Path

import pytest
import yaml

from objectives.config import GLM_10B, GLM_130B, BlankInfillingConfig, CausalConfig, ObjectiveConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "objectives"


@pytest.mark.parametrize(("name", "preset"), [("glm-130b", GLM_130B), ("glm-10b", GLM_10B)])
def test_presets_on_disk(name: str, preset: BlankInfillingConfig) -> None:
    read = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    assert ObjectiveConfig(kind=read["kind"], blank_infilling=BlankInfillingConfig(**read["blank_infilling"])) == (
        ObjectiveConfig(blank_infilling=preset)
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mask_ratio", 1.5), ("decoder_noise", -0.1), ("mask_share", -1.0), ("mask_windows", 0), ("mask_fill", 1.0),
        ("span_mean", 0.0), ("span_longest", 0), ("positions", "glm-130b"), ("document_rule", "glm-10b"),
        ("mip_positions", "adaptive"),
    ],
)  # fmt: skip
def test_a_wrong_number_is_named(field: str, value: float | str) -> None:
    with pytest.raises(ValueError, match=field if field != "mask_share" else "shares"):
        BlankInfillingConfig(**{field: value})


def test_a_wrong_kind_is_named() -> None:
    with pytest.raises(ValueError, match="fim_rate"):
        CausalConfig(fim_rate=2.0)
    with pytest.raises(ValueError, match="kind"):
        ObjectiveConfig(kind="masked")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="MTP"):
        ObjectiveConfig().check_model(mtp_layers=1)
    pairs = ObjectiveConfig(blank_infilling=GLM_10B)
    for objective in (pairs, ObjectiveConfig(), ObjectiveConfig(kind="causal", blank_infilling=GLM_10B)):
        objective.check_model(0, two_dimensional=objective is pairs)
        with pytest.raises(ValueError, match=r"position\.kind"):
            objective.check_model(0, two_dimensional=objective is not pairs)
