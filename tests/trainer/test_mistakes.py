"""What a person or a machine does wrong is answered by one line, and the last good checkpoint stays as it was."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import trainer.saving
from command_line import run_commands
from data.token_shards import TokenShardWriter
from tests.tiny_run import MODEL, arguments, call, losses, run_config, stage
from tests.trainer.conftest import TWO_STAGES
from trainer import checkpoints
from trainer.__main__ import pretrain_command
from trainer.checkpoints import last_whole, list_checkpoints, verify
from trainer.distributed_state import load_tensors, save_tensors


def one_line(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """Run `pretrain` as its command line does; it must fail with a single line that begins with `error: `."""
    capsys.readouterr()
    code = run_commands("python -m trainer", {"pretrain": (pretrain_command, "")}, ["pretrain", *argv])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == 1
    assert len(errors) == 1
    return errors[0]


def digests(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run without its last checkpoint: it has steps to do."""
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(list_checkpoints(tmp_path / "run")[-1])
    return tmp_path / "run"


def test_another_configuration_names_the_key(workspace: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = run_config(TWO_STAGES[0], {**TWO_STAGES[1], "z_loss": 0.5})
    message = one_line(capsys, arguments(workspace, run, changed))
    assert "stages[1].z_loss: the run has 0.0, this command asks for 0.5" in message
    other = run_config(*TWO_STAGES, model={**MODEL, "hidden_size": 64})
    assert "model.hidden_size: the run has 32" in one_line(capsys, arguments(workspace, run, other))
    message = one_line(capsys, arguments(workspace, run, run_config(TWO_STAGES[0])))
    assert message.endswith(
        "stages: the run has 2 of them, this command asks for 1; use the run's value or another --run folder"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stages[0].optimizer.weight_decay", -0.1),
        ("stages[0].optimizer.epsilon", 0.0),
        ("stages[0].optimizer.muon_update_rms", -0.2),
        ("stages[0].data.weights", {"zh-prose": float("nan")}),
        ("stages[0].data.weights", {"zh-prose": float("inf")}),
        ("stability.skip_rows", -4),
        ("stability.most_rollbacks", -1),
    ],
)
def test_numbers_that_mean_nothing(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: object
) -> None:
    config = run_config()
    path = key.replace("[0]", ".0").split(".")
    node: Any = config
    for name in path[:-1]:
        node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
    node[path[-1]] = value
    with pytest.raises(SystemExit):
        pretrain_command(arguments(workspace, tmp_path / "run", config))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert path[-1] in said


