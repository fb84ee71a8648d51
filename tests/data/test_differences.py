"""Alignment against the textbook's table, and the manner of differences: edits at random, pages of one template."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from data.deduplicate import VerifyConfig
from data.differences import align, manner, number_units, overlap_of, swap_of, titles_differ, variety_of
from data.shingles import titled_units
from data.verify import CLAUSES, Side, compare

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


def measured(left: str, right: str) -> dict[str, float]:
    units, offsets, titles = titled_units(pl.Series([left, right]))
    a, b = units[: offsets[1]], units[offsets[1] :]
    *numbered, count = number_units(a, b)
    _, hunks = align(*numbered, count)
    phrases, echo, codes = manner(a, b, hunks, titles[0], titles[1])
    return {
        "swap": swap_of(*numbered, hunks),
        "renamed": titles_differ(hunks, titles[0], titles[1]),
        "phrases": phrases,
        "echo": echo,
        "codes": codes,
        "overlap": overlap_of(hunks, len(a), len(b)),
    }


def test_one_thing_put_for_another() -> None:
    assert measured(PAGE.format(*["file"] * 3), PAGE.format(*["mail"] * 3))["swap"] == 1.0
    assert measured(PAGE, PAGE)["swap"] == 0.0
    # once is not again and again, and seldom says nothing: an edition that spells one name otherwise
    assert measured(PAGE.format("file", "a", "b"), PAGE.format("mail", "a", "b"))["swap"] == 0.0
    novel = " ".join(f"word{i}" for i in range(3000))
    assert measured(f"{novel} Phobe {novel} Phobe x", f"{novel} Phoebe {novel} Phoebe x")["swap"] == 0.0


def test_the_titles_name_different_things() -> None:
    body = PAGE.format("a", "a", "a")
    for one, other in (
        ("The brightness property\n", "The contrast property\n"),
        ("迁移服务器\n", "准备迁移服务器\n"),
        ("cummax\n", "cummin\n"),  # a title of one word, put for another as a whole
    ):
        assert measured(one + body, other + body)["renamed"]
        assert measured(other + body, one + body)["renamed"]
    for one, other in (
        ("Brightness\n", "Brightness\n"),
        ("", "Home News Forum Sign in\n"),  # a header on top is no other name
        ("Brightness\n", "Home News Forum Sign in\nBrightness\n"),
        ("", " ".join(f"word{i}" for i in range(20)) + " "),  # a first line that is a paragraph is no title
    ):
        assert not measured(one + body, other + body)["renamed"]
        assert not measured(other + body, one + body)["renamed"]


def test_what_differs_below_is_what_differs_in_the_titles() -> None:
    body = PAGE.format("{0}", "{0}", "other")
    text = "{0} calls\n" + body + " The {0} is counted as well."
    assert measured(text.format("endpoint"), text.format("service"))["echo"] == 1.0
    # said once more only, it may be chance; not said at all, the titles alone differ
    assert measured("An endpoint\n" + body, "A service\n" + body)["echo"] == 0.0
    added = text.replace("document arrives", "document whether or not it was asked for arrives")
    found = measured(text.format("endpoint"), added.format("service"))
    assert 0.3 < found["phrases"] < 0.8
    assert 0.3 < found["echo"] < 1.0


def test_a_header_a_footer_and_a_cut_are_no_phrases() -> None:
    body = PAGE.format("a", "a", "a")
    framed = f"Home News Forum Sign in\n{body}\nAll rights reserved by the owners of this page"
    assert measured(f"A title\n{body}", f"B title\n{framed}")["phrases"] > 0.5  # inside, it is one
    assert measured(f"A title\n{body}", f"B title\n{body}\nAll rights reserved by its owners")["phrases"] == 0.0
    assert measured(f"A title\n{body}", f"B title\n{body[:-60]}")["phrases"] == 0.0


def test_codes_are_neither_years_nor_counts() -> None:
    text = "The type is {}\n" + PAGE.format("a", "a", "a") + " Number: {}"
    for one, other, expected in (
        ("BC30107", "BC30109", 1),
        ("14164", "14165", 1),
        ("2019", "2020", 0),
        ("read", "see", 0),
    ):
        assert measured(text.format("a class", one), text.format("an interface", other))["codes"] == expected


def test_pieces_of_one_work_cut_at_other_places() -> None:
    words = [f"w{i}x" for i in range(3000)]
    left, right = " ".join(words[:2500]), " ".join([*words[400:1000], "another", *words[1001:2900]])
    assert measured(left, right)["overlap"] == 2099
    assert measured(left, " ".join(reversed(words)))["overlap"] == 0
    # what differs in between, all over, is no common stretch
    other = [word if i % 15 else "another" for i, word in enumerate(words)]
    assert measured(left, " ".join(other))["overlap"] == 0

    units, offsets, titles = titled_units(pl.Series([left, right, " ".join(words[600:2900])]))
    sides = [Side(units, offsets, titles, np.array(rows)) for rows in ([0, 0], [1, 2])]
    scores, clauses = compare(*sides, han_shingle=3, word_shingle=3, config=VerifyConfig())
    assert [CLAUSES[clause] for clause in clauses] == ["overlapping", "refused"]
    assert scores[:, -1] == pytest.approx([2099 / 2500, 1900 / 2500])


@pytest.mark.parametrize(("rate", "share"), [(0.01, 0.01), (0.03, 0.01), (0.07, 0.03), (0.1, 0.03)])
def test_random_edits_are_not_in_the_manner_of_siblings(rate: float, share: float) -> None:
    generator = np.random.default_rng(round(1000 * rate))
    refused, renamed = 0, 0
    for _ in range(200):
        weights = 1 / np.arange(1, 801)  # words are as unequally frequent as in a language (Zipf)
        a = generator.choice(800, int(generator.integers(60, 900)), p=weights / weights.sum()).astype(np.uint32) * 4
        b = a.copy()
        places = np.flatnonzero(generator.random(len(b)) < rate)
        b[places] = generator.choice(a, len(places))
        b = np.delete(b, places[::3])
        *numbered, count = number_units(a, b)
        hunks = align(*numbered, count)[1]
        if titles_differ(hunks, 8, 8):
            renamed += 1
            phrases, echo, codes = manner(a, b, hunks, 8, 8)
            refused += phrases >= VerifyConfig().phrases or echo >= VerifyConfig().echo or codes > 0
        refused += swap_of(*numbered, hunks) >= VerifyConfig().swap
    assert refused <= 200 * share
    assert renamed > 500 * rate


def test_presets_part_what_the_clauses_joined() -> None:
    """Siblings of high Jaccard are left apart by both; those of another title by `siblings_apart` alone."""
    body = "".join(chr(0x4E00 + i * 7) for i in range(300))
    pairs = [
        (f"端点调用次数\n{body[:150]}端点{body[150:]}", f"服务调用次数\n{body[:150]}服务{body[150:]}"),
        (f"全局设置（甲）\n{body}", f"全局设置（乙）\n{body}"),
        (f"全局设置（甲）\n{body}", f"全局设置（甲）\n{body[:100]}某{body[101:]}"),
    ]

    texts = titled_units(pl.Series([text for pair in pairs for text in pair]))
    rows = np.arange(0, 2 * len(pairs), 2)
    for preset, expected in (
        ("edited_copies", ["refused", "jaccard", "jaccard"]),
        ("siblings_apart", ["refused", "refused", "jaccard"]),
    ):
        config = VerifyConfig(preset=preset)  # type: ignore[arg-type]
        scores, clauses = compare(
            Side(*texts, rows), Side(*texts, rows + 1), han_shingle=3, word_shingle=3, config=config
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
