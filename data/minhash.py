"""MinHash signatures and their bands (Broder 1997; Indyk and Motwani 1998).

A signature is the least value of each of `bands * rows` hash functions over a document's shingles: two documents agree
in a row with probability equal to the Jaccard index of their shingle sets. Rows are grouped into bands, and two
documents that agree in a whole band are candidates.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from data.compiled import compiled
from data.shingles import shingles_into
from data.text_kernels import mix

Array = np.ndarray


def catch_probability(jaccard: float | Array, bands: int, rows: int) -> float | Array:
    """The S-curve: the probability that a pair of this Jaccard agrees in at least one band."""
    return 1 - (1 - jaccard**rows) ** bands


def threshold(bands: int, rows: int) -> float:
    """The Jaccard at which the S-curve is steepest, (1 / bands) ** (1 / rows)."""
    return float((1 / bands) ** (1 / rows))


@lru_cache(maxsize=8)
def hash_functions(number: int, seed: int) -> tuple[Array, Array]:
    """Multipliers (odd) and increments (uint32, `number` each) of h(x) = a x + b mod 2^32."""
    generator = np.random.Generator(np.random.PCG64(seed))
    multipliers = generator.integers(0, 2**32, number, dtype=np.uint32) | np.uint32(1)
    increments = generator.integers(0, 2**32, number, dtype=np.uint32)
    return multipliers, increments


@compiled
def _signatures(
    units: Array, offsets: Array, characters: int, words: int, multipliers: Array, increments: Array
) -> tuple[Array, Array]:
    documents = offsets.shape[0] - 1
    number = multipliers.shape[0]
    signatures = np.empty((documents, number), np.uint32)
    distinct = np.zeros(documents, np.int32)
    longest = 1
    for document in range(documents):
        longest = max(longest, offsets[document + 1] - offsets[document])
    shingles = np.empty(longest + 3, np.uint32)
    for document in range(documents):
        row = signatures[document]
        row[:] = np.uint32(0xFFFFFFFF)
        count = shingles_into(units, offsets[document], offsets[document + 1], characters, words, shingles)
        distinct[document] = count
        if count == 0:
            continue
        for i in range(count, count + 3):  # a block of four needs whole blocks; a shingle twice changes no minimum
            shingles[i] = shingles[count - 1]
        for i in range(0, count, 4):
            s0, s1, s2, s3 = shingles[i], shingles[i + 1], shingles[i + 2], shingles[i + 3]
            for k in range(number):
                a, b = multipliers[k], increments[k]
                low = min(np.uint32(a * s0 + b), np.uint32(a * s1 + b))
                high = min(np.uint32(a * s2 + b), np.uint32(a * s3 + b))
                row[k] = min(row[k], min(low, high))
    return signatures, distinct


def signatures(
    units: Array, offsets: Array, *, han_shingle: int, word_shingle: int, number: int, seed: int
) -> tuple[Array, Array]:
    """MinHash signatures of documents given as folded units.

    Returns signatures (uint32, (n, number); all ones for a document without units) and how many shingles each
    document has (int32, n), repeated ones counted.
    """
    return _signatures(units, offsets, han_shingle, word_shingle, *hash_functions(number, seed))


@compiled
def _band_keys(signatures: Array, bands: int, rows: int) -> Array:
    documents = signatures.shape[0]
    keys = np.empty((documents, bands), np.uint64)
    for document in range(documents):
        for band in range(bands):
            key = np.uint64(band + 1)
            for row in range(rows):
                key = mix(key ^ np.uint64(signatures[document, band * rows + row]))
            keys[document, band] = key
    return keys


def band_keys(signatures: Array, *, bands: int, rows: int) -> Array:
    """The bands of each signature as 64-bit keys (uint64, (n, bands)); the band's number is part of its key."""
    return _band_keys(signatures, bands, rows)


def describe(bands: int, rows: int) -> list[tuple[float, float]]:
    """The S-curve as (Jaccard, probability) rows, for records and reports."""
    return [(j / 20, float(catch_probability(j / 20, bands, rows))) for j in range(1, 21)]
