"""Recomputed layers give the same losses, gradients and counts to the bit; compiled ones the same but for rounding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from model.build import build_model
from model.config import ModelConfig
from model.experts import expert_counts
from model.indexer import indexer_losses
from tests.tiny_run import EXPERTS_MODEL, MODEL, arguments, call, losses, run_config, stage
from tests.trainer.test_resume import weights
from tests.trainer.test_sparse_stages import INDEXED, three_stages
from trainer import rates
from trainer.__main__ import pretrain_command
from trainer.blocks import wrap_blocks
from trainer.config import DeviceConfig
from trainer.devices import World

RECOMPUTED = {"device": "cpu", "threads": 1, "recompute": "layer"}


def passes(values: dict, mode: str, recompute: str) -> dict[str, torch.Tensor]:
    """Losses, gradients and counts of one forward and backward pass, with dropout where the model has it."""
    model = build_model(ModelConfig.from_dict({**values, "vocab_size": 128}), "cpu", 3)
    wrap_blocks([*model.layers, *model.mtp], DeviceConfig(recompute=recompute))
    model.set_sparse_attention(mode)
    model.train()
    tokens = torch.randint(0, 128, (2, 48), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    output = model(tokens, targets=tokens.roll(-1, 1))
    total = output.losses.mean() + sum(losses.mean() for losses, _ in output.mtp_losses)
    total.backward()
    found = {"loss": output.losses.detach()}
    found |= {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    if "experts" in values:
        found["counts"] = expert_counts(model)
    if mode != "off":
        found["divergences"] = indexer_losses(model)
    return found


@pytest.mark.parametrize(
    ("values", "mode"),
    [(MODEL, "off"), (EXPERTS_MODEL, "off"), (INDEXED, "warmup"), (INDEXED, "sparse")],
    ids=["dropout", "experts and MTP", "warm-up", "sparse"],
)
def test_recomputed_layers_are_the_same_to_the_bit(values: dict, mode: str) -> None:
    plain, again = (passes(values, mode, recompute) for recompute in ("none", "layer"))
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_recomputed_layers_keep_less() -> None:
    """Tensors saved for the backward pass: those of one layer at a time, not of all."""

    def saved(recompute: str) -> int:
        sizes: list[int] = []
        model = build_model(ModelConfig.from_dict({**MODEL, "num_layers": 8, "vocab_size": 128}), "cpu", 3)
        wrap_blocks(model.layers, DeviceConfig(recompute=recompute))
        parameters = {parameter.data_ptr() for parameter in model.parameters()}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in parameters:
                sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(torch.zeros(2, 48, dtype=torch.long), targets=torch.ones(2, 48, dtype=torch.long))
        return sum(sizes)

    assert saved("layer") < saved("none") / 4


def test_hfu_counts_what_is_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "peak_flops", lambda _: 1e12)
    model = ModelConfig.from_dict({**MODEL, "vocab_size": 128})
    found = {}
    for recompute in ("none", "layer"):
        config = SimpleNamespace(model=model, devices=DeviceConfig(recompute=recompute))
        one = SimpleNamespace(data=SimpleNamespace(window=64), sparse_attention="off")
        found[recompute] = rates.model_flops_utilization(
            config, one, {"tokens_per_second": 1e3}, torch.device("cpu"), World()
        )
    assert found["none"][0] == found["none"][1] == found["layer"][0] < found["layer"][1]


def test_a_run_may_go_on_with_recomputation(workspace: Path, finished: Path, tmp_path: Path) -> None:
    """It changes no bit, so a run that had none may have it, and the names of a checkpoint stay."""
    from tests.trainer.conftest import TWO_STAGES
    from trainer.checkpoints import list_checkpoints

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for later in list_checkpoints(run)[1:]:
        shutil.rmtree(later)
    config = run_config(*TWO_STAGES, devices=RECOMPUTED)
    assert pretrain_command(arguments(workspace, run, config)) == 0
    assert losses(run) == losses(finished)
    assert weights(run) == weights(finished)


@pytest.mark.slow
def test_recomputation_under_sharding(workspace: Path, tmp_path: Path) -> None:
    """Two processes, three stages with experts, MTP and indexers: the losses of the run without recomputation."""
    plain, again = three_stages(), three_stages(devices=RECOMPUTED)
    for name, config in (("plain", plain), ("again", again)):
        done = call("trainer", "pretrain", *arguments(workspace, tmp_path / name, config), processes=2)
        assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "plain") == losses(tmp_path / "again")


def test_compiled_and_recomputed_is_refused() -> None:
    with pytest.raises(ValueError, match="compile, recompute: a layer has one or the other"):
        DeviceConfig(compile=True, recompute="layer")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_compiled_layers(workspace: Path, tmp_path: Path, processes: int) -> None:
    model = {**EXPERTS_MODEL, "mtp": {"depth": 1}}
    one = stage(steps=4, kind="causal")
    compiled = {"device": "cpu", "threads": 1, "compile": True}
    plain = arguments(workspace, tmp_path / "plain", run_config(one, model=model))
    fast = arguments(workspace, tmp_path / "fast", run_config(one, model=model, devices=compiled))
    assert pretrain_command(plain) == 0
    done = call("trainer", "pretrain", *fast, processes=processes, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = losses(tmp_path / "plain"), losses(tmp_path / "fast")
    assert all(abs(found[step] - loss) < 1e-4 for step, loss in expected.items()), json.dumps([expected, found])
    from safetensors.torch import load_file

    names = [
        set(load_file(next((tmp_path / run / "checkpoints").glob("step-*4")) / "model.safetensors"))
        for run in ("plain", "fast")
    ]
    assert names[0] == names[1]
