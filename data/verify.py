"""Whether a candidate pair is one text twice: true Jaccard, containment, alignment, and the manner of the differences.

Three clauses, any of which joins a pair (`VerifyConfig` holds the numbers):

- the Jaccard index of the two shingle sets is high: a copy with few edits;
- nearly all of the shorter text's shingles are in the longer one, and their lengths are not far apart: a copy
  cut short, or with a header and a footer around it;
- preset `edited_copies` alone: the Jaccard index is middling, the texts align nearly from end to end (longest
  common subsequence of units), and their differences look like edits: a copy with edits all over it.

Pages of a reference work that share a template and differ in their facts align as well as such copies do. What tells
them apart is how they differ:

    scatter   shingles broken for each unit that differs, over the length of a shingle. A lone edit breaks as many
              shingles as it is long (1); where whole phrases differ, their units share the shingles that they break.
    variety   different units among those that differ, over the number expected had edits fallen on the texts' units
              at random. Random edits give about 1; a page that says "short" where its sibling says "long", wherever
              it says it, gives much less.

`edited_copies` asks both of its third clause. `siblings_apart` leaves that clause out and asks variety of the first
two as well. The subsequence is computed on bit vectors (Hyyrö 2004), 64 units a step.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numba
import numpy as np
import polars as pl

from data.shingles import shingles_into

if TYPE_CHECKING:
    from data.deduplicate import VerifyConfig

Array = np.ndarray

REFUSED, JACCARD, CONTAINED, EDITED = 0, 1, 2, 3
CLAUSES = ("refused", "jaccard", "contained", "edited")
"""Names of the clauses by their number."""
SCORES = ("jaccard", "containment", "similarity", "scatter", "variety")
"""What is measured of a pair: true Jaccard, share of the smaller shingle set in the larger, aligned share of the longer
text, and the two that say how the texts differ."""


@numba.njit(cache=True, inline="always")
def _slot(keys: Array, stamps: Array, stamp: int, key: int) -> int:
    """Where `key` stands in the open-addressing table, or where it would be put."""
    mask = keys.shape[0] - 1
    slot = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & mask
    while stamps[slot] >= stamp and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@numba.njit(cache=True)
def _number_units(a: Array, b: Array) -> tuple[Array, Array, int]:
    """The units of two texts as small numbers, the same for equal units, and how many different ones there are."""
    size = 64
    while size < 2 * (a.shape[0] + b.shape[0]):
        size *= 2
    keys, stamps = np.zeros(size, np.uint32), np.zeros(size, np.int64)
    numbers = np.zeros(size, np.int32)
    numbered_a, numbered_b = np.empty(a.shape[0], np.int32), np.empty(b.shape[0], np.int32)
    count = 0
    for side in range(2):
        units, numbered = (a, numbered_a) if side == 0 else (b, numbered_b)
        for i in range(units.shape[0]):
            slot = _slot(keys, stamps, 1, units[i])
            if stamps[slot] == 0:
                stamps[slot], keys[slot], numbers[slot] = 1, units[i], count
                count += 1
            numbered[i] = numbers[slot]
    return numbered_a, numbered_b, count


@numba.njit(cache=True)
def _common_length(a: Array, b: Array, count: int) -> int:
    """Length of the longest common subsequence of two sequences of numbers below `count`."""
    n = a.shape[0]
    # the places of each number in `a` as a chain: a bit matrix of all numbers would be quadratic in memory
    head = np.full(count, -1, np.int64)
    following = np.empty(n, np.int64)
    for i in range(n):
        following[i] = head[a[i]]
        head[a[i]] = i
    words = (n + 63) // 64
    state = np.full(words, np.uint64(0xFFFFFFFFFFFFFFFF))
    matches = np.zeros(words, np.uint64)
    for number in b:
        if head[number] < 0:
            continue
        place = head[number]
        while place >= 0:
            matches[place >> 6] |= np.uint64(1) << np.uint64(place & 63)
            place = following[place]
        carry = np.uint64(0)
        for w in range(words):
            old = state[w]
            both = old & matches[w]
            partial = old + both
            total = partial + carry
            carry = np.uint64(1) if partial < old or total < partial else np.uint64(0)
            state[w] = total | (old - both)
        place = head[number]
        while place >= 0:
            matches[place >> 6] = np.uint64(0)
            place = following[place]
    length = 0
    for place in range(n):
        if not (state[place >> 6] >> np.uint64(place & 63)) & np.uint64(1):
            length += 1
    return length


@numba.njit(cache=True)
def _variety(a: Array, b: Array, count: int) -> float:
    """Different units among those in which two texts differ, over the number expected of edits at random places."""
    in_a, in_b = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for number in a:
        in_a[number] += 1
    for number in b:
        in_b[number] += 1
    different, more_a, more_b = 0, 0, 0
    for number in range(count):
        surplus = in_a[number] - in_b[number]
        different += surplus != 0
        more_a += max(surplus, 0)
        more_b += max(-surplus, 0)
    if different == 0:
        return 1.0
    kept_a, kept_b = 1 - more_a / max(1, a.shape[0]), 1 - more_b / max(1, b.shape[0])
    expected = 0.0
    for number in range(count):
        expected += 2 - kept_a ** in_a[number] - kept_b ** in_b[number]
    return different / max(expected, 1e-9)


@numba.njit(cache=True)
def _compare(
    units_a: Array,
    offsets_a: Array,
    rows_a: Array,
    units_b: Array,
    offsets_b: Array,
    rows_b: Array,
    characters: int,
    words: int,
    limits: Array,
    longest: int,
) -> tuple[Array, Array]:
    """Scores (float32, (pairs, SCORES); NaN where not needed) and clauses (int8). `limits` in `compare`'s order."""
    high, containment, shortest, middling, similarity, scatter, variety, edited, apart = limits
    pairs = rows_a.shape[0]
    scores = np.full((pairs, 5), np.float32(np.nan))
    clauses = np.zeros(pairs, np.int8)
    widest = 1
    for p in range(pairs):
        widest = max(widest, offsets_a[rows_a[p] + 1] - offsets_a[rows_a[p]])
        widest = max(widest, offsets_b[rows_b[p] + 1] - offsets_b[rows_b[p]])
    size = 64
    while size < 3 * widest:
        size *= 2
    keys_a, stamps_a = np.zeros(size, np.uint32), np.zeros(size, np.int64)
    keys_b, stamps_b = np.zeros(size, np.uint32), np.zeros(size, np.int64)
    shingles = np.empty(widest + 1, np.uint32)
    stamp_a = 0
    distinct_a = 0
    for p in range(pairs):
        start_a, stop_a = offsets_a[rows_a[p]], offsets_a[rows_a[p] + 1]
        start_b, stop_b = offsets_b[rows_b[p]], offsets_b[rows_b[p] + 1]
        if p == 0 or rows_a[p] != rows_a[p - 1]:
            stamp_a += 1
            distinct_a = 0
            count = shingles_into(units_a, start_a, stop_a, characters, words, shingles)
            for i in range(count):
                slot = _slot(keys_a, stamps_a, stamp_a, shingles[i])
                if stamps_a[slot] != stamp_a:
                    stamps_a[slot] = stamp_a
                    keys_a[slot] = shingles[i]
                    distinct_a += 1
        count = shingles_into(units_b, start_b, stop_b, characters, words, shingles)
        distinct_b = 0
        common = 0
        for i in range(count):
            slot = _slot(keys_b, stamps_b, p + 1, shingles[i])
            if stamps_b[slot] == p + 1:
                continue
            stamps_b[slot] = p + 1
            keys_b[slot] = shingles[i]
            distinct_b += 1
            common += stamps_a[_slot(keys_a, stamps_a, stamp_a, shingles[i])] == stamp_a
        smaller, larger = min(distinct_a, distinct_b), max(distinct_a, distinct_b)
        if smaller == 0:
            continue
        jaccard = common / (distinct_a + distinct_b - common)
        scores[p, 0], scores[p, 1] = jaccard, common / smaller
        if jaccard >= high:
            clauses[p] = JACCARD
        elif common >= containment * smaller and smaller >= shortest * larger:
            clauses[p] = CONTAINED
        elif jaccard < middling:
            continue
        stop_a, stop_b = min(stop_a, start_a + longest), min(stop_b, start_b + longest)
        if clauses[p] != REFUSED and not apart:
            continue
        a, b, count = _number_units(units_a[start_a:stop_a], units_b[start_b:stop_b])
        scores[p, 4] = _variety(a, b, count)
        if clauses[p] != REFUSED:
            if scores[p, 4] < variety:
                clauses[p] = REFUSED
            continue
        length = max(a.shape[0], b.shape[0])
        if min(a.shape[0], b.shape[0]) < similarity * length:
            continue
        aligned = _common_length(a, b, count)
        broken = distinct_a + distinct_b - 2 * common
        differing = a.shape[0] + b.shape[0] - 2 * aligned
        shingle = 0.5 * (characters + words)
        scores[p, 2] = aligned / length
        scores[p, 3] = broken / max(1.0, differing * shingle)
        if edited and scores[p, 2] >= similarity and scores[p, 3] >= scatter and scores[p, 4] >= variety:
            clauses[p] = EDITED
    return scores, clauses


