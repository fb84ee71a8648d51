"""Held-out rows: of each window of text the first half is context and the second half is scored.

A blank-infilling model reads the first half as context and generates the second for `[gMASK]`; a causal model reads
both from left to right. Both score the same tokens, so their bits per byte compare (GLM-130B scores the Pile so, with
1,024 tokens of each). `<|endoftext|>` is neither scored nor counted.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from objectives.blank_infilling import marks_of, numbering_of
from objectives.causal import build_causal
from objectives.config import ObjectiveConfig
from objectives.example import TASKS, Batch, Int32Array
from objectives.layout import Pieces, Spans, lay_out, running_start
from objectives.source import SourceRows
from tokenizer.special_tokens import SpecialTokens


class HeldoutRows(NamedTuple):
    """Rows to score, and what their targets stand for."""

    batch: Batch
    """The rows; `loss_weights` is 1 at the scored targets."""
    target_bytes: Int32Array
    """(B, S) UTF-8 bytes of each scored target, 0 elsewhere."""


def heldout_rows(
    documents: Iterable[NDArray[np.integer]],
    objective: ObjectiveConfig,
    window: int,
    special: SpecialTokens,
    byte_lengths: Int32Array,
    *,
    rows_in_batch: int = 8,
) -> Iterator[HeldoutRows]:
    """Batches of at most `rows_in_batch` rows of `window` positions from documents in order.

    A document longer than a window is cut into equal parts. Documents of fewer than two tokens have nothing to score.
    """
    rows: list[list[NDArray[np.integer]]] = []
    free = 0
    for piece in _pieces(documents, window - 1, special.endoftext):
        needed = len(piece) + 1
        if needed > free:
            if len(rows) == rows_in_batch:
                yield _score(rows, objective, window, special, byte_lengths)
                rows = []
            rows.append([])
            free = window
        rows[-1].append(piece)
        free -= needed
    if rows:
        yield _score(rows, objective, window, special, byte_lengths)


def _pieces(documents: Iterable[NDArray[np.integer]], longest: int, endoftext: int) -> Iterator[NDArray[np.integer]]:
    for document in documents:
        text = document[:-1] if len(document) and document[-1] == endoftext else document
        if len(text) >= 2:
            parts = -(-len(text) // longest)
            yield from np.array_split(text, parts)


def _score(
    rows: list[list[NDArray[np.integer]]],
    objective: ObjectiveConfig,
    window: int,
    special: SpecialTokens,
    byte_lengths: Int32Array,
) -> HeldoutRows:
    lengths = np.array([len(piece) for row in rows for piece in row])
    row_P = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    context = lengths // 2
    tokens = np.concatenate([piece for row in rows for piece in row])
    pieces = Pieces(row_P, running_start(lengths), lengths)
    if objective.kind == "blank_infilling":
        number = np.arange(len(lengths))
        spans = Spans(number, pieces.start_P + context, lengths - context, number)
        batch = lay_out(
            tokens, pieces, spans, marks_of(special, "document"),
            rows=len(rows), window=window, closed=False,
            numbering=numbering_of(objective.blank_infilling, "document"),
        )  # fmt: skip
        batch.task[:] = TASKS.index("document")
    else:
        batch = _causal_rows(tokens, pieces, context, len(rows), window, special.pad)
    scored = np.where(batch.loss_weights > 0, byte_lengths[batch.targets], 0)
    return HeldoutRows(batch, scored.astype(np.int32))


def _causal_rows(
    tokens: NDArray[np.integer], pieces: Pieces, context: NDArray[np.integer], rows: int, window: int, pad: int
) -> Batch:
    """The pieces left to right; the target of a piece's position j is its token j + 1, scored from `context` on."""
    row_lengths = np.bincount(pieces.row_P, pieces.length_P, rows).astype(np.int64)
    in_row = np.arange(window + 1) < row_lengths[:, None]
    read = np.full((rows, window + 1), pad, np.int32)
    read[in_row] = tokens
    # Each piece ends a document, and so does each padding.
    piece_ends = np.zeros(len(tokens), np.bool_)
    piece_ends[pieces.start_P + pieces.length_P - 1] = True
    is_end = ~in_row
    is_end[in_row] = piece_ends
    batch = build_causal(SourceRows(read, np.flatnonzero(is_end) + 1, np.zeros(rows, np.bool_)), pad)
    number = np.arange(len(tokens)) - np.repeat(pieces.start_P, pieces.length_P)
    # Position j predicts token j + 1.
    scored = np.zeros((rows, window + 1), np.bool_)
    scored[in_row] = number + 1 >= np.repeat(context, pieces.length_P)
    batch.loss_weights[:] *= scored[:, :window]
    return batch
