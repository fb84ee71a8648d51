"""Kneser-Ney: a distribution, equal to a second implementation by dictionaries, and exact on a text counted by hand."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from data.token_shards import documents_of
from evaluation.__main__ import bits_per_byte_command
from evaluation.bits_per_byte import build_heldout_set
from evaluation.kneser_ney import KneserNey, discounts_of, kneser_ney_bits_per_byte
from evaluation.unigram import unigram_bits_per_byte
from objectives.config import ObjectiveConfig
from tokenizer.load import load_tokenizer

VOCABULARY = 7
LENGTHS = np.array([0, 1, 1, 1, 1, 1, 1], np.int32)
"""Token 0 stands for no bytes."""


def documents(seed: int, count: int) -> list[np.ndarray]:
    """Short texts in which some tokens follow others more often; each ends with token 0."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        text = [rng.randint(1, 6)]
        for _ in range(rng.randint(0, 12)):
            text.append(rng.choice([1 + (text[-1] * 5) % 6, rng.randint(1, 6), 1]))
        made.append(np.array([*text, 0]))
    return made


class ByDictionaries:
    """The formulas as they are written, one n-gram at a time."""

    def __init__(self, order: int, texts: list[np.ndarray]) -> None:
        self.order = order
        counts: list[Counter[tuple]] = [Counter() for _ in range(order + 1)]
        for text in texts:
            marked = ["<s>", *(int(token) for token in text if token)]
            for n in range(1, order + 1):
                counts[n].update(tuple(marked[i : i + n]) for i in range(len(marked) - n + 1))
        self.counts: list[dict[tuple, int]] = [{} for _ in range(order + 1)]
        self.counts[order] = dict(counts[order])
        for n in range(1, order):
            before = defaultdict(set)
            for gram in counts[n + 1]:
                before[gram[1:]].add(gram[0])
            self.counts[n] = {
                gram: count if gram[0] == "<s>" else len(before[gram]) for gram, count in counts[n].items()
            }
        self.counts[1].pop(("<s>",), None)
        self.discounts = [discounts_of(np.array(list(level.values()) or [0])) for level in self.counts]

    def probability(self, history: list, token: int) -> float:
        if not history or history[0] != "<s>":
            history = ["<s>", *history]
        below = 1 / 6
        for n in range(1, self.order + 1):
            if n - 1 > len(history):
                break
            context = tuple(history[len(history) - (n - 1) :])
            level, discounts = self.counts[n], self.discounts[n]
            follow = {gram: count for gram, count in level.items() if gram[:-1] == context}
            total = sum(follow.values())
            if total == 0:
                break
            count = follow.get((*context, token), 0)
            kept = sum(discounts[min(c, 3)] for c in follow.values())
            below = (count - discounts[min(count, 3)] + kept * below) / total
        return below


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equal_to_the_formulas_by_dictionaries(order: int) -> None:
    texts, reference = documents(1, 60), ByDictionaries(order, documents(1, 60))
    model = KneserNey(order, LENGTHS).fit(texts)
    for text in documents(2, 15):
        words = text[:-1]
        if len(words) < 2:
            continue
        found = model.log2_probabilities(words[:-1], words[1:], np.arange(len(words) - 1))
        expected = [
            math.log2(reference.probability(words[: i + 1].tolist(), int(words[i + 1]))) for i in range(len(found))
        ]
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_of_all_tokens_sum_to_one(order: int) -> None:
    model = KneserNey(order, LENGTHS).fit(documents(3, 40))
    for history in ([4], [1, 1, 1], [6, 5, 2, 3, 1]):
        tokens = np.array(history)
        each = [
            model.log2_probabilities(tokens, np.full(len(history), token), np.arange(len(history)))[-1]
            for token in range(VOCABULARY)
        ]
        assert 2.0 ** each[0] == 0.0
        assert sum(2.0**bits for bits in each) == pytest.approx(1.0, abs=1e-12)


