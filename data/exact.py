"""Exact duplicates: a 128-bit digest of the folded text (XXH3-128; Collet 2019).

At 10^12 documents the chance that any two of different text share a digest is under 10^-14; nobody chooses texts to
collide here, so a cryptographic hash would only be slower.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import xxhash

from data.folding import fold_buffers


def folded_digests(texts: pl.Series) -> np.ndarray:
    """Digests of the folded texts: uint64 of shape (n, 2), high half first."""
    buffer, offsets = fold_buffers(texts)
    view = buffer.data
    digests = b"".join(xxhash.xxh3_128_digest(view[start:stop]) for start, stop in pairwise(offsets.tolist()))
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2)
