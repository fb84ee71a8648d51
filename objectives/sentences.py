"""Where sentences end, for Chinese, English and code alike, decided token by token from the vocabulary.

The bytes of every token are classed once; finding the ends of a batch is then a few array operations. A line of code
is a sentence. In prose a sentence ends

- after 。！？； or … (full-width ones too), with the closing quotes and brackets that follow;
- after . ! ? (and closing quotes) before white space, unless a lower-case letter follows or the token before the full
  stop is an abbreviation or a single capital letter, so that 3.14, e.g. this, Mr. Chen and U.S. law stay whole;
- at a line break, unless the next line goes on with a lower-case letter (wrapped English).

A token that holds an end and more text after it (「。他」 merged into one) ends the sentence with itself.
"""

from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T", bound=np.generic)

_WIDE_STOPS: Final = "。！？；…｡"
_STOPS: Final = ".!?"
_CLOSERS: Final = "\"'”’」』）】》〉)]}»"
_ABBREVIATIONS: Final = frozenset(
    {
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "sr",
        "jr",
        "st",
        "vs",
        "etc",
        "fig",
        "figs",
        "no",
        "nos",
        "vol",
        "pp",
        "cf",
        "al",
    }
    | {"approx", "dept", "est", "inc", "ltd", "co", "corp", "e.g", "i.e", "eg", "ie"}
    | {"jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"}
)

_ENDS_WIDE: Final = np.uint16(1)
_ENDS_STOP: Final = np.uint16(2)
_BREAKS_LINE: Final = np.uint16(4)
_IS_CLOSER: Final = np.uint16(8)
_BEGINS_SPACE: Final = np.uint16(16)
_BEGINS_LOWER: Final = np.uint16(32)
_IS_BLANK: Final = np.uint16(64)
_ABBREVIATES: Final = np.uint16(128)
_BARE_STOP: Final = np.uint16(256)


def _classify(piece: bytes) -> int:
    text = piece.decode("utf-8", errors="ignore")
    stripped = text.strip()
    flags = 0
    if "\n" in text or "\r" in text:
        flags |= int(_BREAKS_LINE)
    if not stripped:
        return flags | (int(_IS_BLANK) | int(_BEGINS_SPACE) if text else 0)
    if any(stop in stripped for stop in _WIDE_STOPS):
        flags |= int(_ENDS_WIDE)
    core = stripped.rstrip(_CLOSERS)
    if core and core[-1] in _STOPS:
        flags |= int(_ENDS_STOP)
        word = core.rstrip(_STOPS)
        if not word:
            flags |= int(_BARE_STOP) if core == "." else 0
        elif core[-1] == "." and _is_abbreviation(word):
            flags &= ~int(_ENDS_STOP)
    if not core:
        flags |= int(_IS_CLOSER)
    if text[0].isspace():
        flags |= int(_BEGINS_SPACE)
    if stripped[0].islower():
        flags |= int(_BEGINS_LOWER)
    if _is_abbreviation(stripped):
        flags |= int(_ABBREVIATES)
    return flags


def _is_abbreviation(word: str) -> bool:
    return word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper() and word.isascii())


class SentenceEnds:
    """Finds the last tokens of sentences of one vocabulary."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        """`token_bytes[i]` are the UTF-8 bytes of token i, empty for special tokens."""
        self._flags = np.array([_classify(piece) for piece in token_bytes], dtype=np.uint16)

    def find(self, tokens: NDArray[np.integer], is_code: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(R, n) True at the last token of every sentence of `tokens` (R, n), whose rows know nothing of each other.

        `is_code` (R,) says which rows are code. The cuts of documents and windows are the caller's to add.
        """
        flags = self._flags[tokens]
        following = _next(flags, _BREAKS_LINE)
        preceding = np.concatenate([np.zeros_like(flags[:, :1]), flags[:, :-1]], axis=1)

        def has(array: NDArray[np.uint16], flag: np.uint16) -> NDArray[np.bool_]:
            return (array & flag) != 0

        stop = has(flags, _ENDS_STOP) & ~(has(flags, _BARE_STOP) & has(preceding, _ABBREVIATES))
        ends = has(flags, _ENDS_WIDE) | stop
        # An end moves past the closers and stops that follow it directly: ？！ or 。」 or .")
        closer = has(flags, _IS_CLOSER) & ~has(flags, _BEGINS_SPACE)
        ends = _carry(ends, closer)
        wide = _carry(has(flags, _ENDS_WIDE), closer)
        continues = (closer | has(flags, _ENDS_WIDE) | has(flags, _ENDS_STOP)) & ~has(flags, _BEGINS_SPACE)
        next_continues = _next(continues, False)
        next_breaks = has(following, _BREAKS_LINE) & has(following, _IS_BLANK)
        # White space alone may stand before the word that decides.
        after = np.where(has(following, _IS_BLANK), _next(following, np.uint16(0)), following)
        latin = ends & ~wide & (has(following, _BEGINS_SPACE) | next_breaks) & ~has(after, _BEGINS_LOWER)
        prose = ((wide & ~next_continues) | (latin & ~next_continues)) & ~next_breaks

        line = has(flags, _BREAKS_LINE) & ~next_breaks
        wrapped = has(following, _BEGINS_LOWER) & ~has(following, _BEGINS_SPACE) & ~_carry(ends, has(flags, _IS_BLANK))
        return np.where(is_code[:, None], line, prose | (line & ~wrapped))


def _next(array: NDArray[_T], last: _T | bool) -> NDArray[_T]:
    """What stands one place further in each row; `last` behind its end."""
    return np.concatenate([array[:, 1:], np.full_like(array[:, :1], last)], axis=1)


def _carry(marked: NDArray[np.bool_], through: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`marked`, and every position that only `through` positions part from a marked one before it in its row."""
    index = np.arange(marked.shape[1])
    last_marked = np.maximum.accumulate(np.where(marked, index, -1), axis=1)
    last_barrier = np.maximum.accumulate(np.where(through | marked, -1, index), axis=1)
    return marked | (through & (last_marked > last_barrier))