def test_a_text_counted_by_hand() -> None:
    """Text 1 2 1 2 3: bigram counts are <s>1: 1, 12: 2, 21: 1, 23: 1; before 1 stand 2 kinds, before 2 and 3 one.

    Bigrams with count 1, 2, 3, 4: 3, 1, 0, 0; so Y = 3/5, D1 = 1 - 2 Y/3 = 0.6, D2 = 2. Unigrams: 2, 1, 0, 0: Y = 1/2,
    D1 = 1 - 2 (1/2)(1/2) = 1/2, D2 = 2; c = 4, kept back 2 (1/2) + 2 = 3; p(3) = (1 - 1/2 + 3/6)/4 = 1/4.
    After 2: c = 2, kept back 1.2: p(3 | 2) = (1 - 0.6 + 1.2/4)/2 = 0.35.
    """
    model = KneserNey(2, LENGTHS).fit([np.array([1, 2, 1, 2, 3, 0])])
    bits = model.log2_probabilities(np.array([1, 2]), np.array([2, 3]), np.arange(2))
    assert 2.0 ** bits[1] == pytest.approx(0.35, abs=1e-12)


def test_documents_are_apart() -> None:
    """The history ends at the document's beginning, in counting and in scoring."""
    model = KneserNey(3, LENGTHS).fit(documents(4, 30))
    alone = model.log2_probabilities(np.array([2, 3]), np.array([3, 1]), np.array([0, 1]))
    behind = model.log2_probabilities(np.array([5, 6, 1, 2, 3]), np.array([6, 1, 2, 3, 1]), np.array([0, 1, 2, 0, 1]))
    np.testing.assert_array_equal(behind[3:], alone)


def test_held_out_text_is_scored_as_the_models_are(workspace: Path) -> None:
    """An order of 1 with as good as no smoothing is the unigram; more context is better on text that has structure."""
    tokenizer = load_tokenizer(workspace / "tokenizer")

    def read(split: str) -> dict[str, list[np.ndarray]]:
        return {source: list(found) for source, found in documents_of(workspace / "tokenize" / split).items()}

    heldout = build_heldout_set(
        read("validation"), ObjectiveConfig(kind="causal"), 64, tokenizer.special, tokenizer.byte_lengths
    )
    train = read("train")
    one, three = (kneser_ney_bits_per_byte(train, heldout, tokenizer.byte_lengths, order=order) for order in (1, 3))
    unigram = unigram_bits_per_byte(train, heldout, tokenizer.byte_lengths)
    few = kneser_ney_bits_per_byte(train, heldout, tokenizer.byte_lengths, order=3, most_tokens=50)
    for language in ("zh", "en"):
        assert one[language] == pytest.approx(unigram[language], rel=0.05)
        assert three[language] < 0.8 * one[language]
        assert few[language] > three[language]


def test_texts_shorter_than_the_order() -> None:
    """No n-gram of five tokens was ever seen: the longest that were decide."""
    texts = [np.array([1, 2, 0]), np.array([2, 0])]
    short, long = (KneserNey(order, LENGTHS).fit(texts) for order in (3, 5))
    tokens, targets = np.array([1, 2, 3, 4, 5]), np.array([2, 3, 4, 5, 6])
    found = [model.log2_probabilities(tokens, targets, np.arange(5)) for model in (short, long)]
    np.testing.assert_allclose(found[1], found[0])


def test_a_text_without_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="needs text"):
        KneserNey(2, LENGTHS).fit([np.array([0, 0])])


def test_the_command_line_has_them_on_request(blanks_run: Path, workspace: Path, capsys) -> None:
    """And they score the same rows for a model that fills blanks; xz packs the text that the tokens stand for."""
    words = ["--run", str(blanks_run), "--data", str(workspace / "tokenize"), "--ngram_tokens", "9999", "--xz"]
    capsys.readouterr()
    assert bits_per_byte_command([*words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["bits_per_byte"]["en"]
    heldout = build_heldout_set(
        documents_of(workspace / "tokenize" / "validation"), ObjectiveConfig(kind="blank_infilling"), 64,
        load_tokenizer(workspace / "tokenizer").special, load_tokenizer(workspace / "tokenizer").byte_lengths,
    )  # fmt: skip
    assert figures["rows"] == heldout.rows("en")
    assert figures["five_gram"] < figures["unigram"]
    tokenizer = load_tokenizer(workspace / "tokenizer")
    text = b"\n".join(
        tokenizer.decode(document.tolist(), skip_special=True).encode()
        for document in documents_of(workspace / "tokenize" / "validation")["en-prose"]
    )
    if shutil.which("xz") is None:
        pytest.skip("no xz on this machine to compare with")
    packed = subprocess.run(["xz", "-9", "-c", "-"], input=text, capture_output=True, check=True).stdout
    assert figures["xz"] == pytest.approx(8 * len(packed) / len(text), rel=1e-3)
    assert bits_per_byte_command(words) == 0
    assert "five_gram" in capsys.readouterr().out
