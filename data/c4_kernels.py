"""The Numba kernel that reads lines as C4's filter does: which it keeps, and how many sentences stand in these.

C4 (Raffel et al. 2020) drops lines before it judges a document: of fewer than three words between white space, with a
word of more than 1,000 characters, that mention JavaScript, or that hold a phrase of a cookie or privacy notice. A
document with a curly bracket, or with fewer than five sentences in what is left, is dropped whole. FineWeb runs it so,
with C4's rule that a line must end in a terminal mark switched off (`filter_no_terminal_punct=False`).
"""

from __future__ import annotations

import numpy as np

from data.compiled import compiled
from data.phrases import POLICY_PHRASES
from data.text_kernels import Array, Integer

C4_COUNTS = ("c4_lines", "c4_sentences", "c4_curly_brackets")
LINES, SENTENCES, CURLY_BRACKETS = range(len(C4_COUNTS))
LEAST_WORDS = 3
LONGEST_WORD = 1000

_PLAIN, _CONTINUED, _SPACE, _LINE_END, _MARK, _CLOSING, _CITATION, _CURLY, _PHRASE, _WIDE = range(10)
"""What a byte is: letters and the like, white space, a sentence's mark, the anchor of a phrase to look for."""
_PHRASES = ("javascript", *POLICY_PHRASES)
_ANCHORS = [next(letter for letter in "jkvf" if letter in phrase) for phrase in _PHRASES]
"""The rarest letter of each phrase: the kernel looks for a phrase only where that stands."""


def _byte_kinds() -> Array:
    kinds = np.full(256, _PLAIN, np.uint8)
    kinds[:33] = _SPACE
    kinds[[10, 11, 12, 13, 28, 29, 30]] = _LINE_END
    kinds[0x80:0xC0] = _CONTINUED
    kinds[[0xC2, 0xE2, 0xE3]] = _WIDE  # white space or a quotation mark past ASCII may begin with these
    for kind, characters in ((_MARK, ".!?"), (_CLOSING, "\"')]*"), (_CITATION, "["), (_CURLY, "{")):
        kinds[[ord(character) for character in characters]] = kind
    kinds[[ord(letter) for anchor in _ANCHORS for letter in (anchor, anchor.upper())]] = _PHRASE
    kinds.setflags(write=False)
    return kinds


def _following_letters() -> Array:
    """By an anchor's byte, the one that must follow: spares nearly every comparison."""
    letters = np.zeros(256, np.uint8)
    for phrase, anchor in zip(_PHRASES, _ANCHORS, strict=True):
        following = ord(phrase[phrase.index(anchor) + 1])
        for byte in (ord(anchor), ord(anchor.upper())):
            assert letters[byte] in (0, following), "two phrases have one anchor and go on differently"
            letters[byte] = following
    letters.setflags(write=False)
    return letters


def _phrase_table() -> Array:
    """The phrases, a row each, filled up with zeros."""
    table = np.zeros((len(_PHRASES), max(map(len, _PHRASES)) + 1), np.uint8)
    for row, phrase in zip(table, _PHRASES, strict=True):
        row[: len(phrase)] = np.frombuffer(phrase.encode(), np.uint8)
    table.setflags(write=False)
    return table


_BYTE_KINDS, _FOLLOWING, _PHRASE_TABLE = _byte_kinds(), _following_letters(), _phrase_table()
_ANCHOR_PLACES = np.array([phrase.index(anchor) for phrase, anchor in zip(_PHRASES, _ANCHORS, strict=True)])


@compiled
def _phrase_around(buffer: Array, anchor: Integer, begin: Integer, end: Integer, phrases: Array, places: Array) -> int:
    """1 where JavaScript is named around byte `anchor`, 2 where a phrase of a notice stands, letter case aside."""
    for number in range(phrases.shape[0]):
        i = anchor - places[number]
        if i < begin:
            continue
        k = 0
        while phrases[number, k] != 0 and i + k < end:
            byte = buffer[i + k]
            if byte | (0x20 if 65 <= byte <= 90 else 0) != phrases[number, k]:
                break
            k += 1
        if phrases[number, k] == 0:
            return 1 if number == 0 else 2
    return 0


