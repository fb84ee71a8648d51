"""The Numba kernel that counts characters and lines: what the shares of `data/signals.py` are made of.

One pass over the UTF-8 bytes keeps the state of the line that is being read: its width in columns, whether it ends as
a sentence does, whether it pauses inside, what it begins with. Words are counted in `data/word_kernels.py`, what
repeats in `data/repetition_kernels.py`.
"""

from __future__ import annotations

import numba
import numpy as np

from data.character_classes import (
    BULLET,
    CLOSES,
    CONTROL,
    DAMAGE,
    DIGIT,
    ENDS_SENTENCE,
    FUNCTION,
    HAN,
    HANGUL,
    HANS,
    HANT,
    KANA,
    LATIN,
    NEWLINE,
    OTHER,
    PAUSES,
    PUNCTUATION,
    RARE,
    SPACE,
    STOP,
    character_classes,
    character_roles,
)
from data.text_kernels import Array, classify, decode

# Columns of `scan_lines`. The first eleven are the character classes themselves, in their own order.
CLASSES = (
    "symbols",
    "han",
    "kana",
    "hangul",
    "latin",
    "letters",
    "digits",
    "spaces",
    "newlines",
    "punctuation",
    "controls",
)
LINE_COUNTS = (
    *CLASSES, "characters", "hashes", "ellipses", "curly_brackets", "capitals", "bracketed", "sentences",
    "url_characters", "urls", "hans", "hant", "function_characters", "all_lines", "lines", "bullet_lines", "list_lines",
    "ellipsis_lines", "terminal_lines", "stop_lines", "short_lines", "narrow_lines", "prose_characters", "rare_han", "damaged",
)  # fmt: skip
(
    CHARACTERS, HASHES, ELLIPSES, CURLY, CAPITALS, BRACKETED, SENTENCES, URL_CHARACTERS, URLS, HANS_COUNT, HANT_COUNT,
    FUNCTION_CHARACTERS, ALL_LINES, LINES, BULLET_LINES, LIST_LINES, ELLIPSIS_LINES, TERMINAL_LINES, STOP_LINES, SHORT_LINES,
    NARROW_LINES, PROSE_CHARACTERS, RARE_HAN, DAMAGED,
) = range(11, len(LINE_COUNTS))  # fmt: skip

FULL_WIDTH_MARKS = 0x3000  # sentence marks from here on need no space after them
PROSE_COLUMNS = 12  # a line that ends like a sentence is prose from this width on (a Han character is two columns)
WRAPPED_COLUMNS = 48  # a line that only pauses inside is prose from this width on: text wrapped at a fixed width
NARROW_COLUMNS = 24


@numba.njit(cache=True)
def _starts_url(buffer: Array, i: int, end: int) -> bool:
    """Whether `http://`, `https://` or `www.` stands at byte i."""
    if buffer[i] == 104:
        if i + 7 >= end or buffer[i + 1] != 116 or buffer[i + 2] != 116 or buffer[i + 3] != 112:
            return False
        j = i + 5 if buffer[i + 4] == 115 else i + 4
        return buffer[j] == 58 and buffer[j + 1] == 47 and j + 2 < end and buffer[j + 2] == 47
    return buffer[i] == 119 and i + 4 < end and buffer[i + 1] == 119 and buffer[i + 2] == 119 and buffer[i + 3] == 46


