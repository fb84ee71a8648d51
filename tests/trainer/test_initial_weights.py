"""A run that begins with weights has those weights, says what it took, and refuses what is not its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.__main__ import export_command
from model.build import build_model
from tests.tiny_run import EXPERTS_MODEL, MODEL, arguments, heldout, losses, run_config, stage
from tests.trainer.test_mistakes import one_line
from tests.trainer.test_resume import run_crashing
from trainer.__main__ import pretrain_command
from trainer.checkpoints import list_checkpoints
from trainer.initial_weights import load_initial
from trainer.metrics import read_metrics


def begin(workspace: Path, run: Path, source: Path, model: dict | None = None, steps: int = 4) -> list[str]:
    """The arguments of a new run, of another seed, that begins with the weights of `source`."""
    kind = "causal" if model is EXPERTS_MODEL else "blank_infilling"
    one = stage(steps=steps, kind=kind, data={"window": 128}, rope_base=20000.0)
    config = run_config(one, model=model, seed=99)
    return arguments(workspace, run, config, "--init-from", str(source))


def first_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "step-000000" / "model.safetensors")


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(list_checkpoints(run)[-1] / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_begins_with_anothers_last_weights(workspace: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = begin(workspace, run, finished, steps=2)
    assert pretrain_command(argv) == 0
    assert same(first_weights(run), last_weights(finished))
    assert heldout(run)[0] == heldout(finished)[9], "the same weights on the same held-out rows"
    assert not same(first_weights(run), last_weights(run)), "it was not trained"
    # One checkpoint can be named too.
    named = list_checkpoints(finished)[0]
    assert pretrain_command(begin(workspace, tmp_path / "named", named, steps=1)) == 0
    assert same(first_weights(tmp_path / "named"), load_file(named / "model.safetensors"))


def test_going_on_needs_the_source_no_more(
    workspace: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    shutil.copytree(finished, source)
    assert pretrain_command(begin(workspace, tmp_path / "whole", source)) == 0
    argv = begin(workspace, tmp_path / "broken", source)
    run_crashing(argv, 2, monkeypatch)
    shutil.rmtree(source)
    assert pretrain_command(argv[:-2]) == 0
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    lines = read_metrics(tmp_path / "broken" / "metrics.jsonl")
    assert [line["step"] for line in lines].count(0) == 1, "step 0 was measured once more and stands twice"
    assert same(last_weights(tmp_path / "broken"), last_weights(tmp_path / "whole"))


@pytest.mark.parametrize("model", [MODEL, EXPERTS_MODEL], ids=["glm130b", "glm5"])
def test_a_hugging_face_folder(workspace: Path, tmp_path: Path, model: dict) -> None:
    kind = "causal" if model is EXPERTS_MODEL else "blank_infilling"
    source, folder, run = tmp_path / "source", tmp_path / "exported", tmp_path / "run"
    assert pretrain_command(arguments(workspace, source, run_config(stage(steps=2, kind=kind), model=model))) == 0
    assert export_command(["--run", str(source), "--output", str(folder)]) == 0
    assert pretrain_command(begin(workspace, run, folder, model, steps=1)) == 0
    assert same(first_weights(run), last_weights(source))


def test_what_a_source_lacks_is_fresh(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MTP's layers may be added; anything else that is missing is an error."""
    plain = {**EXPERTS_MODEL, "mtp": {"depth": 0}}
    source, run = tmp_path / "source", tmp_path / "run"
    config = run_config(stage(steps=1, kind="causal"), model=plain)
    assert pretrain_command(arguments(workspace, source, config)) == 0
    capsys.readouterr()
    assert pretrain_command(begin(workspace, run, source, EXPERTS_MODEL, steps=1)) == 0
    assert "tensors that it lacks are fresh" in capsys.readouterr().err
    taken, given = first_weights(run), last_weights(source)
    assert same({name: taken[name] for name in given}, given)
    assert all(name.startswith("mtp.") for name in taken.keys() - given.keys())


def test_another_rope_base_is_said(
    workspace: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments(workspace, tmp_path / "run", run_config(stage(steps=1)), "--init-from", str(finished))
    assert pretrain_command(argv) == 0
    assert "RoPE's base is 10000 here, it was trained with 20000" in capsys.readouterr().err


def test_a_damaged_checkpoint_of_the_source_is_passed_over_aloud(
    workspace: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(finished, source)
    *_, before, last = list_checkpoints(source)
    (last / "model.safetensors").write_bytes(b"cut short")
    assert pretrain_command(begin(workspace, tmp_path / "run", source, steps=1)) == 0
    said = capsys.readouterr().err
    assert f"{last / 'model.safetensors'}: damaged" in said
    assert f"weights from {before}" in said
    assert same(first_weights(tmp_path / "run"), load_file(before / "model.safetensors"))


def test_what_is_refused(workspace: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wider = {**MODEL, "hidden_size": 64}
    message = one_line(capsys, begin(workspace, tmp_path / "wider", finished, wider))
    assert "model.hidden_size is 32 there and 64 here" in message
    assert not (tmp_path / "wider").exists(), "a refused beginning leaves no folder behind"
    assert "no weights to begin with" in one_line(capsys, begin(workspace, tmp_path / "a", tmp_path / "nowhere"))
    source = tmp_path / "source"
    shutil.copytree(finished, source)
    definition = source / "tokenizer" / "tokenizer.json"
    content = json.loads(definition.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    one, other = list(vocabulary)[:2]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    definition.write_text(json.dumps(content), encoding="utf-8")
    assert "tokenizer is not" in one_line(capsys, begin(workspace, tmp_path / "b", source))
    shutil.rmtree(source)
    exported = tmp_path / "exported"
    assert export_command(["--run", str(finished), "--output", str(exported)]) == 0
    tensors = load_file(exported / "model.safetensors")
    tensors.pop("norm.weight")
    save_file(tensors, exported / "model.safetensors")
    assert "misses norm.weight" in one_line(capsys, begin(workspace, tmp_path / "c", exported))


def test_another_source_than_the_runs(
    workspace: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert pretrain_command(begin(workspace, run, finished, steps=1)) == 0
    other = list_checkpoints(finished)[0]
    assert "init_from: the run has" in one_line(capsys, begin(workspace, run, other, steps=1))


def test_released_files_of_glm130b(tmp_path: Path) -> None:
    from tests.model.test_weights import CONFIG, equal, randomised, sat_checkpoint, written_ranks

    model, said = randomised(), []
    written_ranks(sat_checkpoint(model, 2), tmp_path)
    fresh = build_model(CONFIG, seed=4)
    config = SimpleNamespace(init_from=str(tmp_path), model=CONFIG, stages=[SimpleNamespace(rope_base=None)])
    load_initial(fresh, config, tmp_path, said.append)
    assert equal(fresh, model)
    assert said == [f"weights from {tmp_path}"]
