"""Whether a candidate pair is one text twice: true Jaccard, containment, and alignment.

Three clauses, any of which joins a pair (`VerifyConfig` holds the numbers):

- the Jaccard index of the two shingle sets is high: a copy with few edits;
- nearly all of the shorter text's shingles are in the longer one, and their lengths are not far apart: a copy
  cut short, or with a header and a footer around it;
- preset `edited_copies` alone: the Jaccard index is middling, and the texts align nearly from end to end (longest
  common subsequence of units): a copy with edits all over it, each of which breaks several shingles.

The last clause is also met by sibling pages of a reference work that share a template and differ in their facts.
Preset `siblings_apart` leaves it out. The subsequence is computed on bit vectors (Hyyrö 2004), 64 units a step.
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


@numba.njit(cache=True, inline="always")
def _slot(keys: Array, stamps: Array, stamp: int, key: int) -> int:
    """Where `key` stands in the open-addressing table, or where it would be put."""
    mask = keys.shape[0] - 1
    slot = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & mask
    while stamps[slot] >= stamp and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@numba.njit(cache=True)
def _common_length(a: Array, b: Array) -> int:
    """Length of the longest common subsequence of two unit sequences."""
    n = a.shape[0]
    if n == 0 or b.shape[0] == 0:
        return 0
    order = np.argsort(a, kind="mergesort")
    distinct = np.empty(n, np.uint32)
    first = np.zeros(n + 1, np.int64)
    count = 0
    for i in range(n):
        if i == 0 or a[order[i]] != a[order[i - 1]]:
            distinct[count] = a[order[i]]
            first[count] = i
            count += 1
    first[count] = n
    words = (n + 63) // 64
    # rows with one place for a unit are set bit by bit; a matrix of all rows would be quadratic in memory
    state = np.full(words, np.uint64(0xFFFFFFFFFFFFFFFF))
    matches = np.zeros(words, np.uint64)
    for j in range(b.shape[0]):
        at = np.searchsorted(distinct[:count], b[j])
        if at == count or distinct[at] != b[j]:
            continue
        for i in range(first[at], first[at + 1]):
            place = order[i]
            matches[place >> 6] |= np.uint64(1) << np.uint64(place & 63)
        carry = np.uint64(0)
        for w in range(words):
            old = state[w]
            both = old & matches[w]
            partial = old + both
            total = partial + carry
            carry = np.uint64(1) if partial < old or total < partial else np.uint64(0)
            state[w] = total | (old - both)
        for i in range(first[at], first[at + 1]):
            matches[order[i] >> 6] = np.uint64(0)
    length = 0
    for place in range(n):
        if not (state[place >> 6] >> np.uint64(place & 63)) & np.uint64(1):
            length += 1
    return length


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
) -> tuple[Array, Array, Array, Array]:
    """`limits`: jaccard, containment, containment_length, edited_jaccard, edited_similarity (0: clause left out)."""
    pairs = rows_a.shape[0]
    jaccards = np.zeros(pairs, np.float32)
    containments = np.zeros(pairs, np.float32)
    similarities = np.full(pairs, np.float32(np.nan))
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
        if p == 0 or rows_a[p] != rows_a[p - 1]:
            stamp_a += 1
            distinct_a = 0
            count = shingles_into(units_a, offsets_a[rows_a[p]], offsets_a[rows_a[p] + 1], characters, words, shingles)
            for i in range(count):
                slot = _slot(keys_a, stamps_a, stamp_a, shingles[i])
                if stamps_a[slot] != stamp_a:
                    stamps_a[slot] = stamp_a
                    keys_a[slot] = shingles[i]
                    distinct_a += 1
        start_b, stop_b = offsets_b[rows_b[p]], offsets_b[rows_b[p] + 1]
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
        jaccards[p] = jaccard
        containments[p] = common / smaller
        if jaccard >= limits[0]:
            clauses[p] = JACCARD
        elif common >= limits[1] * smaller and smaller >= limits[2] * larger:
            clauses[p] = CONTAINED
        elif jaccard >= limits[3]:
            start_a, stop_a = offsets_a[rows_a[p]], offsets_a[rows_a[p] + 1]
            stop_a, stop_b = min(stop_a, start_a + longest), min(stop_b, start_b + longest)
            length = max(stop_a - start_a, stop_b - start_b)
            if min(stop_a - start_a, stop_b - start_b) < limits[4] * length:
                continue
            similarities[p] = _common_length(units_a[start_a:stop_a], units_b[start_b:stop_b]) / length
            if limits[4] > 0 and similarities[p] >= limits[4]:
                clauses[p] = EDITED
    return jaccards, containments, similarities, clauses


def compare(
    a: tuple[Array, Array, Array],
    b: tuple[Array, Array, Array],
    *,
    han_shingle: int,
    word_shingle: int,
    config: VerifyConfig,
) -> tuple[Array, Array, Array, Array]:
    """Judge pairs of documents; `a` and `b` are (units, offsets, row of each pair), sorted by `a` for speed.

    Returns the true Jaccard, the share of the smaller shingle set in the larger, the alignment (both float32; NaN where
    it was not needed) and the clause that joined each pair (int8, `CLAUSES`).
    """
    edited = config.preset == "edited_copies"
    limits = np.array(
        [
            config.jaccard,
            config.containment,
            config.containment_length,
            config.edited_jaccard if edited else 2.0,
            config.edited_similarity,
        ]
    )
    return _compare(*a, *b, han_shingle, word_shingle, limits, config.longest)


def sample_pairs(verified: list[Path], documents: list[Path], each: int = 200) -> pl.DataFrame:
    """Judged pairs nearest to the line on either side, with the documents' ids: at most `each` for each clause.

    Among joined pairs those that an additional edit would have parted come first, among refused ones those that came
    closest to being joined.
    """
    columns = ["left_id", "right_id", "jaccard", "containment", "similarity", "clause"]
    if not verified:
        strings = {"left_id": pl.String, "right_id": pl.String, "clause": pl.String}
        return pl.DataFrame(schema={name: strings.get(name, pl.Float32) for name in columns})
    pairs = pl.scan_parquet(verified, glob=False).with_columns(pl.col("similarity").fill_nan(None))
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
