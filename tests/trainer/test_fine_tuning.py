"""A run on prompts and targets: only targets have a loss, epochs are exact, a crash changes nothing."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from inference.load import load_run
from objectives.config import ObjectiveConfig
from tests.tiny_run import EXPERTS_MODEL, arguments, losses, run_config, stage, text
from tests.trainer.test_mistakes import one_line
from tests.trainer.test_resume import run_crashing
from tokenizer.load import load_tokenizer
from trainer.__main__ import pretrain_command
from trainer.data_config import DataConfig
from trainer.loader import Loader
from trainer.metrics import read_metrics

PAIRS = 40


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of prompts and short targets."""
    rng, path = random.Random(5), tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"prompt": text(rng, "en")[:40], "target": f" answer {number}."} for number in range(PAIRS)]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return path


def without_data(argv: list[str]) -> list[str]:
    place = argv.index("--data")
    return argv[:place] + argv[place + 2 :]


def fine_tuning(workspace: Path, run: Path, pairs: Path, steps: int = 6, **data: object) -> list[str]:
    one = stage("tune", steps, "causal", data={"window": 64, "pair_files": [str(pairs)], **data})
    return without_data(arguments(workspace, run, run_config(one, model={**EXPERTS_MODEL, "mtp": {"depth": 0}})))


