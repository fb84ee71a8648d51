"""Whether a candidate pair is one text twice: true Jaccard, containment, alignment, and the manner of the differences.

Four clauses, any of which joins a pair (`VerifyConfig` holds the numbers):

- the Jaccard index of the two shingle sets is high: a copy with few edits;
- nearly all of the shorter text's shingles are in the longer one, and their lengths are not far apart: a copy
  cut short, or with a header and a footer around it;
- the texts share one long stretch, most of both, and each has its own beginning or end: one work cut at other places;
- preset `edited_copies` alone: the Jaccard index is middling, the texts align nearly from end to end (longest
  common subsequence of units), and their differences look like edits (`scatter` and `variety`).

Pages of a reference work that share a template and differ in their facts pass the first two as copies do. So every pair
that would be joined is aligned, and left apart when the manner of its differences is that of siblings (`swap`,
`phrases`, `echo` and `codes` of `data/differences.py`). `siblings_apart` also leaves apart what only the last clause
joins, pairs of low variety, and pairs whose titles name different things.

    scatter   shingles broken for each unit that differs, over the length of a shingle. A lone edit breaks as many
              shingles as it is long (1); where whole phrases differ, their units share the shingles that they break.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from data.compiled import compiled
from data.differences import align, manner, number_units, overlap_of, slot_of, swap_of, titles_differ, variety_of
from data.shingles import shingles_into

if TYPE_CHECKING:
    from data.deduplicate import VerifyConfig

Array = np.ndarray

REFUSED, JACCARD, CONTAINED, EDITED, OVERLAPPING = 0, 1, 2, 3, 4
CLAUSES = ("refused", "jaccard", "contained", "edited", "overlapping")
"""Names of the clauses by their number."""
MOST_BROKEN = 2.0
"""Scatter above which the differences of the aligned beginnings cannot have broken so many shingles of the whole texts:
lone insertions come near it, and what breaks more lies beyond the units that are aligned."""
SCORES = ("jaccard", "containment", "similarity", "scatter", "variety", "swap", "phrases", "echo", "codes", "overlap")
"""What is measured of a pair: true Jaccard, share of the smaller shingle set in the larger, aligned share of the longer
text, the six that say how the texts differ, and the common stretch's share of the longer text."""


class Limits(NamedTuple):
    """The numbers of `VerifyConfig` as the kernel takes them."""

    jaccard: float
    containment: float
    containment_length: float
    edited: bool
    edited_jaccard: float
    edited_similarity: float
    scatter: float
    variety: float
    overlap: float
    overlap_units: int
    siblings_apart: bool
    swap: float
    phrases: float
    echo: float
    codes: int


class Side(NamedTuple):
    """Documents of which some are a side of pairs: as of `shingles.titled_units`, and the document of each pair."""

    units: Array
    offsets: Array
    titles: Array
    rows: Array


class Document(NamedTuple):
    """One text of a pair: its units, as many as are aligned, how many of them are in its first line, and all units."""

    units: Array
    title: int
    length: int


@compiled
def _judge(a: Document, b: Document, broken: int, clause: int, shingle: float, limits: Limits, scores: Array) -> int:
    """The clause that joins two texts (`clause`, OVERLAPPING, EDITED or REFUSED); fills `scores` from `similarity` on.

    `broken` is the number of shingles that are in one of them only; `clause` what has joined them so far.
    """
    numbered_a, numbered_b, count = number_units(a.units, b.units)
    aligned, hunks = align(numbered_a, numbered_b, count)
    n, m = a.units.shape[0], b.units.shape[0]
    beyond = (a.length + b.length) / (n + m)
    renamed = titles_differ(hunks, a.title, b.title)
    phrases, echo, codes = manner(a.units, b.units, hunks, a.title, b.title) if renamed else (0.0, 0.0, 0)
    scores[2] = aligned / max(n, m)
    scores[3] = broken / max(1.0, (n + m - 2 * aligned) * beyond * shingle)
    scores[4] = variety_of(numbered_a, numbered_b, count)
    scores[5] = swap_of(numbered_a, numbered_b, hunks)
    scores[6], scores[7], scores[8] = phrases, echo, codes
    if scores[5] >= limits.swap or phrases >= limits.phrases or echo >= limits.echo or codes >= limits.codes:
        return REFUSED
    if limits.siblings_apart and (scores[4] < limits.variety or renamed):
        return REFUSED
    if clause != REFUSED:
        return clause
    common = overlap_of(hunks, n, m)
    scores[9] = common / max(a.length, b.length)
    if common >= limits.overlap_units and scores[9] >= limits.overlap:
        return OVERLAPPING
    edits = scores[3] >= limits.scatter and scores[4] >= limits.variety
    if beyond > 1 and scores[3] > MOST_BROKEN:
        return REFUSED
    return EDITED if limits.edited and edits and scores[2] >= limits.edited_similarity else REFUSED


