"""The curves that `python -m trainer plot` draws."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import run_commands
from trainer.__main__ import plot_command
from trainer.metrics import read_metrics
from trainer.plot import series


def test_a_figure_of_parts_is_a_curve_for_each() -> None:
    lines = [
        {"step": 1, "tokens": 10, "loss": 3.0, "loss_by_task": {"mask": 4.0, "document": 2.0}},
        {"step": 1, "tokens": 10, "heldout_bits_per_byte": {"zh": 1.5}},
        {"step": 2, "tokens": 20, "loss": 2.0, "loss_by_task": {"document": 1.0, "mask": None}},
    ]
    assert series(lines, "loss") == {"": ([10.0, 20.0], [3.0, 2.0])}
    assert series(lines, "loss_by_task") == {"mask": ([10.0], [4.0]), "document": ([10.0, 20.0], [2.0, 1.0])}
    assert series(lines, "heldout_bits_per_byte") == {"zh": ([10.0], [1.5])}


def test_runs_are_drawn_together(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot_command([str(finished), str(finished), "--output", str(tmp_path / "curves.svg")]) == 0
    assert (tmp_path / "curves.svg").read_text(encoding="utf-8").startswith("<?xml")
    drawn = series(read_metrics(finished / "metrics.jsonl"), "loss_by_task")
    assert drawn.keys() >= {"mask", "document"}
    assert run_commands("python -m trainer", {"plot": (plot_command, "")}, ["plot", str(tmp_path)]) == 1
    assert "metrics.jsonl: no such file" in capsys.readouterr().err
