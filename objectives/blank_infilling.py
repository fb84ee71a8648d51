"""Autoregressive blank infilling: rows of source tokens to rows of a batch (GLM §2.1, GLM-130B §2.2).

A row of source tokens is cut at document ends and at the ends of its windows; each piece is an example of its own.
A row holds as many source tokens as leave room for what its task adds (`source_stride`), so that nothing overflows
and every source token is used once an epoch.
"""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from objectives import spans as draw
from objectives.config import BlankInfillingConfig
from objectives.example import TASKS, Batch, Int64Array
from objectives.layout import Marks, Numbering, Pieces, lay_out
from objectives.random import UInt64Array, as_floats, as_integers, derive_keys, draw_bits
from objectives.sentences import SentenceEnds
from objectives.source import SourceRows
from tokenizer.special_tokens import SpecialTokens

BlankTask = Literal["mask", "sentence", "document"]

#: The order in which a source's rows are shared among the tasks.
BLANK_TASKS: Final[tuple[BlankTask, ...]] = ("mask", "sentence", "document")


def source_stride(config: BlankInfillingConfig, task: BlankTask, window: int) -> int:
    """Source tokens in a row of `task`. ValueError if a row of `window` positions is too small for it."""
    windows = windows_in_row(config, task)
    fill = {"mask": config.mask_fill, "sentence": config.sentence_fill, "document": config.document_fill}[task]
    stride = int(window // windows * fill) * windows
    added = 1 if task == "document" else 2
    if stride // windows < 8 or window - stride < added * windows:
        raise ValueError(
            f"data.window: {window} positions are too few for {windows} windows of the task {task} "
            f"({stride} source tokens would leave room for {(window - stride) // added} blanks); "
            "make the window longer, or objective.blank_infilling's windows fewer or its fill smaller"
        )
    return stride


def windows_in_row(config: BlankInfillingConfig, task: BlankTask) -> int:
    """Into how many windows a row of `task` is cut."""
    return {"mask": config.mask_windows, "sentence": config.sentence_windows, "document": 1}[task]


def marks_of(special: SpecialTokens, task: BlankTask | Literal["mip"]) -> Marks:
    """The special tokens of a task's rows; instruction pairs use `[MASK]`."""
    mask = {"sentence": special.smask, "document": special.gmask}.get(task, special.mask)
    return Marks(mask=mask, sop=special.sop, eop=special.eop, pad=special.pad)


def numbering_of(config: BlankInfillingConfig, task: BlankTask | Literal["mip"]) -> Numbering:
    """How a task's Part B is numbered under `config.positions`."""
    if config.positions == "glm":
        return "glm"
    if task == "mip":
        return config.mip_positions
    if config.positions == "multi_task":
        return "multi_task"
    return "plain" if task == "document" else "repeated"


class BlankInfilling:
    """Makes batches of one configuration, one window length and one vocabulary."""

    def __init__(
        self,
        config: BlankInfillingConfig,
        window: int,
        special: SpecialTokens,
        sentence_ends: SentenceEnds | None = None,
    ) -> None:
        """`sentence_ends` is needed where sentences have a share. Raises ValueError for a window too small."""
        self.config = config
        self.window = window
        self.special = special
        self.sentence_ends = sentence_ends
        self.length_probabilities = draw.span_length_distribution(config.span_mean, config.span_longest)
        for task, share in zip(BLANK_TASKS, self.task_shares, strict=True):
            if share > 0:
                source_stride(config, task, window)
        if config.sentence_share > 0 and sentence_ends is None:
            raise ValueError(
                "objective.blank_infilling.sentence_share: whole sentences need the tokenizer's vocabulary"
            )

    @property
    def task_shares(self) -> tuple[float, float, float]:
        """The shares of BLANK_TASKS, as configured."""
        return self.config.mask_share, self.config.sentence_share, self.config.document_share

    @property
    def two_dimensional(self) -> bool:
        """Whether a position is a pair."""
        return self.config.positions == "glm"

    def build(self, task: BlankTask, source: SourceRows, keys_R: UInt64Array) -> Batch:
        """One row a row of `source` (R, source_stride), drawn from `keys_R` (R,)."""
        rows, length = source.tokens.shape
        windows = windows_in_row(self.config, task)
        cuts = np.arange(rows * windows) * (length // windows)
        if task == "mask":
            cuts = np.concatenate([cuts, self._short_sequences(keys_R, length)])
        draws = _cut(source, cuts, keys_R)
        tokens_N = source.tokens.reshape(-1)
        numbering = numbering_of(self.config, task)
        room = self.window - length
        noise_N = None
        if task == "document":
            drawn = self._draw_documents(draws, room, rows)
        elif task == "sentence":
            assert self.sentence_ends is not None
            targets_P = np.floor(self.config.sentence_ratio * draws.maskable_P).astype(np.int64)
            ends_N = self.sentence_ends.find(source.tokens, source.is_code).reshape(-1)
            drawn = draw.draw_sentences(draws, targets_P, ends_N, room // 2, rows)
        else:
            drawn = self._draw_masks(draws, length, room // 2, rows)
            if self.config.decoder_noise > 0:
                noise_keys = derive_keys(keys_R, draw.NOISE)[:, None]
                noise_N = (as_floats(draw_bits(noise_keys, np.arange(length))) < self.config.decoder_noise).reshape(-1)
        batch = lay_out(
            tokens_N, draws.pieces, drawn.spans, marks_of(self.special, task),
            rows=rows, window=self.window, closed=task != "document", numbering=numbering, noise_N=noise_N,
        )  # fmt: skip
        batch.task[:] = TASKS.index(task)
        batch.limited[draws.pieces.row_P[drawn.limited_P]] = True
        return batch

    def _draw_masks(self, draws: draw.PieceDraws, length: int, spans_in_row: int, rows: int) -> draw.Drawn:
        targets_P = np.floor(self.config.mask_ratio * draws.maskable_P).astype(np.int64)
        window_length = length // self.config.mask_windows
        chance = as_floats(draw_bits(derive_keys(draws.key_P, draw.SINGLE_SPANS), draws.counter_P // window_length))
        single_P = (chance < self.config.single_span_probability) & (draws.maskable_P > 0)
        targets_P[single_P] = 1
        return draw.draw_short_spans(draws, targets_P, self.length_probabilities, spans_in_row, rows)

    def _draw_documents(self, draws: draw.PieceDraws, spans_in_row: int, rows: int) -> draw.Drawn:
        length_P = draws.pieces.length_P
        most_P = length_P if self.config.document_rule == "glm130b" else np.maximum(length_P - 2, 0)
        least_P = np.floor(self.config.document_minimum * length_P).astype(np.int64)
        least_P = np.minimum(np.maximum(least_P, 1), most_P)
        return draw.draw_suffixes(draws, least_P, most_P, spans_in_row, rows)

    def _short_sequences(self, keys_R: UInt64Array, length: int) -> Int64Array:
        """Cuts (flat) of the windows that become short sequences: every so many tokens, a random length each."""
        window_length = length // self.config.mask_windows
        shortest = self.config.shortest_sequence
        if self.config.short_sequence_probability == 0 or window_length <= shortest:
            return np.zeros(0, np.int64)
        counters = np.arange(2 * self.config.mask_windows)
        bits = draw_bits(derive_keys(keys_R, draw.SHORT_SEQUENCES)[:, None], counters).reshape(-1, 2)
        chosen = np.flatnonzero(as_floats(bits[:, 0]) < self.config.short_sequence_probability)
        lengths = shortest + as_integers(bits[chosen, 1], window_length - shortest)
        steps = np.arange(1, window_length // shortest + 1) * lengths[:, None]
        return (chosen[:, None] * window_length + steps)[steps < window_length]


def _cut(source: SourceRows, cuts: Int64Array, keys_R: UInt64Array) -> draw.PieceDraws:
    """Cut rows at `cuts` (flat, among them every row's start) and at the ends of documents."""
    rows, length = source.tokens.shape
    is_start = np.zeros(rows * length + 1, np.bool_)
    is_start[cuts] = True
    is_start[source.ends] = True
    start_P = np.flatnonzero(is_start[:-1])
    length_P = np.diff(start_P, append=rows * length)
    row_P = start_P // length
    is_end: NDArray[np.bool_] = np.zeros(rows * length + 1, np.bool_)
    is_end[source.ends] = True
    pieces = Pieces(row_P, start_P, length_P)
    return draw.PieceDraws(
        pieces=pieces,
        maskable_P=length_P - is_end[start_P + length_P],
        key_P=keys_R[row_P],
        counter_P=start_P - row_P * length,
    )
