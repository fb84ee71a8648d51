"""What a run writes down can be read, drawn and trusted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from objectives.example import TASKS
from tests.tiny_run import arguments, run_config, stage
from trainer.__main__ import plan_command, plot_command, pretrain_command
from trainer.config import RunConfig
from trainer.figures import WeightsBefore
from trainer.metrics import Interval, keep_until, read_metrics
from trainer.plot import series
from trainer.step import StepResult


def test_a_line_has_what_was_promised(finished: Path) -> None:
    lines = [line for line in read_metrics(finished / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 10))
    needed = {"tokens", "loss", "bits_per_byte", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "memory"}
    assert all(needed <= line.keys() for line in lines)
    assert all(set(line["bits_per_byte_by_language"]) <= {"zh", "en"} for line in lines)
    assert all((ratio > 0) == (line["learning_rate"] > 0) for line in lines for ratio in line["update_ratio"].values())
    assert all(ratio < 1 for line in lines for ratio in line["update_ratio"].values())
    assert lines[0]["update_ratio"].keys() == lines[0]["grad_norm_by_part"].keys()
    assert all(line["unmasked_tokens"] >= 0 and 0 <= line["limited_rows_share"] <= 1 for line in lines)
    assert all(line["epochs"]["zh-prose"] > 0 for line in lines)
    assert all(line["memory"] > 1 << 20 and line["bits_per_byte"] > 0 for line in lines)
    # what a step's evaluation and saving take is in the next line; a stage begins without any
    assert [line["step"] for line in lines if not line["paused_seconds"]] == [1, 6]


def test_rates_leave_out_what_evaluation_and_saving_take() -> None:
    interval = Interval(TASKS, ["zh-prose"])
    row = np.zeros(1, dtype=np.int64)
    rows = torch.ones(1, 4)
    interval.add(StepResult(rows.sum(), None, rows, task=row, source=row, unmasked=row, limited=row > 0), 1000)
    interval.began -= 10.0
    interval.paused_seconds = 8.0
    line = interval.summary()
    assert 400 < line["tokens_per_second"] <= 500
    assert line["paused_seconds"] == 8.0


def test_held_out_blanks_are_measured(finished: Path, workspace: Path, tmp_path: Path) -> None:
    lines = read_metrics(finished / "metrics.jsonl")
    found = {line["step"]: line["heldout_fill_accuracy"] for line in lines if "heldout_fill_accuracy" in line}
    assert set(found) == {0, 9}
    assert all(
        0 <= figures["tokens"] <= 1 and figures["count"] > 0 for line in found.values() for figures in line.values()
    )
    config = run_config(stage(steps=1), evaluation={"rows_per_language": 2, "fill_rows_per_language": 0})
    assert pretrain_command(arguments(workspace, tmp_path / "run", config)) == 0
    assert all("heldout_fill_accuracy" not in line for line in read_metrics(tmp_path / "run" / "metrics.jsonl"))


def test_the_update_ratio_by_hand() -> None:
    model = torch.nn.ModuleDict(
        {"norm": torch.nn.Linear(3, 2), "attn": torch.nn.Linear(2, 2), "other": torch.nn.Linear(2, 2)}
    )
    for name in ("norm", "attn"):
        for parameter in model[name].parameters():
            parameter.grad = torch.ones_like(parameter)
    before = [parameter.detach().clone() for parameter in model["norm"].parameters()]
    watch = WeightsBefore(model)
    with torch.no_grad():
        for parameter in model["norm"].parameters():
            parameter.mul_(0.9)
    ratios = watch.ratios()
    assert set(ratios) == {"norm", "attention"}, "what has no gradient is not watched"
    moved = sum(float((0.1 * value).square().sum()) for value in before) ** 0.5
    whole = sum(float(value.square().sum()) for value in before) ** 0.5
    assert float(ratios["norm"]) == pytest.approx(moved / whole)
    assert float(ratios["attention"]) == 0.0


def test_a_half_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    keep_until(path, 2)
    assert [line["step"] for line in read_metrics(path)] == [1, 2]


def test_plot_draws_runs_together(finished: Path, tmp_path: Path) -> None:
    assert plot_command([str(finished), str(finished), "--output", str(tmp_path / "curves.png")]) == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert set(series(read_metrics(finished / "metrics.jsonl"), "heldout_bits_per_byte")) == {"zh", "en"}
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
        plot_command([str(tmp_path / "none")])


def test_tensorboard_gets_the_numbers(workspace: Path, tmp_path: Path) -> None:
    config = run_config(stage(steps=2), log={"every": 1, "tensorboard": True})
    assert pretrain_command(arguments(workspace, tmp_path / "run", config)) == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    losses = [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)


def test_every_published_configuration_can_be_planned(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted((project / "configs" / "pretrain").glob("*.yaml")):
        assert plan_command(["--config", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["parameters"]["total"] > 0


def test_the_saved_configuration_is_complete(finished: Path) -> None:
    """Reading it back with nothing but YAML and the command line's parser gives the same run."""
    saved = yaml.safe_load((finished / "config.yaml").read_text(encoding="utf-8"))
    assert set(saved) == set(RunConfig.__dataclass_fields__)
    assert saved["stages"][0]["optimizer"]["beta2"] == 0.95


def test_saves_in_the_background_are_the_same(workspace: Path, finished: Path, tmp_path: Path) -> None:
    from tests.trainer.conftest import TWO_STAGES

    checkpoint = {"every": 3, "keep_last": 3, "asynchronous": True}
    config = run_config(*TWO_STAGES, checkpoint=checkpoint)
    assert pretrain_command(arguments(workspace, tmp_path / "run", config)) == 0
    for folder in sorted((finished / "checkpoints").iterdir()):
        other = tmp_path / "run" / "checkpoints" / folder.name
        assert (folder / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
