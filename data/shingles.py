"""Folded units of texts with their places, and shingles: hashes of consecutive units.

Units are those of `text_kernels.units` (a Han character or kana is one, a run of other letters and digits is one), read
through the fold of `folding.py` in the same pass, so that no folded text is written out. A unit is a 32-bit hash
whose lowest bit says whether it is a character (1) or a word (0): a shingle's length may depend on which it starts
with, because three Chinese characters and three English words are not the same amount of text. The next bit marks a
word that is a code (`is_code`).
"""

from __future__ import annotations

import numpy as np
import polars as pl

from data.character_classes import DIGIT, HAN, KANA, NEWLINE
from data.compiled import compiled
from data.folding import fold_character, fold_table, is_word
from data.text_kernels import decode, mix, text_buffers

Array = np.ndarray

MARKED = np.uint32(0xFFFFFFFC)
"""The bits of a unit that are its hash's."""
CODE = 5
"""Characters from which on a word with a digit in it is a code (BC30107, 14164), and no year, time or count."""


@compiled
def _folded_units(
    buffer: Array, offsets: Array, table: Array, places: bool
) -> tuple[Array, Array, Array, Array, Array]:
    documents = offsets.shape[0] - 1
    capacity = buffer.shape[0] // 2 + documents + 1
    units = np.empty(capacity, np.uint32)
    starts = np.empty(capacity if places else 0, np.int64)
    stops = np.empty(capacity if places else 0, np.int64)
    unit_offsets = np.zeros(documents + 1, np.int64)
    titles = np.full(documents, -1, np.int32)
    count = 0
    for document in range(documents):
        i, end = offsets[document], offsets[document + 1]
        running = np.uint64(0)
        in_word = False
        length, digits = 0, 0
        start = i
        stop = i
        while True:
            place = i
            folded, kind = 0, 0
            if i < end:
                code_point, width = decode(buffer, i)
                i += width
                folded, kind = fold_character(code_point, table)
                if folded == 0:
                    continue
                if is_word(kind):
                    if not in_word:
                        in_word = True
                        running = np.uint64(0)
                        length, digits = 0, 0
                        start = place
                    running = (running ^ np.uint64(folded)) * np.uint64(0x9E3779B97F4A7C15)
                    running ^= running >> np.uint64(29)
                    length += 1
                    digits += kind == DIGIT
                    stop = i
                    continue
            if in_word:
                code = np.uint32(2) if digits > 0 and length >= CODE else np.uint32(0)
                units[count] = (np.uint32(mix(running) >> np.uint64(32)) & MARKED) | code
                if places:
                    starts[count] = start
                    stops[count] = stop
                count += 1
                in_word = False
            if place >= end:
                break
            if kind in (HAN, KANA):
                units[count] = (np.uint32(mix(np.uint64(folded)) >> np.uint64(32)) & np.uint32(0xFFFFFFFC)) | np.uint32(
                    1
                )
                if places:
                    starts[count] = place
                    stops[count] = i
                count += 1
            elif kind == NEWLINE and titles[document] < 0 and count > unit_offsets[document]:
                titles[document] = count - unit_offsets[document]
        unit_offsets[document + 1] = count
        if titles[document] < 0:
            titles[document] = count - unit_offsets[document]
    return units[:count], unit_offsets, starts[:count], stops[:count], titles


def folded_units(texts: pl.Series) -> tuple[Array, Array]:
    """Folded units of each text: hashes (uint32, u; lowest bit 1 for a character), offsets (int64, n + 1)."""
    units, offsets, _, _, _ = _folded_units(*text_buffers(texts), fold_table(), False)
    return units, offsets


def titled_units(texts: pl.Series) -> tuple[Array, Array, Array]:
    """Folded units and offsets as of `folded_units`, and how many units of each text are in its first line (int32, n).

    The first line is the first that holds a unit; a text of one line is all first line.
    """
    units, offsets, _, _, titles = _folded_units(*text_buffers(texts), fold_table(), False)
    return units, offsets, titles


def placed_units(texts: pl.Series) -> tuple[Array, Array, Array, Array]:
    """Folded units with the bytes of the original column they stand for.

    Returns hashes (uint32, u), offsets (int64, n + 1), and starts and stops (int64, u) in bytes from the beginning
    of the column's text buffer.
    """
    return _folded_units(*text_buffers(texts), fold_table(), True)[:4]


@compiled(inline="always")
def is_code(unit: np.uint32) -> bool:
    """Whether a unit is a word of `CODE` characters and more with a digit among them."""
    return unit & np.uint32(2) != 0


@compiled(inline="always")
def shingle_hash(units: Array, start: int, stop: int) -> np.uint32:
    """The hash of units[start:stop] in their order."""
    running = np.uint64(stop - start)
    for i in range(start, stop):
        running = (running ^ np.uint64(units[i])) * np.uint64(0x9E3779B97F4A7C15)
        running ^= running >> np.uint64(32)
    return np.uint32(mix(running) >> np.uint64(32))


@compiled
def shingles_into(units: Array, start: int, stop: int, characters: int, words: int, out: Array) -> int:
    """Write the shingles of units[start:stop] to `out` and return how many there are.

    A shingle is `characters` units long when it starts at a character and `words` when it starts at a word. A text
    too short for one gives one shingle of all its units, an empty text none.
    """
    count = 0
    for i in range(start, stop):
        end = i + (characters if units[i] & np.uint32(1) else words)
        if end <= stop:
            out[count] = shingle_hash(units, i, end)
            count += 1
    if count == 0 and stop > start:
        out[0] = shingle_hash(units, start, stop)
        count = 1
    return count