@compiled
def _compare(left: Side, right: Side, characters: int, words: int, limits: Limits, longest: int) -> tuple[Array, Array]:
    """Scores (float32, (pairs, SCORES); NaN where not needed) and clauses (int8)."""
    units_a, offsets_a, titles_a, rows_a = left
    units_b, offsets_b, titles_b, rows_b = right
    similarity = min(limits.edited_similarity, limits.overlap)
    pairs = rows_a.shape[0]
    scores = np.full((pairs, len(SCORES)), np.float32(np.nan))
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
                slot = slot_of(keys_a, stamps_a, stamp_a, shingles[i])
                if stamps_a[slot] != stamp_a:
                    stamps_a[slot] = stamp_a
                    keys_a[slot] = shingles[i]
                    distinct_a += 1
        count = shingles_into(units_b, start_b, stop_b, characters, words, shingles)
        distinct_b = 0
        common = 0
        for i in range(count):
            slot = slot_of(keys_b, stamps_b, p + 1, shingles[i])
            if stamps_b[slot] == p + 1:
                continue
            stamps_b[slot] = p + 1
            keys_b[slot] = shingles[i]
            distinct_b += 1
            common += stamps_a[slot_of(keys_a, stamps_a, stamp_a, shingles[i])] == stamp_a
        smaller, larger = min(distinct_a, distinct_b), max(distinct_a, distinct_b)
        if smaller == 0:
            continue
        jaccard = common / (distinct_a + distinct_b - common)
        scores[p, 0], scores[p, 1] = jaccard, common / smaller
        clause = REFUSED
        if jaccard >= limits.jaccard:
            clause = JACCARD
        elif common >= limits.containment * smaller and smaller >= limits.containment_length * larger:
            clause = CONTAINED
        length_a, length_b = stop_a - start_a, stop_b - start_b
        shorter, longer = min(length_a, length_b), max(length_a, length_b)
        stop_a, stop_b = min(stop_a, start_a + longest), min(stop_b, start_b + longest)
        if clause == REFUSED and (jaccard < limits.edited_jaccard or shorter < similarity * longer):
            continue
        broken = distinct_a + distinct_b - 2 * common
        a = Document(units_a[start_a:stop_a], min(titles_a[rows_a[p]], stop_a - start_a), length_a)
        b = Document(units_b[start_b:stop_b], min(titles_b[rows_b[p]], stop_b - start_b), length_b)
        clauses[p] = _judge(a, b, broken, clause, 0.5 * (characters + words), limits, scores[p])
    return scores, clauses


def compare(
    left: Side, right: Side, *, han_shingle: int, word_shingle: int, config: VerifyConfig
) -> tuple[Array, Array]:
    """Judge pairs of documents: those of `left.rows` and `right.rows` in turn, sorted by `left.rows` for speed.

    Returns float32 (pairs, 10), the columns named by `SCORES` (NaN where one was not needed), and the clause that
    joined each pair (int8, `CLAUSES`).
    """
    limits = Limits(
        edited=config.preset == "edited_copies",
        siblings_apart=config.preset == "siblings_apart",
        **{name: getattr(config, name) for name in Limits._fields if name not in ("edited", "siblings_apart")},
    )
    return _compare(left, right, han_shingle, word_shingle, limits, config.longest)


def sample_pairs(verified: list[Path], documents: list[Path], each: int = 200) -> pl.DataFrame:
    """Judged pairs nearest to the line on either side, with the documents' ids: at most `each` for each clause.

    Among joined pairs those that an additional edit would have parted come first, among refused ones those that came
    closest to being joined.
    """
    columns = ["left_id", "right_id", *SCORES, "clause"]
    if not verified:
        strings = {"left_id": pl.String, "right_id": pl.String, "clause": pl.String}
        return pl.DataFrame(schema={name: strings.get(name, pl.Float32) for name in columns})
    chosen = []
    for number, name in enumerate(CLAUSES):
        nearness = (
            pl.coalesce("similarity", "jaccard") if name in ("refused", "edited", "overlapping") else pl.col("jaccard")
        )
        nearest = pl.DataFrame()
        for path in verified:  # one part at a time: pairs may be more than memory holds
            part = pl.read_parquet(path, glob=False).filter(pl.col("clause") == number)
            ranked = pl.concat([nearest, part.with_columns(nearness.alias("nearness"))], how="diagonal")
            nearest = ranked.sort(["nearness", "left", "right"], descending=[name == "refused", False, False]).head(
                each
            )
        chosen.append(nearest.drop("nearness"))
    shown = pl.concat(chosen)
    numbers = pl.concat([shown["left"], shown["right"].rename("left")]).unique().implode()
    ids = pl.concat(
        pl.read_parquet(path, columns=["document", "id"], glob=False).filter(pl.col("document").is_in(numbers))
        for path in documents
    )
    return (
        shown.join(ids.rename({"document": "left", "id": "left_id"}), on="left", how="left", maintain_order="left")
        .join(ids.rename({"document": "right", "id": "right_id"}), on="right", how="left", maintain_order="left")
        .with_columns(pl.col("clause").replace_strict(dict(enumerate(CLAUSES)), return_dtype=pl.String))
        .select(columns)
    )
