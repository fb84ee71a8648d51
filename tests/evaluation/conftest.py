"""Two small trained runs for the tests of evaluation: one that fills blanks, one causal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_run import EXPERTS_MODEL, arguments, build_workspace, run_config, stage
from trainer.__main__ import pretrain_command


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token shards and their tokenizer."""
    return build_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="session")
def blanks_run(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a blank-infilling model."""
    run = tmp_path_factory.mktemp("blanks") / "run"
    assert pretrain_command(arguments(workspace, run, run_config(stage(steps=30)))) == 0
    return run


@pytest.fixture(scope="session")
def causal_run(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a causal model with experts."""
    run = tmp_path_factory.mktemp("causal") / "run"
    config = run_config(stage(steps=30, kind="causal"), model=EXPERTS_MODEL)
    assert pretrain_command(arguments(workspace, run, config)) == 0
    return run
