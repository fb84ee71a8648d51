"""The class of every Unicode character, as a table that Numba kernels index by code point.

A class is one of the constants below. Code points past the table are Han when they lie in the supplementary
ideographic planes and `OTHER` otherwise (`classify` in `text_kernels.py`). Source: Unicode general categories
(Python's `unicodedata`), and the block ranges of Unicode 15 for the scripts.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np

OTHER = 0  # symbols, emoji, private use, unassigned
HAN = 1
KANA = 2
HANGUL = 3
LATIN = 4  # letters of the Latin script, with their diacritics
LETTER = 5  # letters and marks of every other script
DIGIT = 6
SPACE = 7  # every white space except a line feed
NEWLINE = 8
PUNCTUATION = 9
CONTROL = 10  # control and format characters

TABLE_SIZE = 0x20000

_HAN_RANGES = ((0x2E80, 0x2FD6), (0x3005, 0x3008), (0x3021, 0x302A), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00))
_KANA_RANGES = ((0x3041, 0x3097), (0x3099, 0x309B), (0x309D, 0x30A0), (0x30A1, 0x30FB), (0x30FC, 0x3100), (0x31F0, 0x3200), (0xFF66, 0xFFA0))
_HANGUL_RANGES = ((0x1100, 0x1200), (0x3131, 0x318F), (0xA960, 0xA980), (0xAC00, 0xD800))
_LATIN_RANGES = ((0x41, 0x5B), (0x61, 0x7B), (0xAA, 0xAB), (0xBA, 0xBB), (0xC0, 0x250), (0x1E00, 0x1F00), (0xFF21, 0xFF3B), (0xFF41, 0xFF5B))


def _general_class(character: str) -> int:
    category = unicodedata.category(character)
    if category[0] in "LM":
        return LETTER
    if category == "Nd":
        return DIGIT
    if category[0] == "Z" or character in "\t\r\v\f\x85":
        return SPACE
    if category[0] == "P":
        return PUNCTUATION
    if category in ("Cc", "Cf"):
        return CONTROL
    return OTHER


@lru_cache(maxsize=1)
def character_classes() -> np.ndarray:
    """The table: uint8 of shape (TABLE_SIZE,), read-only."""
    table = np.zeros(TABLE_SIZE, dtype=np.uint8)
    for code_point in range(0x3400):
        table[code_point] = _general_class(chr(code_point))
    for code_point in (*range(0xA000, 0xAC00), *range(0xD7A4, 0xD800), *range(0xF900, TABLE_SIZE)):
        table[code_point] = _general_class(chr(code_point))
    for ranges, value in ((_HAN_RANGES, HAN), (_KANA_RANGES, KANA), (_HANGUL_RANGES, HANGUL), (_LATIN_RANGES, LATIN)):
        for start, stop in ranges:
            table[start:stop] = value
    table[[0xD7, 0xF7]] = OTHER  # × and ÷ lie among the Latin letters
    table[0x0A] = NEWLINE
    table.setflags(write=False)
    return table
