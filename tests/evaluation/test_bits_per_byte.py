"""Bits per byte beside a count by hand, and the command line's three models side by side."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from command_line import run_commands
from data.token_shards import documents_of
from evaluation.__main__ import bits_per_byte_command, fill_accuracy_command, tokens_of
from evaluation.bits_per_byte import bits_per_byte, build_heldout_set, scored_bytes, token_nats
from evaluation.fill_accuracy import blank_rows, score_blanks
from evaluation.unigram import unigram_bits_per_byte
from inference.load import load_run, load_untrained
from model.transformer import ModelOutput
from tests.tiny_run import heldout

CPU = torch.device("cpu")


def heldout_set(run, data: Path, rows: int | None = None):
    return build_heldout_set(
        documents_of(data / "validation"), run.objective, run.window, run.tokenizer.special,
        run.tokenizer.byte_lengths, rows_per_language=rows,
    )  # fmt: skip


class Uniform(torch.nn.Module):
    """Gives every one of `size` tokens the same probability."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, targets: torch.Tensor, **_: torch.Tensor) -> ModelOutput:
        return ModelOutput(losses=torch.where(targets >= 0, math.log(self.size), 0.0))


@pytest.mark.parametrize("kind", ["blanks_run", "causal_run"])
def test_a_uniform_model_needs_the_vocabularys_bits(kind: str, workspace: Path, request: pytest.FixtureRequest) -> None:
    """Counted by hand from the documents: the second halves' tokens, their bytes, log2 of the vocabulary each."""
    run = load_run(request.getfixturevalue(kind))
    data = workspace / "tokenize"
    figures = bits_per_byte(Uniform(384), heldout_set(run, data), CPU)
    lengths = run.tokenizer.byte_lengths
    for source, documents in documents_of(data / "validation").items():
        tokens, size = 0, 0
        for document in documents:
            text = document[:-1]
            for part in np.array_split(text, -(-len(text) // (run.window - 1))):
                scored = part[len(part) // 2 :]
                tokens, size = tokens + len(scored), size + int(lengths[scored].sum())
        assert figures[source.split("-")[0]] == pytest.approx(tokens * math.log2(384) / size)


def test_the_two_families_score_the_same_bytes(blanks_run: Path, causal_run: Path, workspace: Path) -> None:
    data = workspace / "tokenize"
    sets = [heldout_set(load_run(run), data) for run in (blanks_run, causal_run)]
    for language in sets[0].languages:
        assert scored_bytes(sets[0].batches[language]) == scored_bytes(sets[1].batches[language])


def test_unigram_by_hand(blanks_run: Path, workspace: Path) -> None:
    run, data = load_run(blanks_run), workspace / "tokenize"
    rows = heldout_set(run, data)
    found = unigram_bits_per_byte(tokens_of(data / "train"), rows, run.tokenizer.byte_lengths)
    train = np.concatenate(list(documents_of(data / "train")["zh-prose"]))
    train = train[run.tokenizer.byte_lengths[train] > 0]
    possible = int((run.tokenizer.byte_lengths > 0).sum())
    bits, size = 0.0, 0
    for batch in rows.batches["zh"]:
        for token in batch.batch.targets[batch.target_bytes > 0].tolist():
            bits -= math.log2((np.count_nonzero(train == token) + 1) / (len(train) + possible))
            size += int(run.tokenizer.byte_lengths[token])
    assert found["zh"] == pytest.approx(bits / size)


def test_the_command_line_and_the_run_agree(
    blanks_run: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The untrained model of the command line is the run's model at step 0; training has brought the bits down."""
    words = ["--run", str(blanks_run), "--data", str(workspace / "tokenize"), "--json"]
    capsys.readouterr()
    commands = {"bits-per-byte": (bits_per_byte_command, ""), "fill-accuracy": (fill_accuracy_command, "")}
    assert run_commands("python -m evaluation", commands, ["bits-per-byte", *words, "--limit", "4"]) == 0
    figures = json.loads(capsys.readouterr().out)["bits_per_byte"]
    logged = heldout(blanks_run)
    for language in ("zh", "en"):
        assert figures[language]["untrained"] == pytest.approx(logged[0][language], rel=1e-5)
        assert figures[language]["model"] == pytest.approx(logged[30][language], rel=1e-5)
        assert figures[language]["model"] < figures[language]["untrained"]
        assert figures[language]["unigram"] > 0
    assert run_commands("python -m evaluation", commands, ["fill-accuracy", *words]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["fill_accuracy"]["zh"]["tokens"] <= 1


def test_shards_of_another_tokenizer_are_refused(
    blanks_run: Path, workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their ids would be scored as other words."""
    data = tmp_path / "tokenize"
    shutil.copytree(workspace / "tokenize", data)
    (data / "stage.json").write_text(json.dumps({"facts": {"tokenizer_digest": "0123456789abcdef"}}))
    commands = {"bits-per-byte": (bits_per_byte_command, ""), "fill-accuracy": (fill_accuracy_command, "")}
    capsys.readouterr()
    for name in commands:
        words = [name, "--run", str(blanks_run), "--data", str(data)]
        assert run_commands("python -m evaluation", commands, words) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert "made with another tokenizer (digest 0123456789ab" in line


def test_the_untrained_model_is_the_seeds(blanks_run: Path) -> None:
    run = load_run(blanks_run)
    one, two = load_untrained(run), load_untrained(run)
    for a, b, trained in zip(one.parameters(), two.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.shape == trained.shape
    assert not torch.equal(one.embed_tokens.weight, run.model.embed_tokens.weight)


def test_what_is_scored_is_never_read_before(blanks_run: Path, workspace: Path) -> None:
    """Changing the scored half's last token changes no other token's nats."""
    run = load_run(blanks_run)
    rows = heldout_set(run, workspace / "tokenize", rows=1).batches["zh"][0]
    before = token_nats(run.model, rows, CPU)
    last = int(np.flatnonzero(rows.target_bytes[0])[-1])
    rows.batch.targets[0, last] = (rows.batch.targets[0, last] + 1) % 300
    after = token_nats(run.model, rows, CPU)
    changed = np.flatnonzero(before[0] != after[0])
    assert changed.tolist() == [last]


@pytest.mark.parametrize(("asked", "batch"), [(1, 8), (3, 2), (4, 2), (5, 8)])
def test_no_more_rows_than_asked_are_scored(blanks_run: Path, workspace: Path, asked: int, batch: int) -> None:
    """And they are the first ones, however many go into a batch."""
    run, validation = load_run(blanks_run), workspace / "tokenize" / "validation"
    made = [
        build_heldout_set(
            documents_of(validation), run.objective, run.window, run.tokenizer.special, run.tokenizer.byte_lengths,
            rows_per_language=rows, rows_in_batch=size,
        )
        for rows, size in ((asked, batch), (None, 1))
    ]  # fmt: skip
    assert made[1].rows("zh") > 5
    assert made[0].rows("zh") == asked
    first, every = (np.concatenate([rows.batch.tokens for rows in one.batches["zh"]]) for one in made)
    assert (first == every[:asked]).all()


def test_rows_without_a_blank_count_for_nothing(blanks_run: Path) -> None:
    """Documents too short for a blank of 15 % fill the first rows."""
    run = load_run(blanks_run)
    end = run.tokenizer.special.endoftext
    short, long = np.array([20, 21, 22, end]), np.append(np.arange(20, 300), end)
    documents = [short] * 90 + [long]
    batch = blank_rows(documents, run.objective, run.window, run.tokenizer, 12)
    assert batch is not None
    assert not batch.loss_weights[:4].any()
    scores = score_blanks(run.model, {"zh": batch}, CPU)["zh"]
    assert scores["count"] == int((batch.tokens == run.tokenizer.special.sop).sum()) > 0


def test_blanks_are_read_without_the_noise_of_training(blanks_run: Path) -> None:
    """The tokens before the one that is asked for are the true ones."""
    run = load_run(blanks_run)
    noisy = dataclasses.replace(run.objective.blank_infilling, decoder_noise=0.9)
    document = np.append(np.arange(20, 300), run.tokenizer.special.endoftext)
    objective = dataclasses.replace(run.objective, blank_infilling=noisy)
    batch = blank_rows([document], objective, run.window, run.tokenizer, 4)
    assert batch is not None
    assert not (batch.tokens[batch.loss_weights > 0] == run.tokenizer.special.mask).any()


def test_a_model_that_knows_the_answer_fills_every_blank(blanks_run: Path, workspace: Path) -> None:
    run = load_run(blanks_run)
    documents = documents_of(workspace / "tokenize" / "validation")["zh-prose"]
    batch = blank_rows(documents, run.objective, run.window, run.tokenizer, 2)
    assert batch is not None

    class Knows(torch.nn.Module):
        def forward(self, **_: torch.Tensor) -> ModelOutput:
            targets = torch.from_numpy(batch.targets.astype(np.int64))
            return ModelOutput(logits=torch.nn.functional.one_hot(targets, 384).float())

    scores = score_blanks(Knows(), {"zh": batch}, CPU)["zh"]
    assert (scores["tokens"], scores["blanks"]) == (1.0, 1.0)
    assert scores["count"] == int((batch.tokens == run.tokenizer.special.sop).sum())
