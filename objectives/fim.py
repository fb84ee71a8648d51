"""Fill-in-the-middle on code: a piece is read as prefix, suffix, middle (Bavarian et al. 2022, PSM; GLM-4.5 §2.2).

    <|code_prefix|> prefix <|code_suffix|> suffix <|code_middle|> middle

with every token a target of the one before it, so that the model still learns all of the code. The middle is closed by
`<|endoftext|>`: it is where the model must stop. A piece that its row cut off before the document's end has it as a
target alone. Rows leave room for the three tokens a piece; the draws belong to the tokens of a row, as in spans.py.
"""

import numpy as np
from numpy.typing import NDArray

from objectives import spans as draw
from objectives.config import CausalConfig
from objectives.example import TASKS, Batch, Int64Array
from objectives.layout import Pieces, pack, running_start
from objectives.random import UInt64Array, as_floats, as_integers, derive_keys, draw_bits
from objectives.source import SourceRows
from tokenizer.special_tokens import SpecialTokens


def fim_stride(config: CausalConfig, window: int) -> int:
    """Source tokens in a row of code. ValueError if that leaves no room for the three tokens."""
    stride = int(window * config.fim_fill)
    if window - stride < 3:
        raise ValueError(
            f"objective.causal.fim_fill: {config.fim_fill} of {window} positions leaves {window - stride}; "
            "fill-in-the-middle adds three, so make it smaller"
        )
    return stride


def build_fim(
    source: SourceRows, keys_R: UInt64Array, config: CausalConfig, window: int, special: SpecialTokens
) -> Batch:
    """Rows of `window` positions from `source` of stride + 1 tokens; its last column only serves as a target."""
    rows, length = source.tokens.shape
    stride = length - 1
    is_end = np.zeros(rows * length + 1, np.bool_)
    is_end[source.ends] = True
    is_start = is_end.copy()
    # The column that only serves as a target is no piece's.
    is_start[np.arange(rows + 1) * length] = True
    is_start[np.arange(1, rows + 1) * length - 1] = True
    bounds = np.flatnonzero(is_start)
    start_P = bounds[:-1][bounds[:-1] % length < stride]
    length_P = bounds[np.searchsorted(bounds, start_P) + 1] - start_P
    pieces = Pieces(start_P // length, start_P, length_P)
    closed_P = is_end[start_P + length_P]
    chosen_P, limited_P, first_cut_P, second_cut_P = _choose(
        pieces, length_P - closed_P, keys_R, config.fim_rate, length, (window - stride) // 3, rows
    )

    first, lengths = _segments(pieces, closed_P, chosen_P, first_cut_P, second_cut_P, rows * length)
    total_P = lengths.sum(axis=1)
    lengths = lengths.reshape(-1)
    index = np.arange(lengths.sum()) + np.repeat(first.reshape(-1) - running_start(lengths), lengths)
    marks = [special.code_prefix, special.code_suffix, special.code_middle, special.endoftext, special.pad]
    vocabulary = np.append(source.tokens.reshape(-1).astype(np.int32), np.array(marks, np.int32))
    read = vocabulary[index]
    last_P = np.cumsum(total_P) - 1
    ahead = np.append(index[1:], 0)
    endoftext, nothing = rows * length + 3, rows * length + 4
    ahead[last_P] = np.where(closed_P, nothing, np.where(chosen_P, endoftext, start_P + length_P))

    canvas = pack(pieces.row_P, total_P, np.zeros_like(total_P), rows, window)
    tokens = np.full((rows, window), special.pad, np.int32)
    targets = np.full((rows, window), special.pad, np.int32)
    weights = np.zeros((rows, window), np.float32)
    tokens[~canvas.is_padding] = read
    targets[~canvas.is_padding] = vocabulary[ahead]
    weights[~canvas.is_padding] = ahead != nothing
    limited = np.zeros(rows, np.bool_)
    limited[pieces.row_P[limited_P]] = True
    return Batch(
        tokens=tokens,
        targets=targets,
        loss_weights=weights,
        positions=canvas.positions,
        document=canvas.document,
        context_end=canvas.context_end,
        task=np.full(rows, TASKS.index("fim"), np.int8),
        source=np.zeros(rows, np.int16),
        unmasked=np.zeros(rows, np.int32),
        limited=limited,
    )


def _choose(
    pieces: Pieces, text_P: Int64Array, keys_R: UInt64Array, rate: float, length: int, pieces_in_row: int, rows: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Int64Array, Int64Array]:
    """Which pieces are rearranged, which would be but for a lack of room, and where their middles begin and end."""
    keys_P = derive_keys(keys_R, draw.FIM)[pieces.row_P]
    counter_P = 3 * (pieces.start_P % length)
    wanted_P = (as_floats(draw_bits(keys_P, counter_P)) < rate) & (text_P > 0)
    allowed_P = draw.share_room(pieces, wanted_P.astype(np.int64), pieces_in_row, rows)
    chosen_P = wanted_P if allowed_P is None else allowed_P > 0
    cuts = np.stack([as_integers(draw_bits(keys_P, counter_P + number), text_P + 1) for number in (1, 2)])
    cuts.sort(axis=0)
    return chosen_P, wanted_P & ~chosen_P, cuts[0], cuts[1]


def _segments(
    pieces: Pieces,
    closed_P: NDArray[np.bool_],
    chosen_P: NDArray[np.bool_],
    first_cut_P: Int64Array,
    second_cut_P: Int64Array,
    marks: int,
) -> tuple[Int64Array, Int64Array]:
    """(P, 7) where the seven runs of each piece's row begin in the vocabulary of `build_fim`, and their lengths.

    The marks of prefix, suffix and middle stand at `marks`, `marks` + 1 and + 2. A piece left alone is its third run.
    """
    start_P, length_P = pieces.start_P, pieces.length_P
    text_P = length_P - closed_P
    first = np.zeros((len(start_P), 7), np.int64)
    lengths = np.zeros((len(start_P), 7), np.int64)
    first[:, 0], lengths[:, 0] = marks, 1
    first[:, 1], lengths[:, 1] = start_P, first_cut_P
    first[:, 2], lengths[:, 2] = marks + 1, 1
    first[:, 3], lengths[:, 3] = start_P + second_cut_P, text_P - second_cut_P
    first[:, 4], lengths[:, 4] = marks + 2, 1
    first[:, 5], lengths[:, 5] = start_P + first_cut_P, second_cut_P - first_cut_P
    first[:, 6], lengths[:, 6] = start_P + text_P, closed_P
    lengths[~chosen_P] = 0
    first[~chosen_P, 2], lengths[~chosen_P, 2] = start_P[~chosen_P], length_P[~chosen_P]
    return first, lengths
