"""The Numba kernel that reads lines: how they begin and end, how wide they are, and whether they read as prose.

Prose is told without a dictionary. A stretch of a line (the line, or a cell of a table) reads as a sentence when it
ends as one and is of some width, or when it is wide and pauses inside, as lines of wrapped text do; and when it pauses
often enough for its width. A bar of menu entries on one line is wide and does not pause, or has more gaps than pauses.
Widths are in columns: a Han character, kana or hangul takes two.
"""

from __future__ import annotations

import numpy as np

from data.character_classes import (
    BULLET,
    CLOSES,
    CONTROL,
    DIGIT,
    ENDS_SENTENCE,
    HAN,
    HANGUL,
    KANA,
    LATIN,
    NEWLINE,
    PAUSES,
    SPACE,
    STOP,
    character_classes,
    character_roles,
    plain_letters,
)
from data.character_kernels import url_end
from data.compiled import compiled
from data.text_kernels import Array, Integer, classify, decode

LINE_COUNTS = (
    "all_lines", "lines", "bullet_lines", "list_lines", "ellipsis_lines", "terminal_lines", "stop_lines", "short_lines",
    "narrow_lines", "sentences", "prose_characters",
)  # fmt: skip
(
    ALL_LINES, LINES, BULLET_LINES, LIST_LINES, ELLIPSIS_LINES, TERMINAL_LINES, STOP_LINES, SHORT_LINES,
    NARROW_LINES, SENTENCES, PROSE_CHARACTERS,
) = range(len(LINE_COUNTS))  # fmt: skip

FULL_WIDTH_MARKS = 0x2026  # sentence marks from here on (… 。！？) need no space after them
SENTENCE_COLUMNS = 12
WRAPPED_COLUMNS = 48
COLUMNS_A_PAUSE = 150
NARROW_COLUMNS = 24


@compiled(inline="always")
def _reads_as_prose(columns: int, pauses: int, gaps: int, ended: bool) -> bool:
    breaths = pauses + ended
    if columns > COLUMNS_A_PAUSE * breaths or gaps > breaths:
        return False
    return columns >= WRAPPED_COLUMNS or (ended and columns >= SENTENCE_COLUMNS)


@compiled(inline="always")
def _role(code_point: Integer, roles: Array) -> Integer:
    return np.int64(roles[code_point]) if code_point < roles.shape[0] else 0


@compiled(inline="always")
def _count_line(
    length: int,
    width: int,
    first: Integer,
    last: Integer,
    dots: int,
    ended: bool,
    classes: Array,
    roles: Array,
    row: Array,
) -> None:
    row[LINES] += 1
    row[SHORT_LINES] += length <= 30
    row[NARROW_LINES] += width <= NARROW_COLUMNS
    row[BULLET_LINES] += first == 0x2022 or first == 0x2D
    row[LIST_LINES] += classify(first, classes) == DIGIT or _role(first, roles) & BULLET != 0
    row[ELLIPSIS_LINES] += last == 0x2026 or dots >= 3
    row[TERMINAL_LINES] += ended


@compiled
def _scan_lines(buffer: Array, offsets: Array, classes: Array, roles: Array, plain: Array, counts: Array) -> None:
    for document in range(offsets.shape[0] - 1):
        row = counts[document]
        i, end = offsets[document], offsets[document + 1]
        # Of the line: its length in characters, its first and last solid character, the last character of any kind.
        # Of the segment: solid characters outside addresses, columns, pauses, gaps (two spaces or more).
        first: Integer = 0
        last: Integer = 0
        final: Integer = 0
        length = line_columns = dots = 0
        solid = columns = pauses = gaps = 0
        ended = False  # the last solid character ends a sentence, closing quotes aside
        pending = False  # an ASCII mark stands before; white space after it makes it the end of a sentence
        while i <= end:
            run = i
            while i < end and plain[buffer[i]]:
                i += 1
            if i > run:
                length += i - run
                solid += i - run
                columns += i - run
                ended = pending = False
                dots = 0
                first = first if first != 0 else np.int64(buffer[run])
                last = final = np.int64(buffer[i - 1])
            at_end = i >= end
            code_point, width = (np.int64(10), 1) if at_end else decode(buffer, i)
            kind = NEWLINE if at_end else classify(code_point, classes)
            if kind == NEWLINE or code_point == 0x7C or code_point == 9:  # a line's end, or a cell's: | and tab
                row[SENTENCES] += pending
                if _reads_as_prose(columns, pauses, gaps, ended):
                    row[PROSE_CHARACTERS] += solid
                line_columns += columns
                if kind == NEWLINE:
                    row[ALL_LINES] += i < end or length > 0
                    if first != 0:
                        _count_line(length, line_columns, first, last, dots, ended, classes, roles, row)
                        row[STOP_LINES] += _role(final, roles) & STOP != 0
                    length = line_columns = first = last = final = dots = 0
                else:
                    length, final = length + 1, code_point
                    if kind != SPACE:
                        first, last, dots = first if first != 0 else code_point, code_point, 0
                solid = columns = pauses = gaps = 0
                ended = pending = False
                i += 1
                continue
            length += 1
            if kind == SPACE:
                row[SENTENCES] += pending
                pauses += pending
                gaps += classify(final, classes) == SPACE and columns > 0 and not ended
                pending = False
            elif kind != CONTROL:
                dots_within = 0  # at the end of an address
                if kind == LATIN and (code_point == 104 or code_point == 119) and url_end(buffer, i, end) > i:
                    width = int(url_end(buffer, i, end) - i)
                    while buffer[i + width - 1 - dots_within] == 46:
                        dots_within += 1
                    length += width - 1
                    columns += width - 1
                    solid -= 1
                    code_point = 104
                solid += 1
                columns += 2 if kind in (HAN, KANA, HANGUL) else 1
                role = _role(code_point, roles)
                wide = code_point >= FULL_WIDTH_MARKS
                if role & PAUSES != 0 and (wide or i + 1 >= end or buffer[i + 1] <= 32 or code_point > 0x7F):
                    pauses += 1
                if role & ENDS_SENTENCE != 0:
                    if wide and not ended:
                        row[SENTENCES] += code_point != 0xFF1A and code_point != 0xFF1B  # ： and ； only pause
                        pauses += 1
                    pending = not wide and code_point != 59
                    ended = True
                elif role & CLOSES == 0:
                    ended = pending = False
                dots = dots + 1 if code_point == 46 else dots_within
                first, last = first if first != 0 else code_point, code_point
            final = np.int64(buffer[i + width - 1]) if code_point < 0x80 else code_point  # of an address, its last
            i += width


def scan_lines(buffer: Array, offsets: Array) -> Array:
    """Counts over the lines of each document: int64 of shape (n, len(LINE_COUNTS))."""
    counts = np.zeros((offsets.shape[0] - 1, len(LINE_COUNTS)), dtype=np.int64)
    _scan_lines(buffer, offsets, character_classes(), character_roles(), plain_letters(), counts)
    return counts
