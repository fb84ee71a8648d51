"""A run that ends anywhere and is started again is the run that nobody disturbed, to the bit.

Kills by the system, twenty of them, are in tests/test_killed.py.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.tiny_run import EXPERTS_MODEL, PROJECT, arguments, command, environment, losses, run_config, stage
from tests.trainer.conftest import TWO_STAGES
from trainer import metrics
from trainer.__main__ import pretrain_command


def weights(run: Path) -> str:
    """Digest of the last checkpoint's weights."""
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    return last.name + hashlib.sha256((last / "model.safetensors").read_bytes()).hexdigest()


class CutShortError(Exception):
    """Stands for a crash."""


def run_crashing(argv: list[str], step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until the line of `step` is written, and crash."""
    write = metrics.JsonLines.write

    def crash(self: metrics.JsonLines, line: dict) -> None:
        write(self, line)
        if line["step"] == step and "loss" in line:
            raise CutShortError

    with monkeypatch.context() as patch:
        patch.setattr(metrics.JsonLines, "write", crash)
        with pytest.raises(CutShortError):
            pretrain_command(argv)


@pytest.mark.parametrize("crash_after", [1, 3, 4, 5, 8])
def test_a_crash_changes_no_later_loss(
    workspace: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_after: int
) -> None:
    argv = arguments(workspace, tmp_path / "run", run_config(*TWO_STAGES))
    run_crashing(argv, crash_after, monkeypatch)
    assert pretrain_command(argv) == 0
    assert losses(tmp_path / "run") == losses(finished)
    assert weights(tmp_path / "run") == weights(finished)


def test_experts_and_muon_resume(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = {"name": "muon", "muon_split_heads": True}
    config = run_config(stage(kind="causal", steps=7, optimizer=optimizer), model=EXPERTS_MODEL)
    whole, broken = (arguments(workspace, tmp_path / name, config) for name in ("whole", "broken"))
    assert pretrain_command(whole) == 0
    run_crashing(broken, 5, monkeypatch)
    assert pretrain_command(broken) == 0
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    assert weights(tmp_path / "whole") == weights(tmp_path / "broken")


@pytest.mark.parametrize("crash_after", [5, 6])
def test_a_crash_where_the_optimiser_changes(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_after: int
) -> None:
    """The checkpoint of a stage's last step is read by the next stage, whose optimiser has other state."""
    config = run_config(stage("first", 4), stage("second", 4, optimizer={"name": "muon"}))
    whole, broken = (arguments(workspace, tmp_path / name, config) for name in ("whole", "broken"))
    assert pretrain_command(whole) == 0
    run_crashing(broken, crash_after, monkeypatch)
    assert pretrain_command(broken) == 0
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    assert weights(tmp_path / "whole") == weights(tmp_path / "broken")


def test_a_finished_run_is_left_alone(workspace: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    assert pretrain_command(arguments(workspace, run, run_config(*TWO_STAGES))) == 0
    assert (run / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_a_stop_signal_saves_and_leaves(workspace: Path, finished: Path, tmp_path: Path) -> None:
    argv = arguments(workspace, tmp_path / "run", run_config(*TWO_STAGES))
    process = subprocess.Popen(
        command("trainer", "pretrain", *argv), cwd=PROJECT, env=environment(), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 2/"):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stderr.read()
    assert process.wait() == 0
    assert "stopped by SIGTERM" in rest
    assert pretrain_command(argv) == 0
    assert losses(tmp_path / "run") == losses(finished)