@compiled
def _citation_width(buffer: Array, i: Integer, end: Integer) -> Integer:
    """Bytes of the citation mark `[12]` that begins at byte i; 0 where none begins."""
    j = i + 1
    while j < end and 48 <= buffer[j] <= 57:
        j += 1
    return j + 1 - i if j < end and buffer[j] == 93 else 0


@compiled
def _wide_mark(buffer: Array, i: Integer, end: Integer) -> tuple[int, int]:
    """Kind and width of the character past ASCII at byte i: white space, a quotation mark, or plain of 1 byte."""
    byte = buffer[i]
    if byte == 0xC2 and i + 1 < end and (buffer[i + 1] == 0xA0 or buffer[i + 1] == 0x85):
        return _SPACE, 2
    if i + 2 < end and buffer[i + 1] == 0x80:
        last = buffer[i + 2]
        if (byte == 0xE2 and (last <= 0x8A or last == 0xAF)) or (byte == 0xE3 and last == 0x80):
            return _SPACE, 3
        if byte == 0xE2 and 0x98 <= last <= 0x9F:
            return _CLOSING, 3
    return _PLAIN, 1


@compiled
def _scan_c4(
    buffer: Array, offsets: Array, kinds: Array, following: Array, table: Array, places: Array, counts: Array
) -> None:
    for document in range(offsets.shape[0] - 1):
        row = counts[document]
        begin, end = offsets[document], offsets[document + 1]
        i: Integer = begin
        length: Integer = 0
        longest: Integer = 0
        words: Integer = 0
        ends = phrases = 0
        curly = False
        marked = False  # a sentence's mark stands before, closing quotes and brackets aside
        over = False  # and white space after it: what follows is another sentence
        while i <= end:
            start = i
            while i < end and kinds[buffer[i]] <= _CONTINUED:
                length += kinds[buffer[i]] == _PLAIN
                i += 1
            if i > start:
                ends += over
                over = marked = False
            kind = np.int64(kinds[buffer[i]]) if i < end else _LINE_END
            width: Integer = 1
            if kind == _WIDE:
                kind, width = _wide_mark(buffer, i, end)
            if kind in (_SPACE, _LINE_END):
                words += length > 0
                longest = max(longest, length)
                length = 0
                over, marked = over or marked, False
                i += width
                if kind == _LINE_END:
                    if words >= LEAST_WORDS and longest <= LONGEST_WORD and phrases & 1 == 0:
                        row[CURLY_BRACKETS] += curly
                        row[LINES] += phrases == 0
                        row[SENTENCES] += (1 + ends) * (phrases == 0)
                    words = longest = ends = phrases = 0
                    curly = over = False
                continue
            if kind == _CITATION:
                width = max(1, _citation_width(buffer, i, end))
            length += 1 if kind == _CLOSING else width
            i += width
            if width > 1 or kind == _CLOSING:
                continue
            ends += over
            over, marked = False, kind == _MARK
            curly |= kind == _CURLY
            if kind == _PHRASE and i < end and buffer[i] | 0x20 == following[buffer[i - 1]]:
                phrases |= _phrase_around(buffer, i - 1, begin, end, table, places)


def scan_c4(buffer: Array, offsets: Array) -> Array:
    """What C4 keeps of each document: int64 of shape (n, len(C4_COUNTS))."""
    counts = np.zeros((offsets.shape[0] - 1, len(C4_COUNTS)), dtype=np.int64)
    _scan_c4(buffer, offsets, _BYTE_KINDS, _FOLLOWING, _PHRASE_TABLE, _ANCHOR_PLACES, counts)
    return counts
