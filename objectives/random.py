"""Counter-based random numbers: a draw is a pure function of (key, counter), so no generator has a state to save.

A key names a stream (a sample of a stage of a seeded run, and what the draw is for); the counter counts within it.
The function is SplitMix64 (Steele, Lea & Flood 2014) with Stafford's variant 13 as its mixer, written over NumPy
arrays. NumPy's own generators are not used because their distributions may change between releases.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

UInt64Array = NDArray[np.uint64]

_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2: Final = np.uint64(0x94D049BB133111EB)


def _mix(x: UInt64Array) -> UInt64Array:
    """Scramble `x` in place (a bijection of 64-bit integers) and return it."""
    x ^= x >> np.uint64(30)
    x *= _MULTIPLY_1
    x ^= x >> np.uint64(27)
    x *= _MULTIPLY_2
    x ^= x >> np.uint64(31)
    return x


def draw_bits(keys: UInt64Array, counters: NDArray[np.integer] | int) -> UInt64Array:
    """Uniform 64-bit integers, one for each pair of `keys` and `counters` (broadcast against each other)."""
    steps = np.atleast_1d(counters).astype(np.uint64)  # a copy, so that it may be worked on in place
    steps += np.uint64(1)
    steps *= _GAMMA
    return _mix(keys + steps)


def derive_keys(keys: UInt64Array, purpose: int) -> UInt64Array:
    """Keys of independent streams: the same `keys`, another `purpose` (a small non-negative integer)."""
    return _mix(draw_bits(keys, purpose) ^ _GAMMA)


def stream_key(seed: int, *path: int) -> UInt64Array:
    """One key (shape (1,)) for a seed and a path of integers, such as (stage, source, epoch)."""
    key = _mix(np.array([seed % 2**64], dtype=np.uint64))
    for step in path:
        key = derive_keys(key, step)
    return key


def as_integers(bits: UInt64Array, upper: NDArray[np.integer] | int) -> NDArray[np.int64]:
    """Map uniform bits to integers in [0, upper): `upper` below 2**31, at a bias below 2**-32."""
    return ((bits >> np.uint64(32)) * np.asarray(upper).astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def as_floats(bits: UInt64Array) -> NDArray[np.float64]:
    """Map uniform bits to floats in [0, 1), multiples of 2**-53."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