def test_positions_that_the_model_does_not_take(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = stage(objective={"kind": "blank_infilling", "blank_infilling": {"positions": "glm", "mask_windows": 1}})
    message = one_line(capsys, arguments(workspace, tmp_path / "run", run_config(pairs)))
    assert "the objective gives pairs of positions and the model's position.kind wants the other" in message


def test_a_checkpoint_of_another_model(workspace: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights of another shape, sealed as if they belonged there."""
    from safetensors.torch import load_file, save_file

    last = list_checkpoints(run)[-1]
    tensors = load_file(last / "model.safetensors")
    name = next(name for name in tensors if name.endswith("o_proj.weight"))
    tensors[name] = torch.zeros(8, 8)
    save_file(tensors, last / "model.safetensors")
    checkpoints.seal(last)
    message = one_line(capsys, arguments(workspace, run, run_config(*TWO_STAGES)))
    assert name in message
    assert "(8, 8)" in message


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer/__0_0.distcp", "digests.json"])
def test_a_damaged_checkpoint_is_passed_over(
    workspace: Path, finished: Path, run: Path, capsys: pytest.CaptureFixture[str], damage: Callable, file: str
) -> None:
    last = list_checkpoints(run)[-1]
    damage(last / file)
    if file == "digests.json" and damage is flip and last_whole(run, print) == last:
        pytest.skip("the flipped bit left the digests as they were")
    capsys.readouterr()
    assert pretrain_command(arguments(workspace, run, run_config(*TWO_STAGES))) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert len(warnings) == 1
    assert str(last) in warnings[0]
    assert "damaged" in warnings[0]
    assert losses(run) == losses(finished)


def test_nothing_but_damaged_checkpoints(workspace: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in list_checkpoints(run):
        truncate(folder / "model.safetensors")
    assert "damaged" in one_line(capsys, arguments(workspace, run, run_config(*TWO_STAGES)))


def test_a_tokenizer_that_is_not_the_datas(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(workspace / "tokenize", tmp_path / "work" / "tokenize")
    shutil.copytree(workspace / "tokenizer", tmp_path / "work" / "tokenizer")
    record = tmp_path / "work" / "tokenize" / "stage.json"
    record.write_text(json.dumps({"tokenizer_digest": "0123456789abcdef"}))
    message = one_line(capsys, arguments(tmp_path / "work", tmp_path / "run", run_config()))
    assert "another tokenizer" in message
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_data_that_is_missing_or_ends(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No shards at all is an error; few documents are read again, epoch after epoch."""
    work = tmp_path / "work"
    shutil.copytree(workspace, work)
    shutil.rmtree(work / "tokenize" / "train" / "zh-prose")
    shutil.rmtree(work / "tokenize" / "train" / "en-prose")
    assert "token shard" in one_line(capsys, arguments(work, tmp_path / "none", run_config()))
    with TokenShardWriter(work / "tokenize" / "train" / "zh-prose" / "00000", 384) as writer:
        for _ in range(6):
            writer.add([40, 41, 42, 43, 44, 45, 46, 47])
    assert pretrain_command(arguments(work, tmp_path / "few", run_config(stage(steps=3)))) == 0


def test_data_that_is_not_what_the_run_began_with(
    workspace: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fewer or other documents would make other samples; nothing is trained on them."""
    work, before = tmp_path / "work", digests(run)
    shutil.copytree(workspace, work)
    with TokenShardWriter(work / "tokenize" / "train" / "zh-prose" / "00001", 384) as writer:
        writer.add([40, 41, 42, 43])
    message = one_line(capsys, arguments(work, run, run_config(*TWO_STAGES)))
    assert "zh-prose: the run began with 1 shards, 120 documents" in message
    assert "now there are 2 shards, 121 documents" in message
    shutil.rmtree(work / "tokenize" / "train" / "zh-prose")
    assert "now there are none" in one_line(capsys, arguments(work, run, run_config(*TWO_STAGES)))
    after = digests(run)
    assert {name: after[name] for name in before if not name.endswith(".yaml")} == {
        name: digest for name, digest in before.items() if not name.endswith(".yaml")
    }


@pytest.mark.parametrize("file", ["config.yaml", "data.json"])
@pytest.mark.parametrize("content", ["", "seed: 7\n: [", "[]"])
def test_a_damaged_record_of_how_a_run_began(
    workspace: Path, run: Path, capsys: pytest.CaptureFixture[str], file: str, content: str
) -> None:
    (run / file).write_text(content, encoding="utf-8")
    assert f"{run / file}: damaged" in one_line(capsys, arguments(workspace, run, run_config(*TWO_STAGES)))


def test_a_disk_that_fills_during_a_save(
    workspace: Path, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(run / "checkpoints")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer.saving.checkpoints, "seal", full)
    message = one_line(capsys, arguments(workspace, run, run_config(*TWO_STAGES)))
    assert "the disk is full" in message
    assert "is whole" in message
    assert digests(run / "checkpoints") == before


@pytest.mark.parametrize("kilobytes", [100, 300])
def test_a_disk_that_is_really_full(
    workspace: Path, run: Path, capsys: pytest.CaptureFixture[str], kilobytes: int
) -> None:
    """A small file system that the weights (100 kB) or the optimiser's state (300 kB) do not fit on."""
    used = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    small = run.with_name("small")
    small.mkdir()
    size = f"size={used // 1024 + 60 + kilobytes}k"
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", small], capture_output=True, check=False
    ).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        shutil.copytree(run, small / "run")
        before = digests(small / "run" / "checkpoints")
        message = one_line(capsys, arguments(workspace, small / "run", run_config(*TWO_STAGES)))
        assert "the disk is full" in message
        assert digests(small / "run" / "checkpoints") == before
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("mistake", ["configuration", "package", "save"])
def test_a_mistake_that_one_process_finds_is_a_line_of_all(workspace: Path, run: Path, mistake: str) -> None:
    """What only the first process looks at: the others say the same, rather than that their connection broke."""
    config = run_config(*TWO_STAGES)
    if mistake == "configuration":
        config["seed"] = 8
    elif mistake == "package":
        config["log"]["wandb_project"] = "none"
    else:
        checkpoints.partial_folder(run, 9).write_text("a file where a folder should be")
    done = call("trainer", "pretrain", *arguments(workspace, run, config), processes=2)
    assert done.returncode != 0
    expected = {"configuration": "seed: the run has 7", "package": "wandb is not installed", "save": "File exists"}
    assert any(line.startswith("error:") and expected[mistake] in line for line in done.stderr.splitlines())
    assert "RuntimeError" not in done.stderr, done.stderr[-3000:]


def test_a_malicious_checkpoint_is_not_executed(tmp_path: Path) -> None:
    """DCP's metadata is a pickle: one that calls a function is refused before it does."""
    folder, marker = tmp_path / "optimizer", tmp_path / "executed"
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, 3)}
    save_tensors(tensors, folder)
    read = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    load_tensors(read, folder)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)

    class Attack:
        def __reduce__(self) -> tuple:
            return (os.system, (f"touch {marker}",))

    (folder / ".metadata").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(ValueError, match="system, which no checkpoint needs"):
        load_tensors(read, folder)
    assert not marker.exists()
    pickle.loads((folder / ".metadata").read_bytes())
    assert marker.exists(), "the attack would not have worked anyway"


def test_an_entry_that_is_no_tensor_is_not_read(tmp_path: Path) -> None:
    """DCP would unpickle such an entry without restriction."""
    import torch.distributed.checkpoint as dcp

    dcp.save({"a": {"not": "a tensor"}}, checkpoint_id=tmp_path, no_dist=True)
    with pytest.raises(ValueError, match="BytesStorageMetadata, which no checkpoint needs"):
        load_tensors({"a": torch.zeros(1)}, tmp_path)


def test_an_unfinished_save_is_never_taken_for_a_checkpoint(run: Path) -> None:
    found = list_checkpoints(run)
    partial = checkpoints.partial_folder(run, 999)
    shutil.copytree(found[-1], partial)
    assert list_checkpoints(run) == found
    checkpoints.sweep(run)
    assert not partial.exists()
    for folder in found:
        verify(folder)
