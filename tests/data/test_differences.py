"""Alignment against the textbook's table, and the manner of differences: edits at random, pages of one template."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from data.deduplicate import VerifyConfig
from data.differences import align, manner, number_units, variety_of
from data.shingles import folded_units
from data.verify import CLAUSES, compare

PAGE = (
    "Counts the messages that the {} adapter has written to its log since it began. The counter grows by one when a "
    "document arrives at the receive location of a host instance, and it falls to zero when that host is taken down. "
    "Where the value grows faster than a hundred in a minute, look at the queue of the {} adapter before anything "
    "else; a full disk or a broken line are what is found most often. The other counters of the {} adapter are listed "
    "in the chapter about performance, with the units that each of them is given in and the default of its alarm."
)


def naive_common_length(a: np.ndarray, b: np.ndarray) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i in range(len(a)):
        for j in range(len(b)):
            table[i + 1, j + 1] = table[i, j] + 1 if a[i] == b[j] else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


@pytest.mark.parametrize("seed", range(8))
def test_alignment_is_a_longest_common_subsequence(seed: int) -> None:
    """Bit vectors against the quadratic table, over few symbols so that ties abound; hunks are all else."""
    generator = np.random.default_rng(seed)
    for _ in range(4):
        a = generator.integers(0, 3 + 4 * seed, generator.integers(0, 150)).astype(np.uint32)
        b = generator.integers(0, 3 + 4 * seed, generator.integers(0, 150)).astype(np.uint32)
        b[: len(b) // 3] = np.resize(a, len(b))[: len(b) // 3] if len(a) else 0
        length, hunks = align(*number_units(a, b))
        assert length == naive_common_length(a, b)
        outside_a = np.concatenate([np.arange(h[0], h[1]) for h in hunks] or [np.zeros(0, int)]).astype(int)
        outside_b = np.concatenate([np.arange(h[2], h[3]) for h in hunks] or [np.zeros(0, int)]).astype(int)
        assert np.delete(a, outside_a).tolist() == np.delete(b, outside_b).tolist()
        assert len(a) - len(outside_a) == length
        for one, after in pairwise(hunks):
            assert after[0] - one[1] == after[2] - one[3] > 0


def measured(left: str, right: str) -> tuple[float, float, bool]:
    (a, _), (b, _) = (folded_units(pl.Series([text])) for text in (left, right))
    numbered_a, numbered_b, count = number_units(a, b)
    return manner(numbered_a, numbered_b, align(numbered_a, numbered_b, count)[1])  # type: ignore[no-any-return]


def test_one_thing_put_for_another() -> None:
    swap, phrases, _ = measured(PAGE.format(*["file"] * 3), PAGE.format(*["mail"] * 3))
    assert (swap, phrases) == (1.0, 0.0)
    assert measured(PAGE, PAGE) == (0.0, 0.0, False)
    # once is not again and again, and seldom says nothing: an edition that spells one name otherwise
    assert measured(PAGE.format("file", "a", "b"), PAGE.format("mail", "a", "b"))[0] == 0.0
    novel = " ".join(f"word{i}" for i in range(3000))
    assert measured(f"{novel} Phobe {novel} Phobe x", f"{novel} Phoebe {novel} Phoebe x")[0] == 0.0


def test_the_title_names_another_thing() -> None:
    body = PAGE.format("a", "a", "a").split("Where")
    one = f"The brightness property. {body[0]} Gives the gain of the camera. Where{body[1]}"
    other = f"The contrast property. {body[0]} Gives how far black and white are apart. Where{body[1]}"
    _, phrases, renamed = measured(one, other)
    assert renamed
    assert phrases > 0.5
    # the same phrase under the same title is a page that was revised
    _, phrases, renamed = measured(one, other.replace("contrast", "brightness"))
    assert (phrases, renamed) == (0.0, False)


@pytest.mark.parametrize("rate", [0.01, 0.03, 0.07, 0.1])
def test_random_edits_are_not_in_the_manner_of_siblings(rate: float) -> None:
    generator = np.random.default_rng(round(1000 * rate))
    refused = 0
    for _ in range(200):
        weights = 1 / np.arange(1, 801)  # words are as unequally frequent as in a language (Zipf)
        a = generator.choice(800, int(generator.integers(60, 900)), p=weights / weights.sum()).astype(np.uint32)
        b = a.copy()
        places = np.flatnonzero(generator.random(len(b)) < rate)
        b[places] = generator.choice(a, len(places))
        b = np.delete(b, places[::3])
        swap, phrases, _ = manner(a, b, align(*number_units(a, b))[1])
        refused += swap >= VerifyConfig().swap or phrases >= VerifyConfig().phrases
    assert refused <= 3


def test_presets_part_what_the_clauses_joined() -> None:
    """Siblings of high Jaccard are left apart by both; those of another title by `siblings_apart` alone."""
    body = "".join(chr(0x4E00 + i * 7) for i in range(300))
    pairs = [
        (f"端点调用次数{body[:150]}端点{body[150:]}", f"服务调用次数{body[:150]}服务{body[150:]}"),
        (f"全局设置（甲）{body}", f"全局设置（乙）{body}"),
        (f"全局设置（甲）{body}", f"全局设置（甲）{body[:100]}某{body[101:]}"),
    ]

    units, offsets = folded_units(pl.Series([text for pair in pairs for text in pair]))
    rows = np.arange(0, 2 * len(pairs), 2)
    for preset, expected in (
        ("edited_copies", ["refused", "jaccard", "jaccard"]),
        ("siblings_apart", ["refused", "refused", "jaccard"]),
    ):
        config = VerifyConfig(preset=preset)  # type: ignore[arg-type]
        scores, clauses = compare(
            (units, offsets, rows), (units, offsets, rows + 1), han_shingle=3, word_shingle=3, config=config
        )
        assert (scores[:, 0] >= config.jaccard).all()
        assert [CLAUSES[clause] for clause in clauses] == expected


def test_variety_tells_random_edits_from_one_thing_put_for_another() -> None:
    generator = np.random.default_rng(7)
    page = generator.integers(0, 400, 600).astype(np.uint32) * 2
    edited, sibling = page.copy(), page.copy()
    edited[generator.choice(600, 40, replace=False)] = 1000 + 2 * np.arange(40)
    page[::15], sibling[::15] = 2000, 2002
    assert variety_of(*number_units(page, page)) == 1.0
    assert variety_of(*number_units(page, edited)) > 0.8
    assert variety_of(*number_units(page, sibling)) < 0.2
