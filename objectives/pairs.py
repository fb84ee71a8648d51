"""Pairs of a text and what is to follow it, packed into rows: instruction pairs and fine-tuning pairs alike.

A text too long for its part of the row is cut; a target never is: a pair whose target does not fit beside a quarter of
the part is left out and counted. Pairs are packed once, greedily and in a random order; an epoch is a permutation of
the rows.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from objectives.example import Int64Array


class Documents(Protocol):
    """Token ids of numbered documents, such as a token shard's."""

    def __getitem__(self, document: int, /) -> NDArray[np.integer]: ...


@dataclass(frozen=True, kw_only=True)
class PairIndex:
    """Which pairs each row holds."""

    pairs: Int64Array
    """The pairs in the order of their rows."""
    row_ends: Int64Array
    """(rows,) where each row ends in `pairs`, exclusive."""
    text_lengths: Int64Array
    """(all pairs,) tokens of text that a pair keeps."""
    shortened: int
    """Pairs whose text lost a part."""
    left_out: int
    """Pairs without a target, or with one too long for their part of a row."""

    @property
    def rows(self) -> int:
        """Rows in an epoch."""
        return len(self.row_ends)

    def of_row(self, row: int) -> Int64Array:
        """The pairs of one row, in order."""
        return self.pairs[int(self.row_ends[row - 1]) if row else 0 : self.row_ends[row]]


def pack_pairs(
    text_lengths: Int64Array,
    target_lengths: Int64Array,
    order: Int64Array,
    window: int,
    *,
    windows: int,
    added: int,
    files: str,
) -> PairIndex:
    """Pack pairs into rows of `window` positions in `order`.

    A pair has at most a `windows`-th of a row, of which `added` positions are neither text nor target. Raises
    ValueError, naming the key `files`, where no pair fits.
    """
    limit = window // windows
    kept = np.minimum(text_lengths, np.maximum(limit // 4, limit - target_lengths - added))
    total = kept + target_lengths + added
    usable = (target_lengths > 0) & (total <= limit)
    pairs = order[usable[order]]
    if len(pairs) == 0:
        raise ValueError(f"{files}: none of {len(order)} pairs fits into {limit} positions")
    ends = np.cumsum(total[pairs])
    row_ends = []
    first, used = 0, 0
    while first < len(pairs):
        first = int(np.searchsorted(ends, used + window, side="right"))
        used = int(ends[first - 1])
        row_ends.append(first)
    return PairIndex(
        pairs=pairs,
        row_ends=np.array(row_ends),
        text_lengths=kept,
        shortened=int((kept < text_lengths)[pairs].sum()),
        left_out=len(order) - len(pairs),
    )
