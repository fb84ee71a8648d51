"""One workspace and one undisturbed run for all tests of the trainer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_run import arguments, build_workspace, run_config, stage
from trainer.__main__ import pretrain_command

TWO_STAGES = (stage("first", 5), stage("second", 4, data={"window": 128}, rope_base=20000.0))


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token shards and their tokenizer."""
    return build_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="session")
def finished(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages that nothing disturbed."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert pretrain_command(arguments(workspace, run, run_config(*TWO_STAGES))) == 0
    return run
