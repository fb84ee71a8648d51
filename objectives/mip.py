"""Multi-task instruction pre-training: prompted (text, target) pairs as blanks at the end (GLM-130B §2.2, App. C).

A pair is read as `text [MASK] <sop> target` and predicts `target <eop>`. A text too long for its part of the row keeps
its head; a target is never cut: a pair whose target does not fit beside a quarter of text is left out and counted.
Pairs are packed into rows once, greedily and in a random order; an epoch is a permutation of those rows.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from objectives.blank_infilling import marks_of, numbering_of
from objectives.config import BlankInfillingConfig
from objectives.example import TASKS, Batch, Int64Array
from objectives.layout import Pieces, Spans, lay_out, running_start
from tokenizer.special_tokens import SpecialTokens


class Documents(Protocol):
    """Token ids of numbered documents, such as a token shard's."""

    def __getitem__(self, document: int, /) -> NDArray[np.integer]: ...


_ADDED = 2  # the mask token and <sop>


@dataclass(frozen=True, kw_only=True)
class MipIndex:
    """Which pairs each row holds."""

    pairs: Int64Array
    """The pairs in the order of their rows."""
    row_ends: Int64Array
    """(rows,) where each row ends in `pairs`, exclusive."""
    text_lengths: Int64Array
    """(all pairs,) tokens of text that a pair keeps."""
    shortened: int
    """Pairs whose text lost its tail."""
    left_out: int
    """Pairs without a target, or with one too long for a window."""

    @property
    def rows(self) -> int:
        """Rows in an epoch."""
        return len(self.row_ends)


def index_pairs(
    text_lengths: Int64Array, target_lengths: Int64Array, order: Int64Array, window: int, windows: int
) -> MipIndex:
    """Pack pairs into rows of `window` positions in `order`; a pair has at most a `windows`-th of a row.

    Raises ValueError where no pair fits.
    """
    limit = window // windows
    kept = np.minimum(text_lengths, np.maximum(limit // 4, limit - target_lengths - _ADDED))
    total = kept + target_lengths + _ADDED
    usable = (target_lengths > 0) & (total <= limit)
    pairs = order[usable[order]]
    if len(pairs) == 0:
        raise ValueError(f"data.mip_files: none of {len(order)} pairs fits into {limit} positions")
    ends = np.cumsum(total[pairs])
    row_ends = []
    first, used = 0, 0
    while first < len(pairs):
        first = int(np.searchsorted(ends, used + window, side="right"))
        used = int(ends[first - 1])
        row_ends.append(first)
    return MipIndex(
        pairs=pairs,
        row_ends=np.array(row_ends),
        text_lengths=kept,
        shortened=int((kept < text_lengths)[pairs].sum()),
        left_out=len(order) - len(pairs),
    )


def build_mip(
    rows: Int64Array,
    index: MipIndex,
    texts: Documents,
    targets: Documents,
    config: BlankInfillingConfig,
    window: int,
    special: SpecialTokens,
) -> Batch:
    """The rows of `index` with the numbers `rows` (R,), each `window` positions long."""
    row_P, parts, text_lengths, target_lengths = [], [], [], []
    for number, row in enumerate(rows.tolist()):
        begin = int(index.row_ends[row - 1]) if row else 0
        for pair in index.pairs[begin : index.row_ends[row]].tolist():
            text = texts[pair][: index.text_lengths[pair]]
            target = targets[pair]
            row_P.append(number)
            parts += [text, target]
            text_lengths.append(len(text))
            target_lengths.append(len(target))
    length_P = np.array(text_lengths) + np.array(target_lengths)
    pieces = Pieces(np.array(row_P), running_start(length_P), length_P)
    number_P = np.arange(len(row_P))
    spans = Spans(number_P, pieces.start_P + np.array(text_lengths), np.array(target_lengths), number_P)
    batch = lay_out(
        np.concatenate(parts), pieces, spans, marks_of(special, "mip"),
        rows=len(rows), window=window, closed=True, numbering=numbering_of(config, "mip"),
    )  # fmt: skip
    batch.task[:] = TASKS.index("mip")
    return batch
