"""Part A and Part B: where each token of a blank-infilling row goes (GLM §2.1; GLM-130B, Appendix B.3).

An example is a piece of a document whose spans are replaced by a mask token each (Part A, the context), followed by
the spans in the order asked for (Part B), each read as `<sop> s1 .. sl` and predicted as `s1 .. sl <eop>`:

    tokens   A B [M] D E [M] I J | sop F G H sop C
    targets  A B [M] D E [M] I J | F   G H eop C eop

A suffix made by `[gMASK]` is not closed: it is read as `<sop> s1 .. s(l-1)` and predicted as `s1 .. sl`.
All rows of a batch are laid out at once, as flat arrays. Suffixes of names: N source tokens, P pieces, K spans.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from objectives.example import Batch, Int32Array, Int64Array

#: How Part B is numbered: the mask's position for all, counting on after the mask, counting on from the mask itself,
#: or GLM's pair.
Numbering = Literal["repeated", "plain", "multi_task", "glm"]


class Pieces(NamedTuple):
    """Pieces of documents in a flat array of source tokens, in order, each an example of its own."""

    row_P: Int64Array
    """The row that a piece is packed into, never falling."""
    start_P: Int64Array
    """Its first token in the flat array."""
    length_P: Int64Array
    """Its number of tokens, 1 or more."""


class Spans(NamedTuple):
    """Spans of the pieces' tokens, sorted by start; none overlap or leave their piece."""

    piece_K: Int64Array
    """The piece that a span lies in."""
    start_K: Int64Array
    """Its first token in the flat array."""
    length_K: Int64Array
    """Its number of tokens, 1 or more."""
    order_K: Int64Array
    """The spans' indices in the order of Part B: piece after piece, shuffled within one."""


class Marks(NamedTuple):
    """The special tokens that one task puts into its rows."""

    mask: int
    sop: int
    eop: int
    pad: int


def running_start(lengths: Int64Array) -> Int64Array:
    """Where each of consecutive runs begins: the exclusive cumulative sum."""
    return np.cumsum(lengths) - lengths


class Canvas(NamedTuple):
    """Rows with their examples' extents drawn in, tokens still to come."""

    document: Int32Array
    """(R, S) the example's number in its row; a padding continues the count."""
    context_end: Int32Array
    """(R, S) where the example's context ends."""
    positions: Int32Array
    """(R, S) counted from the example's start; 0 at a padding."""
    is_padding: NDArray[np.bool_]
    """(R, S)"""


def pack(row_P: Int64Array, total_P: Int64Array, context_P: Int64Array, rows: int, window: int) -> Canvas:
    """Place examples of `total_P` positions, the first `context_P` of them context, one after the other in their rows.

    Raises ValueError where a row would overflow.
    """
    row_lengths = np.bincount(row_P, total_P, rows).astype(np.int64)
    if row_lengths.max(initial=0) > window:
        raise ValueError(f"a row of {row_lengths.max()} tokens does not fit into a window of {window}")
    in_row = np.bincount(row_P, minlength=rows)
    column_P = running_start(total_P) - np.repeat(running_start(row_lengths), in_row)
    number_P = np.arange(len(row_P)) - np.repeat(running_start(in_row), in_row)

    # One run of the flat canvas an example, and one for the padding of each row.
    padding = np.cumsum(in_row)
    runs = np.insert(total_P, padding, window - row_lengths)
    document = np.repeat(np.insert(number_P, padding, in_row).astype(np.int32), runs).reshape(rows, window)
    context_end = np.repeat(np.insert(column_P + context_P, padding, 0).astype(np.int32), runs).reshape(rows, window)
    start = np.repeat(np.insert(column_P, padding, row_lengths).astype(np.int32), runs).reshape(rows, window)

    column = np.arange(window, dtype=np.int32)
    positions = column - start
    is_padding = column >= row_lengths[:, None]
    # A padding is alone in its document, as a context of one: it sees itself and is seen by nobody.
    np.add(document, positions, out=document, where=is_padding)
    np.copyto(context_end, np.broadcast_to(column + 1, context_end.shape), where=is_padding)
    np.copyto(positions, np.int32(0), where=is_padding)
    return Canvas(document, context_end, positions, is_padding)


