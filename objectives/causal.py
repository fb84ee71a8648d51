"""Causal language modelling: every token predicts the next one of its document.

A row of S source tokens is read with one token more, so that the last of the row has its target too. The token that
closes a document has none; its weight is 0. A row's documents do not see each other, and positions count from the
start of each piece.
"""

import numpy as np
from numpy.typing import NDArray

from objectives.example import TASKS, Batch
from objectives.layout import running_start
from objectives.source import SourceRows


def build_causal(source: SourceRows, pad: int) -> Batch:
    """Rows of S positions from `source` of S + 1 tokens; its last column only serves as a target.

    `pad` stands as the target of tokens without one.
    """
    rows, length = source.tokens.shape
    window = length - 1
    is_end: NDArray[np.bool_] = np.zeros(rows * length + 1, np.bool_)
    is_end[source.ends] = True
    closes = is_end[1:].reshape(rows, length)[:, :window]
    begins = is_end[:-1].reshape(rows, length)[:, :window].copy()
    begins[:, 0] = True

    start_P = np.flatnonzero(begins)
    length_P = np.diff(start_P, append=rows * window)
    pieces_in_row = np.count_nonzero(begins, axis=1)
    number_P = np.arange(len(start_P)) - np.repeat(running_start(pieces_in_row), pieces_in_row)
    start = np.repeat((start_P % window).astype(np.int32), length_P).reshape(rows, window)
    targets = source.tokens[:, 1:].astype(np.int32)
    targets[closes] = pad
    return Batch(
        tokens=source.tokens[:, :window].astype(np.int32),
        targets=targets,
        loss_weights=(~closes).astype(np.float32),
        positions=np.arange(window, dtype=np.int32) - start,
        document=np.repeat(number_P.astype(np.int32), length_P).reshape(rows, window),
        context_end=start,
        task=np.full(rows, TASKS.index("causal"), np.int8),
        source=np.zeros(rows, np.int16),
        unmasked=np.zeros(rows, np.int32),
        limited=np.zeros(rows, np.bool_),
    )
