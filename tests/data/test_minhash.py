"""MinHash against its theory and against the true Jaccard of the same shingles."""

from __future__ import annotations

import numpy as np
import pytest

from data.deduplicate import VerifyConfig
from data.minhash import band_keys, catch_probability, signatures
from data.shingles import shingles_into
from data.verify import CLAUSES, Side, compare


def units_of(documents: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype(np.int64)
    return np.concatenate(documents).astype(np.uint32), offsets


def shingle_set(units: np.ndarray, han: int, words: int) -> set[int]:
    out = np.empty(len(units) + 1, np.uint32)
    return set(out[: shingles_into(units, 0, len(units), han, words, out)].tolist())


def edited_pairs(pairs: int, length: int, seed: int) -> list[np.ndarray]:
    """Documents 2i and 2i + 1 are one text with a rate of units changed that grows with i."""
    generator = np.random.default_rng(seed)
    documents = []
    for i in range(pairs):
        one = generator.integers(0, 2**31, length, dtype=np.uint32) * 2 + generator.integers(0, 2, dtype=np.uint32)
        other = one.copy()
        changed = generator.random(length) < 0.25 * i / pairs
        other[changed] = generator.integers(0, 2**31, int(changed.sum()), dtype=np.uint32) * 2
        documents += [one, other]
    return documents


def test_estimates_are_unbiased_with_the_error_of_theory() -> None:
    """The estimate's error is sqrt(J (1 - J) / hashes) (Broder 1997): mean zero, and that standard deviation."""
    documents = edited_pairs(300, 300, seed=1)
    number = 256
    signed, _ = signatures(*units_of(documents), han_shingle=3, word_shingle=3, number=number, seed=5)
    errors, expected = [], []
    for i in range(0, len(documents), 2):
        a, b = (shingle_set(d, 3, 3) for d in documents[i : i + 2])
        true = len(a & b) / len(a | b)
        errors.append((signed[i] == signed[i + 1]).mean() - true)
        expected.append(true * (1 - true) / number)
    assert abs(np.mean(errors)) < 4 * np.sqrt(np.sum(expected)) / len(errors)
    assert 0.85 < np.std(errors) / np.sqrt(np.mean(expected)) < 1.15


@pytest.mark.parametrize(("bands", "rows"), [(32, 4), (14, 8)])
def test_pairs_are_caught_as_often_as_the_s_curve_says(bands: int, rows: int) -> None:
    documents = edited_pairs(600, 200, seed=2)
    signed, _ = signatures(*units_of(documents), han_shingle=3, word_shingle=3, number=bands * rows, seed=6)
    keys = band_keys(signed, bands=bands, rows=rows)
    caught, expected = [], []
    for i in range(0, len(documents), 2):
        a, b = (shingle_set(d, 3, 3) for d in documents[i : i + 2])
        caught.append(bool((keys[i] == keys[i + 1]).any()))
        expected.append(catch_probability(len(a & b) / len(a | b), bands, rows))
    deviation = np.sqrt(np.sum(np.array(expected) * (1 - np.array(expected)))) + 1
    assert abs(np.sum(caught) - np.sum(expected)) < 4 * deviation
    assert 0.05 < np.mean(caught) < 1


def test_shingle_lengths_follow_the_kind_of_unit() -> None:
    characters, words = np.arange(1, 21, 2, dtype=np.uint32), np.arange(0, 20, 2, dtype=np.uint32)
    assert len(shingle_set(characters, 4, 2)) == 7
    assert len(shingle_set(words, 4, 2)) == 9
    assert len(shingle_set(characters[:2], 4, 2)) == 1
    assert len(shingle_set(characters[:0], 4, 2)) == 0


def test_signatures_do_not_depend_on_the_company() -> None:
    documents = edited_pairs(5, 50, seed=3)
    together, _ = signatures(*units_of(documents), han_shingle=3, word_shingle=3, number=16, seed=1)
    alone, _ = signatures(*units_of(documents[4:5]), han_shingle=3, word_shingle=3, number=16, seed=1)
    assert (together[4] == alone[0]).all()


@pytest.mark.parametrize("preset", ["edited_copies", "siblings_apart"])
def test_verification_is_the_true_jaccard(preset: str) -> None:
    config = VerifyConfig(preset=preset)  # type: ignore[arg-type]
    documents = edited_pairs(40, 120, seed=4)
    units, offsets = units_of(documents)
    left, titles = np.arange(0, len(documents), 2), np.zeros(len(documents), np.int32)
    sides = [Side(units, offsets, titles, rows) for rows in (left, left + 1)]
    scores, clause = compare(*sides, han_shingle=3, word_shingle=3, config=config)
    for i, row in enumerate(left):
        a, b = (shingle_set(d, 3, 3) for d in documents[row : row + 2])
        assert scores[i, 0] == pytest.approx(len(a & b) / len(a | b))
        assert scores[i, 1] == pytest.approx(len(a & b) / min(len(a), len(b)))
        if len(a & b) / len(a | b) >= config.jaccard and preset == "edited_copies":
            assert CLAUSES[clause[i]] == "jaccard"
    names = {CLAUSES[c] for c in clause}
    assert ("edited" in names) == (preset == "edited_copies")