@numba.njit(cache=True)
def _scan_lines(buffer: Array, offsets: Array, classes: Array, roles: Array, counts: Array) -> None:
    for document in range(offsets.shape[0] - 1):
        row = counts[document]
        i, end = offsets[document], offsets[document + 1]
        # state of the line that is being read
        length = solid = columns = pauses = url_solid = 0
        first = last = previous = 0
        dots = 0
        ended = in_url = in_bracket = False
        pending = (
            False  # an ASCII sentence mark stands before; a space or the line's end makes it the end of a sentence
        )
        while True:
            if i < end:
                code_point, width = decode(buffer, i)
                kind = classify(code_point, classes)
                row[kind] += 1
                row[CHARACTERS] += 1
            else:
                code_point, width, kind = 10, 1, NEWLINE
            if kind == NEWLINE:
                if pending:
                    row[SENTENCES] += 1
                if i < end or length > 0:
                    row[ALL_LINES] += 1
                if solid > 0:
                    row[LINES] += 1
                    row[SHORT_LINES] += length <= 30
                    row[NARROW_LINES] += columns <= NARROW_COLUMNS
                    row[BULLET_LINES] += first == 0x2022 or first == 0x2D
                    numbered = classify(first, classes) == DIGIT
                    row[LIST_LINES] += numbered or (first < roles.shape[0] and roles[first] & BULLET != 0)
                    row[ELLIPSIS_LINES] += last == 0x2026 or dots >= 3
                    row[TERMINAL_LINES] += ended
                    row[STOP_LINES] += previous < roles.shape[0] and roles[previous] & STOP != 0
                    if (ended and columns >= PROSE_COLUMNS) or (pauses > 0 and columns >= WRAPPED_COLUMNS):
                        row[PROSE_CHARACTERS] += solid - url_solid
                if i >= end:
                    break
                length = solid = columns = pauses = url_solid = 0
                first = last = previous = dots = 0
                ended = in_url = in_bracket = pending = False
                i += 1
                continue
            length += 1
            if kind == SPACE:
                if pending:
                    row[SENTENCES] += 1
                    pending = False
                    pauses += 1
                in_url = False
                previous = code_point
                i += width
                continue
            role = np.int64(roles[code_point]) if code_point < roles.shape[0] else 0
            row[DAMAGED] += role & DAMAGE != 0
            if kind == CONTROL:
                i += width
                continue
            solid += 1
            if first == 0:
                first = code_point
            columns += 2 if kind == HAN or kind == KANA or kind == HANGUL else 1
            if in_url and (
                kind == HAN or code_point == 0x22 or code_point == 0x3C or code_point == 0x3E or code_point >= 0x3000
            ):
                in_url = False
            elif (
                not in_url
                and kind == LATIN
                and (code_point == 104 or code_point == 119)
                and _starts_url(buffer, i, end)
            ):
                in_url = True
                row[URLS] += 1
            if in_url:
                row[URL_CHARACTERS] += 1
                url_solid += 1
            if kind == HAN:
                row[HANS_COUNT] += role & HANS != 0
                row[HANT_COUNT] += role & HANT != 0
                row[FUNCTION_CHARACTERS] += role & FUNCTION != 0
                row[RARE_HAN] += role & RARE != 0
            elif kind == LATIN:
                row[CAPITALS] += 65 <= code_point <= 90
            if in_bracket and code_point != 0x3011:
                row[BRACKETED] += 1
            if kind == PUNCTUATION or kind == OTHER:
                row[HASHES] += code_point == 35
                row[CURLY] += code_point == 123
                row[ELLIPSES] += code_point == 0x2026
                if code_point == 0x3010:
                    in_bracket = True
                elif code_point == 0x3011:
                    in_bracket = False
            if code_point == 46:
                dots += 1
                row[ELLIPSES] += dots % 3 == 0
            else:
                dots = 0
            if role & PAUSES != 0 and (
                code_point >= FULL_WIDTH_MARKS or i + 1 >= end or buffer[i + 1] == 32 or code_point > 0x7F
            ):
                pauses += 1
            if role & ENDS_SENTENCE != 0:
                if code_point >= FULL_WIDTH_MARKS:
                    if not ended:
                        row[SENTENCES] += code_point != 0xFF1A and code_point != 0xFF1B
                        pauses += 1
                else:
                    pending = code_point != 59 and not in_url
                ended = not in_url
            elif role & CLOSES == 0:
                ended = pending = False
            last = previous = code_point
            i += width


def scan_lines(buffer: Array, offsets: Array) -> Array:
    """Counts of characters and lines of each document: int64 of shape (n, len(LINE_COUNTS))."""
    counts = np.zeros((offsets.shape[0] - 1, len(LINE_COUNTS)), dtype=np.int64)
    _scan_lines(buffer, offsets, character_classes(), character_roles(), counts)
    return counts
