"""What every objective makes of source tokens: six integers or weights a row position, the same for all objectives.

The model and the trainer do not know which objective they serve. A query sees a key when both have the same
`document` and the key's row position is below the query's `context_end` or is not later than the query's own.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]

#: Names of the tasks, in the order of `Batch.task`.
TASKS: Final = ("causal", "mask", "sentence", "document", "mip", "fim", "pair")


class Batch(NamedTuple):
    """Rows of S positions, B of them, as NumPy arrays."""

    tokens: Int32Array
    """(B, S) the model's inputs."""
    targets: Int32Array
    """(B, S) what each position predicts; already shifted. Some id without a meaning where the weight is 0."""
    loss_weights: NDArray[np.float32]
    """(B, S) 1 where the position is a target, 0 elsewhere."""
    positions: Int32Array
    """(B, S), or (B, 2, S) for GLM's two-dimensional positions."""
    document: Int32Array
    """(B, S) which example of its row a position belongs to, never falling along a row; each padding has its own."""
    context_end: Int32Array
    """(B, S) row position, exclusive, where the context of the position's document ends; its start if it has none."""
    task: NDArray[np.int8]
    """(B,) index into TASKS."""
    source: NDArray[np.int16]
    """(B,) index into the loader's sources."""
    unmasked: Int32Array
    """(B,) source tokens in pieces that got no span and stay as plain context."""
    limited: NDArray[np.bool_]
    """(B,) whether the row's spare room, or a piece's length, kept a span from being drawn."""


def empty_batch(rows: int, window: int, two_dimensional: bool) -> Batch:
    """A batch to be filled row by row; its arrays are not initialised."""
    shape = (rows, window)
    return Batch(
        tokens=np.empty(shape, np.int32),
        targets=np.empty(shape, np.int32),
        loss_weights=np.empty(shape, np.float32),
        positions=np.empty((rows, 2, window) if two_dimensional else shape, np.int32),
        document=np.empty(shape, np.int32),
        context_end=np.empty(shape, np.int32),
        task=np.zeros(rows, np.int8),
        source=np.zeros(rows, np.int16),
        unmasked=np.zeros(rows, np.int32),
        limited=np.zeros(rows, np.bool_),
    )


def visible(document: Int32Array, context_end: Int32Array) -> NDArray[np.bool_]:
    """The rule of attention as (..., S, S) booleans, query by key: for tests and pictures, never for training."""
    key = np.arange(document.shape[-1])
    same = document[..., :, None] == document[..., None, :]
    return same & ((key < context_end[..., :, None]) | (key <= key[:, None]))
