"""Which tokens a blank takes: the draws of `[MASK]`, `[sMASK]` and `[gMASK]` (GLM §2.1, GLM-130B §2.2 and Table 11).

All draws of a batch are made at once. A draw belongs to a token of its row: its counter is that token's place in the
row, so the draws of a row depend on the row's key alone. Suffixes of names: N source tokens, P pieces, D draws,
K spans.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from objectives.example import Int64Array
from objectives.layout import Pieces, Spans, running_start
from objectives.random import UInt64Array, as_floats, as_integers, derive_keys, draw_bits

# What a stream of draws is for; the numbers are part of every run's order and must not change.
LENGTHS: Final = 1
PLACES: Final = 2
ORDER: Final = 3
SUFFIXES: Final = 4
SENTENCES: Final = 5
SHORT_SEQUENCES: Final = 6
SINGLE_SPANS: Final = 7
NOISE: Final = 8
FIM: Final = 9

_KEY_BITS: Final = np.uint64(40)


class Drawn(NamedTuple):
    """Spans of a batch, and which pieces a lack of room kept from having their share."""

    spans: Spans
    limited_P: NDArray[np.bool_]


class PieceDraws(NamedTuple):
    """What the draws of a batch's pieces need to know."""

    pieces: Pieces
    maskable_P: Int64Array
    """Tokens of a piece that a blank may take, from its start: all but a closing `<|endoftext|>`."""
    key_P: UInt64Array
    """The key of the piece's row."""
    counter_P: Int64Array
    """The place in its row of the piece's first token."""


def span_length_distribution(mean: float, longest: int) -> NDArray[np.float64]:
    """Probabilities of the lengths 1 .. longest: Poisson(mean), divided by what lies in that range."""
    lengths = np.arange(1, longest + 1)
    logarithms = lengths * np.log(mean) - np.cumsum(np.log(lengths))
    weights = np.exp(logarithms - logarithms.max())
    return weights / weights.sum()


def _sort_by_key(group: Int64Array, bits: UInt64Array) -> Int64Array:
    """Indices that sort by `group` and, within one, by the upper 40 of the random `bits`."""
    return np.argsort((group.astype(np.uint64) << _KEY_BITS) | (bits >> np.uint64(24)), kind="stable")


def draw_short_spans(
    draws: PieceDraws, targets_P: Int64Array, probabilities: NDArray[np.float64], spans_in_row: int, rows: int
) -> Drawn:
    """Spans of random lengths until a piece's target is reached, scattered with a token or more between two.

    The last span may overshoot. A span that would not fit into its piece, or be one too many for its row (which holds
    `spans_in_row`, the longest pieces first), ends the drawing; it and its successors are never placed.
    """
    pieces = draws.pieces
    piece_D = np.repeat(np.arange(len(targets_P)), targets_P)
    number_D = np.arange(len(piece_D)) - np.repeat(running_start(targets_P), targets_P)
    counter_D = draws.counter_P[piece_D] + number_D
    edges = np.cumsum(probabilities)[:-1]
    lengths_D = np.searchsorted(edges, as_floats(draw_bits(derive_keys(draws.key_P, LENGTHS)[piece_D], counter_D)),
                                side="right") + 1  # fmt: skip
    summed_D = np.cumsum(lengths_D)
    before_D = summed_D - lengths_D
    before_D -= before_D[np.repeat(running_start(targets_P), targets_P)] if len(before_D) else 0
    wanted_D = before_D < targets_P[piece_D]
    # With `number` gaps of one token before it, the span must end within the piece.
    fits_D = before_D + lengths_D + number_D <= draws.maskable_P[piece_D]
    taken_D = wanted_D & fits_D
    limited_P = np.zeros(len(targets_P), np.bool_)
    limited_P[piece_D[wanted_D & ~fits_D]] = True
    allowed_P = share_room(pieces, np.bincount(piece_D[taken_D], minlength=len(targets_P)), spans_in_row, rows)
    if allowed_P is not None:
        dropped_D = taken_D & (number_D >= allowed_P[piece_D])
        limited_P[piece_D[dropped_D]] = True
        taken_D &= ~dropped_D
    piece_K, length_K, counter_K = piece_D[taken_D], lengths_D[taken_D], counter_D[taken_D]
    start_K, sorted_K = _scatter(draws, piece_K, length_K, counter_K)
    spans = _shuffle(draws, piece_K, start_K, length_K[sorted_K], counter_K)
    return Drawn(spans, limited_P)


def share_room(pieces: Pieces, counts_P: Int64Array, spans_in_row: int, rows: int) -> Int64Array | None:
    """How many spans each piece may have so that no row has more than `spans_in_row`; None if all may have theirs."""
    if np.bincount(pieces.row_P, counts_P, rows).max(initial=0) <= spans_in_row:
        return None
    longest_first = np.lexsort((-pieces.length_P, pieces.row_P))
    counts = counts_P[longest_first]
    in_row = np.bincount(pieces.row_P, minlength=rows)
    before = running_start(counts)
    before -= np.repeat(np.append(before, 0)[running_start(in_row)], in_row)
    allowed_P = np.empty_like(counts_P)
    allowed_P[longest_first] = np.clip(spans_in_row - before, 0, counts)
    return allowed_P