def compare(
    a: tuple[Array, Array, Array],
    b: tuple[Array, Array, Array],
    *,
    han_shingle: int,
    word_shingle: int,
    config: VerifyConfig,
) -> tuple[Array, Array]:
    """Judge pairs of documents; `a` and `b` are (units, offsets, row of each pair), sorted by `a` for speed.

    Returns float32 (pairs, 5), the columns named by `SCORES` (NaN where one was not needed), and the clause that joined
    each pair (int8, `CLAUSES`).
    """
    limits = np.array(
        [
            config.jaccard,
            config.containment,
            config.containment_length,
            config.edited_jaccard,
            config.edited_similarity,
            config.scatter,
            config.variety,
            config.preset == "edited_copies",
            config.preset == "siblings_apart",
        ],
        np.float64,
    )
    return _compare(*a, *b, han_shingle, word_shingle, limits, config.longest)


def sample_pairs(verified: list[Path], documents: list[Path], each: int = 200) -> pl.DataFrame:
    """Judged pairs nearest to the line on either side, with the documents' ids: at most `each` for each clause.

    Among joined pairs those that an additional edit would have parted come first, among refused ones those that came
    closest to being joined.
    """
    columns = ["left_id", "right_id", *SCORES, "clause"]
    if not verified:
        strings = {"left_id": pl.String, "right_id": pl.String, "clause": pl.String}
        return pl.DataFrame(schema={name: strings.get(name, pl.Float32) for name in columns})
    pairs = pl.scan_parquet(verified, glob=False)
    chosen = []
    for number, name in enumerate(CLAUSES):
        nearness = pl.coalesce("similarity", "jaccard") if name in ("refused", "edited") else pl.col("jaccard")
        ranked = pairs.filter(pl.col("clause") == number).with_columns(nearness.alias("nearness"))
        ranked = ranked.sort(["nearness", "left", "right"], descending=[name == "refused", False, False])
        chosen.append(ranked.head(each).drop("nearness").collect())
    ids = pl.scan_parquet(documents, glob=False).select("document", "id")
    return (
        pl.concat(chosen)
        .lazy()
        .join(ids.rename({"document": "left", "id": "left_id"}), on="left", how="left", maintain_order="left")
        .join(ids.rename({"document": "right", "id": "right_id"}), on="right", how="left", maintain_order="left")
        .with_columns(pl.col("clause").replace_strict(dict(enumerate(CLAUSES)), return_dtype=pl.String))
        .select(columns)
        .collect()
    )
