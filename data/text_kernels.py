"""Numba kernels over the Arrow buffers of a text column: one pass over UTF-8 bytes, no Python string is made.

The unit of counting is the same for every caller (signals, shingles): a Han character or a kana is one unit,
a run of other letters and digits is one, punctuation and white space are none. Chinese needs no segmenter this
way, and a version of a segmenter cannot move a threshold.

A kernel takes `buffer` (uint8, the UTF-8 bytes of all documents end to end) and `offsets` (int64, n + 1), which
`text_buffers` takes out of a Polars column without copying the text twice.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from data.character_classes import CONTROL, DIGIT, HAN, HANGUL, KANA, LATIN, LETTER, OTHER, character_classes
from data.compiled import compiled

Array = np.ndarray
Integer = int | np.int64
"""A whole number in a kernel, where NumPy's and Python's are one."""


def text_buffers(texts: pl.Series) -> tuple[Array, Array]:
    """The UTF-8 bytes (uint8) and the offsets (int64, n + 1) of a string column; null reads as empty."""
    arrow = texts.fill_null("").rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offset_buffer, data_buffer = arrow.buffers()
    if data_buffer is None or not len(arrow):
        return np.zeros(0, np.uint8), np.zeros(len(arrow) + 1, np.int64)
    offsets = np.frombuffer(offset_buffer, dtype=np.int64)[arrow.offset : arrow.offset + len(arrow) + 1]
    data = np.frombuffer(data_buffer, dtype=np.uint8)
    return data[offsets[0] : offsets[-1]], offsets - offsets[0]


@compiled(inline="always")
def decode(buffer: Array, i: Integer) -> tuple[Integer, int]:
    """The code point that starts at byte i of valid UTF-8, and its length in bytes."""
    first = np.int64(buffer[i])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return ((first & 0x1F) << 6) | (np.int64(buffer[i + 1]) & 0x3F), 2
    if first < 0xF0:
        return ((first & 0x0F) << 12) | ((np.int64(buffer[i + 1]) & 0x3F) << 6) | (np.int64(buffer[i + 2]) & 0x3F), 3
    return (
        ((first & 0x07) << 18)
        | ((np.int64(buffer[i + 1]) & 0x3F) << 12)
        | ((np.int64(buffer[i + 2]) & 0x3F) << 6)
        | (np.int64(buffer[i + 3]) & 0x3F),
        4,
    )


@compiled(inline="always")
def classify(code_point: Integer, classes: Array) -> Integer:
    """The character class of a code point."""
    if code_point < classes.shape[0]:
        return np.int64(classes[code_point])
    return HAN if code_point < 0x40000 else OTHER


@compiled(inline="always")
def mix(value: np.uint64) -> np.uint64:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): spreads the bits of a running hash."""
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@compiled
def _scan_units(buffer: Array, offsets: Array, classes: Array) -> tuple[Array, Array, Array, Array]:
    documents = offsets.shape[0] - 1
    capacity = buffer.shape[0] // 2 + documents + 1  # a unit and what parts it from the next take two bytes or more
    hashes = np.empty(capacity, np.uint64)
    lengths = np.empty(capacity, np.int32)
    unit_offsets = np.zeros(documents + 1, np.int64)
    numbers = np.zeros(documents, np.int64)
    count = 0
    for document in range(documents):
        i = offsets[document]
        end = offsets[document + 1]
        running = np.uint64(0)
        length = 0
        digits = 0
        while i < end:
            code_point, width = decode(buffer, i)
            i += width
            kind = classify(code_point, classes)
            if kind in (LATIN, DIGIT, LETTER, HANGUL):
                digits += kind == DIGIT
                running = (running ^ np.uint64(code_point)) * np.uint64(0x9E3779B97F4A7C15)
                running ^= running >> np.uint64(29)
                length += 1
                continue
            if length > 0:
                if kind == CONTROL:  # a soft hyphen or a joiner inside a word does not part it
                    continue
                if (code_point == 0x27 or code_point == 0x2019) and i < end:  # don't, l’eau
                    following, _ = decode(buffer, i)
                    if classify(following, classes) == LATIN:
                        running = (running ^ np.uint64(0x27)) * np.uint64(0x9E3779B97F4A7C15)
                        length += 1
                        continue
                hashes[count] = mix(running)
                lengths[count] = length
                count += 1
                numbers[document] += digits == length
                running = np.uint64(0)
                length = digits = 0
            if kind in (HAN, KANA):
                hashes[count] = mix(np.uint64(code_point) + np.uint64(0x9E3779B97F4A7C15))
                lengths[count] = 1
                count += 1
        if length > 0:
            hashes[count] = mix(running)
            lengths[count] = length
            count += 1
            numbers[document] += digits == length
        unit_offsets[document + 1] = count
    return hashes[:count], lengths[:count], unit_offsets, numbers


def measured_units(buffer: Array, offsets: Array) -> tuple[Array, Array, Array, Array]:
    """Units with their lengths: hashes (uint64, u), lengths in characters (int32, u), unit_offsets (int64, n + 1).

    The fourth array counts the units of each document that are digits alone (int64, n).
    """
    return _scan_units(buffer, offsets, character_classes())


def units(buffer: Array, offsets: Array) -> tuple[Array, Array]:
    """The units of each document as 64-bit hashes (uint64, u), and where each document's begin (int64, n + 1).

    Equal units have equal hashes in every process and on every machine. Letter case counts: fold the text first
    where it should not.
    """
    hashes, _, unit_offsets, _ = measured_units(buffer, offsets)
    return hashes, unit_offsets
