"""The copy of a text that comparisons are made on: Simplified, half-width, lower-case, without needless space.

Two texts that fold to the same characters are the same text to exact deduplication, and shingles and evaluation
n-grams are drawn from folded characters, so that a Traditional copy of a Simplified page is a copy. The fold is never
written into a document.

Characters are folded one by one through a table. OpenCC's dictionaries give it: characters that any of its
conversions between Simplified and Traditional (mainland, Taiwan, Hong Kong) makes one another are one class, and
all of a class fold to one of them. Conversion by phrases would be finer (乾隆, 干净) but is not what comparison
wants: both texts must end alike whatever variant they were written in, and 著 and 着 or 裡 and 裏 differ between
standards without regard to the phrase. It also runs at the speed of a table.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from itertools import pairwise

import numpy as np
import opencc
import polars as pl

from data.character_classes import CONTROL, DIGIT, HANGUL, LATIN, LETTER, NEWLINE, SPACE, TABLE_SIZE, character_classes
from data.compiled import compiled
from data.text_kernels import decode, text_buffers

Array = np.ndarray

FOLD_SIZE = 0x32000
"""Code points the table holds (all assigned Han characters); those beyond fold to themselves."""

CLASS_SHIFT = 24
"""Bits below this in a table entry are the folded code point, those above its character class."""

CODE_POINT_MASK = (1 << CLASS_SHIFT) - 1

_CONVERSIONS = ("t2s", "tw2s", "hk2s", "s2t", "s2tw", "s2hk")
_HAN_RANGES = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, FOLD_SIZE))
# marks that editors and converters change into one another
_ALIKE = {"'": "‘’‛′`´", '"': "“”„‟″「」『』«»", "-": "‐‑‒–—―−", ".": "。｡", ",": "、､，", "~": "〜～"}


def _han_classes() -> dict[int, int]:
    """Han character -> the one its class folds to, for those that change."""
    characters = [chr(c) for start, stop in _HAN_RANGES for c in range(start, stop)]
    characters = [c for c in characters if unicodedata.category(c) == "Lo"]
    parent: dict[str, str] = {}

    def root(character: str) -> str:
        while (above := parent.get(character, character)) != character:
            character = above
        return character

    lines = "\n".join(characters)
    for name in _CONVERSIONS:
        for character, converted in zip(characters, opencc.OpenCC(name).convert(lines).split("\n"), strict=True):
            if len(converted) == 1 and converted != character:
                a, b = sorted((root(character), root(converted)))
                parent[b] = a
    simplified = dict(zip(characters, opencc.OpenCC("t2s").convert(lines).split("\n"), strict=True))
    # the class is named by the Simplified form of its first member, so that a folded text can still be read
    return {ord(c): ord(simplified[root(c)]) for c in characters if simplified[root(c)] != c}


@lru_cache(maxsize=1)
def fold_table() -> Array:
    """uint32 of shape (FOLD_SIZE,), read-only: `class << 24 | folded code point`; code point 0 means left out."""
    folded = np.arange(FOLD_SIZE, dtype=np.int64)
    for code_point in range(0x80, 0x20000):
        if 0x3400 <= code_point < 0xF900:
            continue
        character = chr(code_point)
        narrow = unicodedata.normalize("NFKC", character)
        if len(narrow) == 1 and not unicodedata.category(character).startswith("Z"):
            folded[code_point] = ord(narrow)
    for code_point in range(0x20000):
        if not 0x3400 <= code_point < 0xF900:
            lower = chr(folded[code_point]).lower()
            if len(lower) == 1:
                folded[code_point] = ord(lower)
    for target, alike in _ALIKE.items():
        for character in alike:
            folded[ord(character)] = ord(target)
    simplified = np.arange(FOLD_SIZE, dtype=np.int64)
    for code_point, first in _han_classes().items():
        simplified[code_point] = first
    folded = simplified[folded]
    while (folded[folded] != folded).any():  # what one rule gives, another may fold again
        folded = folded[folded]
    classes = np.full(FOLD_SIZE, character_classes()[0x4E00], np.int64)
    classes[:TABLE_SIZE] = character_classes()
    kinds = classes[folded]
    kinds[0xFE00:0xFE10] = CONTROL  # variation selectors choose a glyph, not a character
    folded[kinds == CONTROL] = 0
    table = ((kinds << CLASS_SHIFT) | folded).astype(np.uint32)
    table.setflags(write=False)
    return table


@compiled(inline="always")
def fold_character(code_point: int | np.int64, table: Array) -> tuple[int, int]:
    """The folded code point (0: left out) and its character class."""
    if code_point < FOLD_SIZE:
        entry = np.int64(table[code_point])
        return int(entry & CODE_POINT_MASK), int(entry >> CLASS_SHIFT)
    return int(code_point), 0


@compiled(inline="always")
def is_word(kind: int) -> bool:
    """Whether characters of this class make words (runs), in the sense of `text_kernels.units`."""
    return kind in (LATIN, DIGIT, LETTER, HANGUL)


@compiled
def _fold(buffer: Array, offsets: Array, table: Array) -> tuple[Array, Array]:
    documents = offsets.shape[0] - 1
    out = np.empty(2 * buffer.shape[0] + 4, np.uint8)  # a fold may need a byte or two more than its character
    out_offsets = np.zeros(documents + 1, np.int64)
    n = 0
    for document in range(documents):
        i, end = offsets[document], offsets[document + 1]
        after_word = False
        space = False
        while i < end:
            code_point, width = decode(buffer, i)
            i += width
            folded, kind = fold_character(code_point, table)
            if kind in (SPACE, NEWLINE):
                space = True
                continue
            if folded == 0:
                continue
            word = is_word(kind)
            if space and word and after_word:
                out[n] = 0x20
                n += 1
            space = False
            after_word = word
            if folded < 0x80:
                out[n] = folded
                n += 1
            elif folded < 0x800:
                out[n] = 0xC0 | (folded >> 6)
                out[n + 1] = 0x80 | (folded & 0x3F)
                n += 2
            elif folded < 0x10000:
                out[n] = 0xE0 | (folded >> 12)
                out[n + 1] = 0x80 | ((folded >> 6) & 0x3F)
                out[n + 2] = 0x80 | (folded & 0x3F)
                n += 3
            else:
                out[n] = 0xF0 | (folded >> 18)
                out[n + 1] = 0x80 | ((folded >> 12) & 0x3F)
                out[n + 2] = 0x80 | ((folded >> 6) & 0x3F)
                out[n + 3] = 0x80 | (folded & 0x3F)
                n += 4
        out_offsets[document + 1] = n
    return out[:n], out_offsets


def fold_buffers(texts: pl.Series) -> tuple[Array, Array]:
    """The folded texts' UTF-8 bytes (uint8) and offsets (int64, n + 1); white space stays only between words."""
    return _fold(*text_buffers(texts), fold_table())


def fold(texts: pl.Series) -> pl.Series:
    """The folded texts as a column; null reads as empty."""
    buffer, offsets = fold_buffers(texts)
    data = buffer.tobytes()
    folded = [data[start:stop].decode() for start, stop in pairwise(offsets.tolist())]
    return pl.Series(texts.name, folded, dtype=pl.String)
