"""The Numba kernel that counts characters: classes, Chinese scripts, marks that tell, addresses.

What the character shares of `data/signals.py` are made of. Lines are read in `data/line_kernels.py`, words in
`data/word_kernels.py`, what repeats in `data/repetition_kernels.py`.
"""

from __future__ import annotations

import numpy as np

from data.character_classes import (
    CLASS_NAMES,
    DAMAGE,
    FUNCTION,
    HAN,
    HANS,
    HANT,
    LATIN,
    NEWLINE,
    RARE,
    SPACE,
    character_classes,
    character_roles,
)
from data.compiled import compiled
from data.text_kernels import Array, Integer, classify, decode

# The first columns are the character classes themselves, in their own order
CHARACTER_COUNTS = (
    *CLASS_NAMES, "characters", "hashes", "ellipses", "curly_brackets", "capitals", "bracketed", "url_characters",
    "urls", "hans", "hant", "function_characters", "rare_han", "damaged",
)  # fmt: skip
(
    CHARACTERS, HASHES, ELLIPSES, CURLY, CAPITALS, BRACKETED, URL_CHARACTERS, URLS,
    HANS_COUNT, HANT_COUNT, FUNCTION_CHARACTERS, RARE_HAN, DAMAGED,
) = range(len(CLASS_NAMES), len(CHARACTER_COUNTS))  # fmt: skip

_GRAVE = ord("锟")  # 锟斤拷 is two replacement characters in UTF-8, read as GBK
_AXE = ord("斤")


@compiled
def url_end(buffer: Array, i: int, end: int) -> int:
    """Where the address that begins at byte i ends: at white space, a quote, an angle bracket or the first byte past
    ASCII. i itself where none begins: an address begins with `http://`, `https://` or `www.`."""
    if buffer[i] == 104:  # h
        if i + 7 >= end or buffer[i + 1] != 116 or buffer[i + 2] != 116 or buffer[i + 3] != 112:
            return i
        j = i + 5 if buffer[i + 4] == 115 else i + 4
        if j + 2 >= end or buffer[j] != 58 or buffer[j + 1] != 47 or buffer[j + 2] != 47:
            return i
    elif i + 4 >= end or buffer[i] != 119 or buffer[i + 1] != 119 or buffer[i + 2] != 119 or buffer[i + 3] != 46:
        return i
    j = i
    while j < end and 32 < buffer[j] < 0x80 and buffer[j] != 34 and buffer[j] != 60 and buffer[j] != 62:
        j += 1
    return j


@compiled(inline="always")
def _count_mark(code_point: Integer, row: Array) -> None:
    row[HASHES] += code_point == 35
    row[CURLY] += code_point == 123
    row[ELLIPSES] += code_point == 0x2026


@compiled(inline="always")
def _count_han(role: Integer, row: Array) -> None:
    row[HANS_COUNT] += role & HANS != 0
    row[HANT_COUNT] += role & HANT != 0
    row[FUNCTION_CHARACTERS] += role & FUNCTION != 0
    row[RARE_HAN] += role & RARE != 0


@compiled
def _scan_characters(buffer: Array, offsets: Array, classes: Array, roles: Array, counts: Array) -> None:
    for document in range(offsets.shape[0] - 1):
        row = counts[document]
        i, end = offsets[document], offsets[document + 1]
        url_until = i  # the address that is being read ends here
        dots = 0
        before: Integer = 0
        in_bracket = False
        while i < end:
            code_point, width = decode(buffer, i)
            kind = classify(code_point, classes)
            row[kind] += 1
            row[CHARACTERS] += 1
            dots = dots + 1 if code_point == 46 else 0
            if kind == HAN:
                if code_point < roles.shape[0]:
                    _count_han(np.int64(roles[code_point]), row)
                if code_point == _AXE and before == _GRAVE:
                    row[DAMAGED] += 1
            elif kind == LATIN:
                row[CAPITALS] += 65 <= code_point <= 90
                if i >= url_until and (code_point == 104 or code_point == 119):
                    url_until = url_end(buffer, i, end)
                    row[URLS] += url_until > i
                    row[URL_CHARACTERS] += url_until - i
            elif kind != SPACE and kind != NEWLINE:
                _count_mark(code_point, row)
                row[ELLIPSES] += dots > 0 and dots % 3 == 0
                if code_point < roles.shape[0]:
                    row[DAMAGED] += roles[code_point] & DAMAGE != 0
            if code_point == 0x3010:  # 【
                in_bracket = True
            elif code_point == 0x3011 or kind == NEWLINE:
                in_bracket = False
            elif in_bracket and kind != SPACE:
                row[BRACKETED] += 1
            before = code_point
            i += width


def scan_characters(buffer: Array, offsets: Array) -> Array:
    """Counts over the characters of each document: int64 of shape (n, len(CHARACTER_COUNTS))."""
    counts = np.zeros((offsets.shape[0] - 1, len(CHARACTER_COUNTS)), dtype=np.int64)
    _scan_characters(buffer, offsets, character_classes(), character_roles(), counts)
    return counts