def test_a_crash_changes_no_later_loss(
    workspace: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain_command(fine_tuning(workspace, tmp_path / "whole", pairs)) == 0
    said = capsys.readouterr().err
    assert f"data.pair_files: {PAIRS} pairs in" in said
    assert "0 with a prompt cut to fit, 0 set aside" in said
    broken = fine_tuning(workspace, tmp_path / "broken", pairs)
    run_crashing(broken, 5, monkeypatch)
    assert pretrain_command(broken) == 0
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    lines = [line for line in read_metrics(tmp_path / "whole" / "metrics.jsonl") if "loss" in line]
    assert all(set(line["loss_by_task"]) == {"pair"} for line in lines)
    rows = np.array([line["epochs"]["pairs"] for line in lines]) / lines[0]["epochs"]["pairs"]
    assert rows.tolist() == pytest.approx([1, 2, 3, 4, 5, 6])


def test_the_loss_is_of_targets_alone(workspace: Path, pairs: Path, tmp_path: Path) -> None:
    """The first step's loss is what the initial weights give each pair by itself, over its target and end."""
    run = tmp_path / "run"
    assert pretrain_command(fine_tuning(workspace, run, pairs, steps=1)) == 0
    tokenizer = load_tokenizer(run / "tokenizer")
    loaded = load_run(run)
    from model.build import build_model

    model = build_model(loaded.model.config, "cpu", 7).eval()
    window = DataConfig(window=64, pair_files=[str(pairs)])
    loader = Loader(run, window, ObjectiveConfig(kind="causal"), tokenizer.special, 7, tokenizer=tokenizer)
    read = loader.batch(0, 4).tokens  # the step's rows say which pairs it read
    nats, count = 0.0, 0
    for line in pairs.read_text().splitlines():
        if not line:
            continue
        pair = json.loads(line)
        prompt, target = tokenizer.encode(pair["prompt"]), tokenizer.encode(pair["target"])
        whole = [*prompt, *target, tokenizer.special.endoftext]
        if not any(whole[:-1] == row[i : i + len(whole) - 1].tolist() for row in read for i in range(64)):
            continue
        logits = model(torch.tensor([whole[:-1]])).logits[0].double()
        each = F.cross_entropy(logits, torch.tensor(whole[1:]), reduction="none")
        nats += float(each[len(prompt) - 1 :].sum())
        count += len(target) + 1
    assert count > 20
    assert losses(run)[1] == pytest.approx(nats / count, rel=1e-5)


def test_an_epoch_reads_every_pair_once(workspace: Path, pairs: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(workspace / "tokenizer")
    data, objective = DataConfig(window=64, pair_files=[str(pairs)]), ObjectiveConfig(kind="causal")
    loader = Loader(tmp_path, data, objective, tokenizer.special, 7, tokenizer=tokenizer)
    rows = loader.samples_in_epoch
    first, second = loader.batch(0, rows), loader.batch(rows, rows)
    for epoch in (first, second):
        assert (epoch.targets[epoch.loss_weights > 0] == tokenizer.special.endoftext).sum() == PAIRS
    assert sorted(map(bytes, first.tokens)) == sorted(map(bytes, second.tokens))
    assert [*map(bytes, first.tokens)] != [*map(bytes, second.tokens)], "the second epoch has another order"
    assert loader.epochs(rows) == {"pairs": 1.0}


def test_pairs_beside_other_text(workspace: Path, pairs: Path, tmp_path: Path) -> None:
    one = stage("tune", 2, "causal", data={"window": 64, "pair_files": [str(pairs)], "pair_share": 0.5})
    config = run_config(one, model=EXPERTS_MODEL)
    assert pretrain_command(arguments(workspace, tmp_path / "run", config)) == 0
    line = next(line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in line)
    assert set(line["loss_by_task"]) == {"causal", "pair"}


def test_the_loss_of_heldout_pairs_is_that_of_each_by_itself(workspace: Path, pairs: Path, tmp_path: Path) -> None:
    """At step 0 and at the end, over targets and ends alone; and it may be asked for in the middle of a run."""
    heldout = tmp_path / "heldout.jsonl"
    rows = [
        {"prompt": "the morning light", "target": " came through."},
        {"prompt": "清晨", "target": "阳光照进窗户。"},
        {"prompt": "he opened the book and read " * 9, "target": " a page"},  # a prompt that is cut
    ]
    heldout.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = tmp_path / "run"
    assert pretrain_command([*fine_tuning(workspace, run, pairs, steps=4), "--evaluation.every", "3"]) == 0
    lines = read_metrics(run / "metrics.jsonl")
    assert not any("heldout_pair_loss" in line for line in lines)
    shutil.rmtree(run / "checkpoints" / "step-000004")
    again = fine_tuning(workspace, run, pairs, steps=4, heldout_pair_files=[str(heldout)])
    assert pretrain_command([*again, "--evaluation.batch_rows", "1"]) == 0
    [found] = [line for line in read_metrics(run / "metrics.jsonl") if "heldout_pair_loss" in line]
    assert (found["step"], "heldout_bits_per_byte" in found) == (4, False)
    loaded = load_run(run)
    special, nats, count = loaded.tokenizer.special, 0.0, 0
    for row in rows:
        target = [*loaded.tokenizer.encode(row["target"]), special.endoftext]
        prompt = loaded.tokenizer.encode(row["prompt"])[-(64 - len(target) + 1) :]
        logits = loaded.model(torch.tensor([[*prompt, *target[:-1]]])).logits[0, len(prompt) - 1 :].double()
        nats += float(F.cross_entropy(logits, torch.tensor(target), reduction="sum"))
        count += len(target)
    assert found["heldout_pair_loss"] == pytest.approx(nats / count, rel=1e-5)


def test_heldout_pairs_of_a_model_that_fills_blanks(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its pairs have a `text`; a line of the other form ends the run before it has begun."""
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text(json.dumps({"text": "the morning light", "target": " came."}) + "\n", encoding="utf-8")
    one = stage("blanks", 1, data={"window": 64, "mip_windows": 1, "heldout_pair_files": [str(heldout)]})
    argv = arguments(workspace, tmp_path / "run", run_config(one))
    assert pretrain_command(argv) == 0
    assert "data.heldout_pair_files: 1 pairs in 1 rows" in capsys.readouterr().err
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "heldout_pair_loss" in line]
    assert [line["step"] for line in lines] == [0, 1]
    assert all("heldout_bits_per_byte" in line and 1 < line["heldout_pair_loss"] < 20 for line in lines)
    heldout.write_text(json.dumps({"prompt": "the light", "target": " came."}) + "\n", encoding="utf-8")
    message = one_line(capsys, arguments(workspace, tmp_path / "other", run_config(one)))
    assert f"{heldout}:1: expected a JSON object with the strings `text` and `target`" in message
    assert "(data.heldout_pair_files)" in message


def test_mistakes(workspace: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.jsonl"
    for line in ('{"prompt": "a"}', "not JSON", '{"prompt": "", "target": "b"}', '{"prompt": "a", "target": 3}'):
        bad.write_text(pairs.read_text() + line + "\n", encoding="utf-8")
        message = one_line(capsys, fine_tuning(workspace, tmp_path / "run", bad))
        assert f"{bad}:{PAIRS + 2}: expected a JSON object with the strings `prompt` and `target`" in message
    bad.write_text(json.dumps({"prompt": "a", "target": "long " * 200}), encoding="utf-8")
    message = one_line(capsys, fine_tuning(workspace, tmp_path / "run", bad))
    assert "data.pair_files: none of 1 pairs fits into 64 positions" in message
    mixed = fine_tuning(workspace, tmp_path / "mixed", pairs, pair_share=0.5)
    assert "--data: stage tune reads token shards" in one_line(capsys, mixed)