def _scatter(
    draws: PieceDraws, piece_K: Int64Array, length_K: Int64Array, counter_K: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """Starts of the spans in order, and the indices that put the spans into that order.

    n spans leave free = tokens - masked - (n - 1) tokens besides the gaps; n sorted uniform draws from [0, free] say
    how many of them stand before each span.
    """
    counts_P = np.bincount(piece_K, minlength=len(draws.maskable_P))
    masked_P = np.bincount(piece_K, length_K, len(draws.maskable_P)).astype(np.int64)
    bits = draw_bits(derive_keys(draws.key_P, PLACES)[piece_K], counter_K)
    order = _sort_by_key(piece_K, bits)
    places_P = draws.maskable_P - masked_P - counts_P + 2
    free_before = ((bits[order] >> np.uint64(24)) * places_P[piece_K].astype(np.uint64) >> _KEY_BITS).astype(np.int64)
    length_sorted = length_K[order]
    taken_before = running_start(length_sorted + 1)
    if len(taken_before):
        first_K = running_start(counts_P)[piece_K]
        taken_before = taken_before - taken_before[first_K]
    return draws.pieces.start_P[piece_K] + free_before + taken_before, order


def _shuffle(
    draws: PieceDraws, piece_K: Int64Array, start_K: Int64Array, length_K: Int64Array, counter_K: Int64Array
) -> Spans:
    """The spans with a random order of Part B; `counter_K` gives each span of a piece a draw of its own."""
    bits = draw_bits(derive_keys(draws.key_P, ORDER)[piece_K], counter_K)
    return Spans(piece_K, start_K, length_K, _sort_by_key(piece_K, bits))


def draw_sentences(
    draws: PieceDraws, targets_P: Int64Array, ends_N: NDArray[np.bool_], spans_in_row: int, rows: int
) -> Drawn:
    """Whole sentences in random order until a piece's target is reached; neighbours may both be taken.

    `ends_N` marks the last token of every sentence. The last sentence taken may overshoot by far.
    """
    pieces = draws.pieces
    ends_N = ends_N.copy()
    filled = draws.maskable_P > 0
    last_P = pieces.start_P + draws.maskable_P - 1
    ends_N[last_P[filled]] = True
    stops = np.flatnonzero(ends_N)
    piece_D = np.searchsorted(pieces.start_P, stops, side="right") - 1
    inside = stops <= last_P[piece_D]
    stops, piece_D = stops[inside], piece_D[inside]
    new_piece = np.append(True, piece_D[1:] != piece_D[:-1])[: len(piece_D)]
    starts = np.where(new_piece, pieces.start_P[piece_D], np.append(0, stops[:-1] + 1)[: len(stops)])
    lengths = stops - starts + 1
    counter_D = draws.counter_P[piece_D] + starts - pieces.start_P[piece_D]

    order = _sort_by_key(piece_D, draw_bits(derive_keys(draws.key_P, SENTENCES)[piece_D], counter_D))
    counts_P = np.bincount(piece_D, minlength=len(targets_P))
    first_D = np.repeat(running_start(counts_P), counts_P)
    before = running_start(lengths[order])
    before -= before[first_D] if len(before) else 0
    taken = before < targets_P[piece_D]
    limited_P = np.zeros(len(targets_P), np.bool_)
    number = np.arange(len(order)) - first_D
    allowed_P = share_room(pieces, np.bincount(piece_D[taken], minlength=len(targets_P)), spans_in_row, rows)
    if allowed_P is not None:
        dropped = taken & (number >= allowed_P[piece_D])
        limited_P[piece_D[dropped]] = True
        taken &= ~dropped
    chosen = np.sort(order[taken])
    spans = _shuffle(draws, piece_D[chosen], starts[chosen], lengths[chosen], counter_D[chosen])
    return Drawn(spans, limited_P)


def draw_suffixes(draws: PieceDraws, least_P: Int64Array, most_P: Int64Array, spans_in_row: int, rows: int) -> Drawn:
    """One suffix a piece, its length uniform on [least, most]; the shortest pieces of a full row get none."""
    pieces = draws.pieces
    bits = draw_bits(derive_keys(draws.key_P, SUFFIXES), draws.counter_P)
    length_P = least_P + as_integers(bits, most_P - least_P + 1)
    allowed_P = share_room(pieces, (length_P > 0).astype(np.int64), spans_in_row, rows)
    chosen = np.flatnonzero((length_P > 0) if allowed_P is None else allowed_P > 0)
    limited_P = (length_P > 0).copy()
    limited_P[chosen] = False
    length_K = length_P[chosen]
    start_K = pieces.start_P[chosen] + pieces.length_P[chosen] - length_K
    return Drawn(Spans(chosen, start_K, length_K, np.arange(len(chosen))), limited_P)
