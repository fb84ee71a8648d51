"""Dense training, the indexers' warm-up and sparse training are one run, and a crash at a hand-over changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inference.load import load_run
from tests.tiny_run import EXPERTS_MODEL, arguments, call, losses, run_config, stage
from tests.trainer.test_mistakes import one_line
from tests.trainer.test_parallel import gradients, looped
from tests.trainer.test_resume import run_crashing, weights
from trainer.__main__ import pretrain_command
from trainer.checkpoints import list_checkpoints
from trainer.metrics import read_metrics

INDEXED = {
    **EXPERTS_MODEL,
    "attention": {**EXPERTS_MODEL["attention"], "indexer": {"num_heads": 2, "head_dim": 16, "top_k": 8}},
    "mtp": {"depth": 1},
}
STEPS = 3


def three_stages(**changes: object) -> dict:
    return run_config(
        stage("dense", STEPS, "causal"),
        stage("warmup", STEPS, "causal", sparse_attention="warmup", schedule={"peak": 5e-3, "end": 2e-4}),
        stage("sparse", STEPS, "causal", sparse_attention="sparse", schedule={"peak": 1e-3, "shape": "constant"}),
        model=INDEXED,
        checkpoint={"every": 100, "keep_last": 9},
        **changes,
    )


@pytest.fixture(scope="module")
def whole(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run through the three stages that nothing disturbed."""
    run = tmp_path_factory.mktemp("sparse") / "run"
    assert pretrain_command(arguments(workspace, run, three_stages())) == 0
    return run


def changed(before: Path, after: Path) -> set[str]:
    """The tensors that differ between two checkpoints."""
    one, other = (load_file(folder / "model.safetensors") for folder in (before, after))
    return {name for name in one if not torch.equal(one[name], other[name])}


def test_each_stage_trains_what_it_should(whole: Path) -> None:
    dense, warm, sparse = list_checkpoints(whole)
    names = set(load_file(dense / "model.safetensors"))
    indexers = {name for name in names if ".indexer." in name}
    assert changed(dense, warm) == indexers, "the warm-up moves indexers, all of them, and nothing else"
    assert changed(warm, sparse) == names
    lines = [line for line in read_metrics(whole / "metrics.jsonl") if "loss" in line]
    assert [("indexer_kl" in line) for line in lines] == [False] * STEPS + [True] * 2 * STEPS
    divergences = [line["indexer_kl"] for line in lines[STEPS : 2 * STEPS]]
    assert 0 < divergences[-1] < divergences[0], "the indexers learn"
    assert all(set(line["grad_norm_by_part"]) == {"indexer"} for line in lines[STEPS : 2 * STEPS])


def test_a_checkpoint_is_read_in_its_own_mode(whole: Path) -> None:
    modes = [load_run(whole, step).model.sparse_mode for step in (STEPS, 2 * STEPS, 3 * STEPS)]
    assert modes == ["off", "warmup", "sparse"]
    model, tokens = load_run(whole).model, torch.arange(40)[None]
    with torch.no_grad():
        sparse = model(tokens).logits
        model.set_sparse_attention("off")
        assert not torch.allclose(sparse, model(tokens).logits, atol=1e-5), "more keys than top-k, and no difference"


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "crash_after",
    [pytest.param(STEPS, marks=SLOW), STEPS + 1, pytest.param(2 * STEPS, marks=SLOW), 2 * STEPS + 1],
)
def test_a_crash_at_a_hand_over_changes_no_later_loss(
    workspace: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_after: int
) -> None:
    """The line of a stage's last step is written before its checkpoint, and that of the next step after it."""
    argv = arguments(workspace, tmp_path / "run", three_stages())
    run_crashing(argv, crash_after, monkeypatch)
    assert pretrain_command(argv) == 0
    assert losses(tmp_path / "run") == losses(whole)
    assert weights(tmp_path / "run") == weights(whole)


@pytest.mark.slow
def test_going_on_from_every_checkpoint(workspace: Path, whole: Path, tmp_path: Path) -> None:
    """Resumed exactly at each hand-over, from the checkpoint that stands there."""
    for kept in (1, 2):
        run = tmp_path / f"kept-{kept}"
        shutil.copytree(whole, run)
        for later in list_checkpoints(run)[kept:]:
            shutil.rmtree(later)
        assert pretrain_command(arguments(workspace, run, three_stages())) == 0
        assert losses(run) == losses(whole)
        assert weights(run) == weights(whole)


@pytest.mark.parametrize("mode", ["warmup", "sparse"])
def test_two_processes_have_the_gradients_of_one(workspace: Path, tmp_path: Path, mode: str) -> None:
    """Five rows: the second process joins the last pass without a row of its own."""
    model = json.dumps(looped(INDEXED, "float64"))
    one, two = (gradients(workspace, tmp_path, n, "causal", "float64", 5, model, mode) for n in (1, 2))
    assert one.keys() == two.keys()
    found = {name for name, value in one.items() if value.abs().max() > 0}
    indexers = {name for name in one if ".indexer." in name}
    assert indexers <= found
    if mode == "warmup":
        assert found - {"counts", "loss"} == indexers, "only indexers have a gradient in the warm-up"
    for name in one:
        scale = one[name].abs().max().clamp(min=1e-12)
        # The indexer computes in float32 whatever the precision of the rest.
        assert (one[name] - two[name]).abs().max() <= 1e-6 * scale, name


@pytest.mark.slow
def test_two_processes_train_through_all_stages(workspace: Path, whole: Path, tmp_path: Path) -> None:
    """FSDP2 freezes and thaws parameters between stages."""
    done = call("trainer", "pretrain", *arguments(workspace, tmp_path / "run", three_stages()), processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = losses(whole), losses(tmp_path / "run")
    assert all(abs(found[step] - loss) < 1e-4 for step, loss in expected.items())
    dense, warm, sparse = list_checkpoints(tmp_path / "run")
    assert all(".indexer." in name for name in changed(dense, warm))
    assert len(changed(warm, sparse)) > len(changed(dense, warm))


def test_a_model_without_indexers(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run_config(stage("warm", 2, "causal", sparse_attention="warmup"), model=EXPERTS_MODEL)
    with pytest.raises(SystemExit):
        one_line(capsys, arguments(workspace, tmp_path / "run", config))
    assert "stage warm: sparse_attention warmup needs model.attention.indexer" in capsys.readouterr().err
