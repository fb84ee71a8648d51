"""Decontamination: what the corpus shares with evaluation sets is cut out, or the document dropped.

`overlap.py` says which n-grams of which evaluation items a document holds. Here hits of one item that stand together
become a span, spans that hold enough of the item count as leaks, and the text from the sentence or line that a leak
begins in to the one that it ends in is cut. Every leak is a row of the table of hits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from data.evaluation_sets import read_items
from data.overlap import Index, build, scan
from data.shingles import placed_units
from data.text_kernels import text_buffers

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    """Overlap with evaluation sets, by word n-grams in English and character n-grams in Chinese."""

    against: tuple[str, ...] = ()
    """Evaluation sets: paths or globs of JSON, JSONL, Parquet, CSV or text files (also .gz, .zst), or `datasets`
    names as `hf:name[:configuration]`. Every string in them counts."""
    words: int = 8
    """Units in an n-gram that starts at a word or a number."""
    characters: int = 12
    """Units in an n-gram that starts at a Han character."""
    shortest_words: int = 6
    """Strings that begin with a word and have fewer units than this are too common to tell a leak by; those between
    this and `words` count as one n-gram."""
    shortest_characters: int = 10
    """The same for strings that begin with a Han character."""
    common_items: int = 10
    """N-grams in more items of an evaluation set than this ..."""
    common_share: float = 0.2
    """... and in more than this share of its items are common (instructions, answer options) and left out; a story
    that a dozen questions are asked about is not."""
    common_documents: int = 100
    """N-grams in more documents of the corpus than this are common (licences, proverbs) and left out."""
    gap: int = 16
    """Hits of one item at most this many units apart are one span, and a span reaches at most this far beyond its
    hits to where the item's string begins and ends."""
    coverage: float = 0.3
    """A span is a leak when it holds this share of one of the item's strings ..."""
    long_span: int = 40
    """... or this many units of the item."""
    margin: int = 40
    """Characters cut on each side of a leak, or fewer when a sentence or line ends before."""
    drop_share: float = 0.5
    """A document that would lose more than this share of its characters is dropped whole."""
    shortest_rest: int = 100
    """A document that would have fewer characters left than this is dropped whole."""

    def __post_init__(self) -> None:
        for name in ("words", "characters", "shortest_words", "shortest_characters", "gap", "long_span"):
            if getattr(self, name) < 1:
                raise ValueError(f"decontaminate.{name} is {getattr(self, name)}: expected at least 1")
        if self.margin < 0:
            raise ValueError(f"decontaminate.margin is {self.margin}: expected at least 0")
        for name in ("coverage", "drop_share", "common_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"decontaminate.{name} is {getattr(self, name)}: expected a share in (0, 1]")


HIT_SCHEMA = {
    "id": pl.String,
    "set": pl.String,
    "item": pl.String,
    "units": pl.Int32,  # units of the item that the document holds
    "share": pl.Float32,  # the same as a share of the item's units
    "start": pl.Int64,  # first character of the span in the text as it was read
    "stop": pl.Int64,
    "action": pl.String,  # cut | dropped
    "excerpt": pl.String,
}
_ENDS = "\n。！？!?；;…"
_BEFORE = re.compile(rf"[{_ENDS}][”’」』）)\]]*|\.\s")
EXCERPT = 160


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A span of a document that an evaluation item holds, in units of the document."""

    item: int
    first: int
    last: int
    """One past the last unit."""
    covered: int
    """Units of the item found."""


def build_index(config: DecontaminateConfig) -> Index:
    """The index of all evaluation sets of the configuration."""
    return build(read_items(config.against), config)


def decontaminate(
    table: pl.DataFrame, index: Index, config: DecontaminateConfig
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Cut or drop what `table` shares with the evaluation sets.

    Returns the kept documents (with `spans_cut`), the rejected ones, and the table of hits (`HIT_SCHEMA`).
    """
    units, offsets, starts, stops = placed_units(table["text"])
    documents, places, grams = scan(units, offsets, index)
    texts: dict[int, str] = {}
    cuts = np.zeros(table.height, np.int32)
    reasons: dict[int, str] = {}
    hits: list[dict[str, object]] = []
    buffer, text_offsets = text_buffers(table["text"])
    for document in np.unique(documents).tolist():
        chosen = slice(*np.searchsorted(documents, [document, document + 1]).tolist())
        leaks = find_leaks(places[chosen], grams[chosen], index, config, int(offsets[document + 1] - offsets[document]))
        if not leaks:
            continue
        data = buffer[text_offsets[document] : text_offsets[document + 1]].tobytes()
        text = data.decode()
        unit, base = int(offsets[document]), int(text_offsets[document])
        spans = [_characters(data, leak, starts, stops, unit, base) for leak in leaks]
        merged = merge([widen(text, start, stop, config.margin) for start, stop in spans])
        lost = sum(stop - start for start, stop in merged)
        rest = cut(text, merged)
        if lost / len(text) > config.drop_share:
            reasons[document] = f"{lost / len(text):.3f} of the text > {config.drop_share:g}"
        elif len(rest) < config.shortest_rest:
            reasons[document] = f"{len(rest)} characters left < {config.shortest_rest}"
        cuts[document] = len(merged)
        texts[document] = rest
        for leak, (start, stop) in zip(leaks, spans, strict=True):
            hits.append(
                {
                    "id": table["id"][document],
                    "set": index.sets[leak.item],
                    "item": index.items[leak.item],
                    "units": leak.covered,
                    "share": leak.covered / int(index.unit_offsets[leak.item + 1] - index.unit_offsets[leak.item]),
                    "start": start,
                    "stop": stop,
                    "action": "dropped" if document in reasons else "cut",
                    "excerpt": text[start:stop][:EXCERPT],
                }
            )
    return *_apply(table, texts, cuts, reasons), pl.DataFrame(hits, schema=HIT_SCHEMA)


def _apply(
    table: pl.DataFrame, texts: dict[int, str], cuts: Array, reasons: dict[int, str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Kept documents with the leaks cut; as they were, those that are rejected for one of `reasons`, by their rows."""
    why = pl.Series("why", [reasons.get(document) for document in range(table.height)], dtype=pl.String)
    gone = why.is_not_null()
    rejected = table.filter(gone).with_columns(
        pl.lit(0, pl.Int32).alias("spans_cut"),
        pl.lit("decontaminate.leak").alias("rejected_by"),
        why.filter(gone).alias("rejected_value"),
    )
    if texts:
        whole = table["text"].to_list()
        for document, text in texts.items():
            whole[document] = text
        table = table.with_columns(pl.Series("text", whole, dtype=pl.String))
    return table.with_columns(pl.Series("spans_cut", cuts, dtype=pl.Int32)).filter(~gone), rejected


def find_leaks(places: Array, grams: Array, index: Index, config: DecontaminateConfig, units: int) -> list[Leak]:
    """The leaks of a document of `units` units from its hits: their units, ascending, and n-grams."""
    by_item: dict[int, list[tuple[int, int, int]]] = {}
    for place, gram in zip(places.tolist(), grams.tolist(), strict=True):
        for at in range(index.first[gram], index.first[gram + 1]):
            item = int(np.searchsorted(index.unit_offsets, index.places[at], side="right")) - 1
            by_item.setdefault(item, []).append((place, int(index.places[at]), int(index.lengths[at])))
    leaks = []
    for item, hits in sorted(by_item.items()):
        group: list[tuple[int, int, int]] = []
        reach = 0
        for hit in hits:
            if group and hit[0] > reach + config.gap:
                leaks.append(_judge(item, group, index, config, units))
                group = []
            group.append(hit)
            reach = max(reach if len(group) > 1 else 0, hit[0] + hit[2])
        leaks.append(_judge(item, group, index, config, units))
    return [leak for leak in leaks if leak is not None]


def _judge(
    item: int, hits: list[tuple[int, int, int]], index: Index, config: DecontaminateConfig, units: int
) -> Leak | None:
    """A leak if these hits hold enough of the item."""
    begin, end = int(index.unit_offsets[item]), int(index.unit_offsets[item + 1])
    held = np.zeros(end - begin, bool)
    for _, place, length in hits:
        held[place - begin : place - begin + length] = True
    covered = int(held.sum())
    strings = np.searchsorted(index.string_stops, [begin, end], side="right")
    bounds = np.concatenate([[begin], index.string_stops[strings[0] : strings[1]], [end]]) - begin
    parts = [held[a:b] for a, b in pairwise(bounds) if b - a >= config.shortest_words]
    if covered < config.long_span and not any(part.mean() >= config.coverage for part in parts):
        return None
    # an edit near either end of the leak hides the n-grams there: reach as far as the string that the hit is in does
    place, at, _ = hits[0]
    string = begin + int(bounds[np.searchsorted(bounds, at - begin, side="right") - 1])
    first = max(0, place - min(at - string, config.gap))
    place, at, length = max(hits, key=lambda hit: hit[0] + hit[2])
    string = begin + int(bounds[np.searchsorted(bounds, at + length - begin, side="left")])
    last = min(units, place + length + min(string - at - length, config.gap))
    return Leak(item=item, first=first, last=last, covered=covered)


def _characters(data: bytes, leak: Leak, starts: Array, stops: Array, unit: int, base: int) -> tuple[int, int]:
    """A leak's span in characters of its document."""
    start = int(starts[unit + leak.first]) - base
    stop = int(stops[unit + leak.last - 1]) - base
    before = len(data[:start].decode())
    return before, before + len(data[start:stop].decode())


def widen(text: str, start: int, stop: int, margin: int) -> tuple[int, int]:
    """The span with its margin: to the end of a sentence or line if one is near, else `margin` characters."""
    low = max(0, start - margin)
    ends = [match.end() for match in _BEFORE.finditer(text, low, start)]
    begin = ends[-1] if ends else low
    high = min(len(text), stop + margin)
    match = _BEFORE.search(text, stop, high)
    return begin, match.end() if match else high


def merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that overlap or touch, joined."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return merged


def cut(text: str, spans: list[tuple[int, int]]) -> str:
    """The text without the spans; what stood on either side of one is parted by a line feed."""
    pieces = []
    at = 0
    for start, stop in [*spans, (len(text), len(text))]:
        pieces.append(text[at:start])
        at = stop
    return "\n".join(piece.strip("\n") for piece in pieces if piece.strip())
