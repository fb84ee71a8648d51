"""The order of a source's documents in an epoch: a random permutation that is a pure function of its key."""

import numpy as np

from objectives.example import Int64Array
from objectives.random import UInt64Array, draw_bits


def permute(count: int, key: UInt64Array) -> Int64Array:
    """(count,) the numbers 0 .. count - 1 in an order drawn from `key` (shape (1,))."""
    return np.argsort(draw_bits(key, np.arange(count)), kind="stable")
