"""The redact stage: personal data replaced by typed placeholders, and counted.

What is looked for stands in `data/personal_data.py`. Whole columns are searched first, so that a text without any
costs a search alone.
"""

from __future__ import annotations

import collections
import functools
import operator
from dataclasses import dataclass, field

import polars as pl

from data.personal_data import KINDS, PATTERNS, Pattern, PersonalData


@dataclass(frozen=True, kw_only=True)
class RedactConfig:
    """Which personal data is masked, and how."""

    types: list[PersonalData] = field(default_factory=lambda: list(KINDS))
    """The kinds to mask; those left out are let stand."""
    placeholder: str = "<{type}>"
    """What stands in the place of a masked span; `{type}` is its kind."""
    private_addresses: bool = False
    """Whether IP addresses that lead nowhere outside (loopback, private networks, unspecified) are masked too."""

    def __post_init__(self) -> None:
        if not self.types:
            raise ValueError("redact: types is empty; name at least one kind, or leave the stage out")


def _redact_text(text: str, patterns: list[Pattern], config: RedactConfig) -> tuple[str, collections.Counter[str]]:
    """The text with what these patterns find masked, and how many spans of each kind were."""
    counts: collections.Counter[str] = collections.Counter()
    for pattern in patterns:
        pieces, end, found = [], 0, 0
        for match in pattern.exact.finditer(text):
            if not pattern.check(match) or not (config.private_addresses or pattern.public(match)):
                continue
            start, stop = match.span("number" if "number" in pattern.exact.groupindex else 0)
            pieces += [text[end:start], config.placeholder.replace("{type}", pattern.kind)]
            end, found = stop, found + 1
        if found:
            text = "".join(pieces) + text[end:]
            counts[pattern.kind] += found
    return text, counts


def _suspects(texts: pl.Series, pattern: Pattern) -> pl.Series:
    """Which texts may hold this pattern: Boolean, a text each."""
    return functools.reduce(operator.or_, (texts.str.contains(search) for search in pattern.search))


def redact(table: pl.DataFrame, config: RedactConfig) -> pl.DataFrame:
    """`table` with personal data in `text` masked, `redactions` spans a document and `redacted_<kind>` of each kind."""
    texts = table["text"].fill_null("")
    patterns = [pattern for pattern in PATTERNS if pattern.kind in config.types]
    suspects = [_suspects(texts, pattern) for pattern in patterns]
    found = {kind: [0] * table.height for kind in KINDS if kind in config.types}
    rows = functools.reduce(operator.or_, suspects).arg_true().to_list()
    changed = []
    for row, text in zip(rows, texts.gather(rows), strict=True):
        suspected = [pattern for pattern, rows_of_it in zip(patterns, suspects, strict=True) if rows_of_it[row]]
        masked, counts = _redact_text(text, suspected, config)
        changed.append(masked)
        for kind in found.keys() & counts.keys():
            found[kind][row] = counts[kind]
    if rows:
        texts = texts.clone().scatter(rows, pl.Series(changed, dtype=pl.String))
    counts_by_kind = [pl.Series(f"redacted_{kind}", found[kind], dtype=pl.Int32) for kind in found]
    total = pl.select(pl.sum_horizontal(*counts_by_kind).cast(pl.Int32).alias("redactions"))["redactions"]
    return table.with_columns(texts.alias("text"), total.alias("redactions"), *counts_by_kind)