def lay_out(
    tokens_N: NDArray[np.integer],
    pieces: Pieces,
    spans: Spans,
    marks: Marks,
    *,
    rows: int,
    window: int,
    closed: bool,
    numbering: Numbering,
    noise_N: NDArray[np.bool_] | None = None,
) -> Batch:
    """Lay pieces out as `rows` rows of `window` positions; `closed` says whether spans end with `<eop>`.

    `noise_N` marks the source tokens that Part B's inputs show as the mask token. A row that would overflow is the
    caller's error (ValueError): nothing is ever cut here. `task` and `source` are left 0, `limited` False.
    """
    counts_P = np.bincount(spans.piece_K, minlength=len(pieces.row_P))
    masked_P = np.bincount(spans.piece_K, spans.length_K, len(pieces.row_P)).astype(np.int64)
    context_P = pieces.length_P - masked_P + counts_P
    total_P = pieces.length_P + counts_P * (2 if closed else 1)

    canvas = pack(pieces.row_P, total_P, context_P, rows, window)
    in_part_b = np.arange(window, dtype=np.int32) >= canvas.context_end
    positions = canvas.positions

    part_b = _read_spans(tokens_N, spans, marks, closed, noise_N)
    tokens = np.full((rows, window), marks.pad, np.int32)
    tokens[~(in_part_b | canvas.is_padding)] = _corrupt(tokens_N, spans, marks.mask)
    targets = tokens.copy()
    tokens[in_part_b] = part_b.tokens
    targets[in_part_b] = part_b.targets

    if numbering != "plain":
        mask_K = _mask_positions(pieces, spans)[spans.order_K].astype(np.int32)
        numbers = np.repeat(mask_K, part_b.lengths_K)
        if numbering == "multi_task":
            numbers += part_b.number
        positions[in_part_b] = numbers
    if numbering == "glm":
        inner = np.zeros_like(positions)
        inner[in_part_b] = part_b.number + 1
        positions = np.stack([positions, inner], axis=1)

    unmasked = np.bincount(pieces.row_P, np.where(counts_P == 0, pieces.length_P, 0), rows)
    return Batch(
        tokens=tokens,
        targets=targets,
        loss_weights=in_part_b.astype(np.float32),
        positions=positions,
        document=canvas.document,
        context_end=canvas.context_end,
        task=np.zeros(rows, np.int8),
        source=np.zeros(rows, np.int16),
        unmasked=unmasked.astype(np.int32),
        limited=np.zeros(rows, np.bool_),
    )


def _corrupt(tokens_N: NDArray[np.integer], spans: Spans, mask: int) -> Int32Array:
    """Part A of all pieces, one after the other: each span becomes one mask token."""
    edges = np.zeros(len(tokens_N) + 1, np.int8)
    edges[spans.start_K] += 1
    edges[spans.start_K + spans.length_K] -= 1
    keep = np.cumsum(edges[:-1], dtype=np.int8) == 0
    keep[spans.start_K] = True
    corrupted = tokens_N.astype(np.int32)
    corrupted[spans.start_K] = mask
    return corrupted[keep]


class _PartB(NamedTuple):
    """Part B of all pieces, one after the other."""

    tokens: Int32Array
    targets: Int32Array
    number: Int32Array
    """Each position's number within its span, from 0 at `<sop>`."""
    lengths_K: Int64Array
    """Positions of each span, in the order of Part B."""


def _read_spans(
    tokens_N: NDArray[np.integer], spans: Spans, marks: Marks, closed: bool, noise_N: NDArray[np.bool_] | None
) -> _PartB:
    start_K, length_K = spans.start_K[spans.order_K], spans.length_K[spans.order_K]
    lengths_K = length_K + 1 if closed else length_K
    first_K = running_start(lengths_K)
    index = np.arange(lengths_K.sum())
    number = index - np.repeat(first_K, lengths_K)
    # The target stands one token ahead of the input; the slots of <sop> and <eop> are written over.
    ahead = index + np.repeat(start_K - first_K, lengths_K)
    tokens = tokens_N.take(ahead - 1, mode="clip").astype(np.int32)
    targets = tokens_N.take(ahead, mode="clip").astype(np.int32)
    if noise_N is not None:
        tokens[noise_N.take(ahead - 1, mode="clip")] = marks.mask
    tokens[first_K] = marks.sop
    if closed:
        targets[first_K + length_K] = marks.eop
    return _PartB(tokens, targets, number.astype(np.int32), lengths_K)


def _mask_positions(pieces: Pieces, spans: Spans) -> Int64Array:
    """(K,) the index of each span's mask token in Part A of its piece."""
    removed_K = running_start(spans.length_K - 1)
    counts_P = np.bincount(spans.piece_K, minlength=len(pieces.row_P))
    first_span_P = running_start(counts_P)
    removed_before_piece_K = removed_K[first_span_P[spans.piece_K]]
    return spans.start_K - pieces.start_P[spans.piece_K] - (removed_K - removed_before_piece_K)
