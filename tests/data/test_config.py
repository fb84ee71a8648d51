"""A configuration that cannot be used is answered by one line: the file, the key, what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from command_line import run_commands
from data.__main__ import COMMANDS
from data.config import CorpusConfig
from data.records import plain


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command ends with."""
    try:
        code = run_commands("python -m data", COMMANDS, list(words))
    except SystemExit as ended:
        code = int(str(ended.code))
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert code != 0
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mix: {zh_shere: 0.5}", ["mix.zh_shere", "zh_share"]),
        ("mix: {zh_share: many}", ["mix.zh_share"]),
        ("mix: {zh_share: 1.5}", ["zh_share", "[0, 1]"]),
        ("mix: {balance: sideways}", ["mix.balance", "repeat"]),
        ("sources: [{paht: a.jsonl}]", ["sources[0].paht", "path"]),
        ("sources: [{path: a.jsonl, kind: poem}]", ["sources[0]", "prose"]),
        ("sources: [{path: a.jsonl, weight: 2}]", ["a.jsonl", "name"]),
        ("soucres: []", ["soucres", "sources"]),
        ("ingest: {shard_mb: 0}", ["shard_mb", "more than 0"]),
        ("engine: {slurm: {partitoin: x}}", ["engine.slurm.partitoin", "partition"]),
        ("filter: {preset: wob}", ["filter.preset", "web"]),
        ("filter: {thresholds: {fr: {words: {min: 1}}}}", ["filter.thresholds.fr", "mixed"]),
        ("filter: {thresholds: {zh: {wordz: {min: 1}}}}", ["thresholds.zh", "wordz", "words"]),
        ("filter: {thresholds: {zh: {words: {mx: 1}}}}", ["filter.thresholds.zh", "mx"]),
        ("filter: {thresholds: {zh: {words: {max: many}}}}", ["filter.thresholds.zh.max", "many"]),
        ("mix: [1", ["not YAML"]),
    ],
)
def test_mistake_is_answered_by_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: list[str]
) -> None:
    path = tmp_path / "corpus.yaml"
    path.write_text(text)
    line = error_of(capsys, "run", "--config", str(path), "--workspace", str(tmp_path / "w"))
    for word in [str(path), *told]:
        assert word in line


def test_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "run", "--config", str(tmp_path / "no.yaml"), "--workspace", str(tmp_path / "w"))
    assert "no.yaml" in line


def test_input_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "run", "--workspace", str(tmp_path / "w"), "--input", str(tmp_path / "absent"))
    assert "absent" in line


def test_tokenize_without_tokenizer_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--tokenizer" in error_of(capsys, "tokenize", "--workspace", str(tmp_path / "w"))


def test_unknown_stage_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "deduplikate" in error_of(capsys, "deduplikate")


@pytest.mark.parametrize("name", ["web", "demo"])
def test_configurations_of_the_project_are_read(project: Path, tmp_path: Path, name: str) -> None:
    from data.__main__ import _parser

    words = ["--config", str(project / "configs" / "corpus" / f"{name}.yaml"), "--workspace", str(tmp_path)]
    assert isinstance(_parser("run", "").read(words).config, CorpusConfig)


def test_saved_configuration_reads_back() -> None:
    saved = yaml.safe_dump(plain(CorpusConfig()), allow_unicode=True, sort_keys=False)
    assert yaml.safe_load(saved) == plain(CorpusConfig())


@pytest.mark.parametrize("preset", ["web", "fineweb", "fineweb2-zh", "none"])
def test_preset_named_in_a_file_stands_alone(tmp_path: Path, preset: str) -> None:
    """No bound of the default preset is left under the one that a file names."""
    from data.__main__ import _parser
    from data.filter import FilterConfig

    path = tmp_path / "corpus.yaml"
    path.write_text(f"filter: {{preset: {preset}}}")
    config = _parser("run", "").read(["--config", str(path), "--workspace", str(tmp_path)]).config
    assert config.filter == FilterConfig(preset=preset)  # type: ignore[arg-type]


def test_a_bound_on_the_command_line_is_laid_over_the_files_and_the_presets(tmp_path: Path) -> None:
    from data.__main__ import _parser
    from data.filter import Bound, read_preset

    path = tmp_path / "corpus.yaml"
    path.write_text("filter: {thresholds: {zh: {digit_share: {max: 0.1}}}}")
    words = ["--config", str(path), "--workspace", str(tmp_path), "--filter.thresholds.zh.words.min", "9"]
    config = _parser("run", "").read(words).config.filter
    assert config.thresholds.zh == {"digit_share": Bound(max=0.1), "words": Bound(min=9)}
    assert config.bounds.zh == read_preset("web").zh | config.thresholds.zh
