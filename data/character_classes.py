"""The class and the roles of every Unicode character, as tables that Numba kernels index by code point.

`character_classes` gives each character one class (the constants below); `character_roles` a set of bits that say
what else it may be: a mark that ends a sentence, a bullet, a function character, a character of one Chinese script
alone. Sources: Unicode general categories (Python's `unicodedata`), the block ranges of Unicode 15 for scripts, and
OpenCC's own conversion tables for Hans and Hant.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
import opencc

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
CLASS_NAMES = (
    "symbols", "han", "kana", "hangul", "latin", "letters", "digits", "spaces", "newlines", "punctuation", "controls",
)  # fmt: skip
"""The classes by number, as the counts of them are called."""

ENDS_SENTENCE = 1  # a line may end here: 。！？…；： and .!?
CLOSES = 2  # quotes and brackets that may follow such a mark
STOP = 4  # the sentence marks that FineWeb accepts as the end of a line, without the closing ones
PAUSES = 8  # marks within a sentence
BULLET = 16
FUNCTION = 32  # Chinese function characters of both scripts
HANS = 64  # written so in Simplified Chinese alone
HANT = 128  # written so in Traditional Chinese alone
RARE = 256  # Han characters outside both GB 2312 and the first level of Big5
DAMAGE = 512  # what decoding with the wrong charset leaves behind: U+FFFD and C1 controls

TABLE_SIZE = 0x20000

_RANGES = {
    HAN: "2E80-2FD5 3005-3007 3021-3029 3400-4DBF 4E00-9FFF F900-FAFF",
    KANA: "3041-3096 3099-309A 309D-309F 30A1-30FA 30FC-30FF 31F0-31FF FF66-FF9F",
    HANGUL: "1100-11FF 3131-318E A960-A97F AC00-D7FF",
    LATIN: "41-5A 61-7A AA BA C0-D6 D8-F6 F8-24F 1E00-1EFF FF21-FF3A FF41-FF5A",
}
_ROLES = {
    ENDS_SENTENCE: ".!?;…。！？；：｡．︒﹒﹗⁇⁈⁉‼؟۔।॥።",
    CLOSES: "\"'”’」』）》】〉〕)]}»›＂＇*_`",
    STOP: ".!?。！？｡．﹒﹗⁇⁈⁉⸮؟۔।॥።",
    PAUSES: "，、；：,;:—",
    BULLET: "-*•·●■▪◆◇○□►▶»–—‣◦+※★☆√",
    # particles, pronouns, conjunctions and prepositions, modern and classical
    FUNCTION: "的地得了着著过過是在有和與与及或而但不也都就还還又再很这這那其之以為为于於从從对對把被将將由所者矣"
    "乎焉哉兮则則乃且若如何此彼吾我你他她它们們个個中上下里裡裏到等可会會能要说說没沒无無非",
}


def _general_class(character: str) -> int:
    category = unicodedata.category(character)
    if "\ufe00" <= character <= "\ufe0f":  # variation selectors, which follow an emoji, are no letters of a word
        return CONTROL
    if category[0] in "LM":
        return LETTER
    if category == "Nd":
        return DIGIT
    if category[0] == "Z" or character in "\t\r\v\f\x1c\x1d\x1e\x85":
        return SPACE
    if category[0] == "P":
        return PUNCTUATION
    return CONTROL if category in ("Cc", "Cf") else OTHER


def _ranges(text: str) -> list[tuple[int, int]]:
    bounds = [part.split("-") for part in text.split()]
    return [(int(bound[0], 16), int(bound[-1], 16) + 1) for bound in bounds]


@lru_cache(maxsize=1)
def character_classes() -> np.ndarray:
    """The class of each code point below TABLE_SIZE: uint8, read-only. Past the table lie Han planes and symbols."""
    table = np.zeros(TABLE_SIZE, dtype=np.uint8)
    for start, stop in ((0, 0x3400), (0xA000, 0xAC00), (0xF900, TABLE_SIZE)):
        table[start:stop] = [_general_class(chr(code_point)) for code_point in range(start, stop)]
    for kind, text in _RANGES.items():
        for start, stop in _ranges(text):
            table[start:stop] = kind
    table[0x0A] = NEWLINE
    table.setflags(write=False)
    return table


@lru_cache(maxsize=1)
def plain_letters() -> np.ndarray:
    """By byte: lower-case letters that begin no address (`http`, `www`), which kernels run over: bool, read-only."""
    table = np.zeros(256, dtype=np.bool_)
    table[ord("a") : ord("z") + 1] = True
    table[[ord("h"), ord("w")]] = False
    table.setflags(write=False)
    return table


def _is_rare(character: str) -> bool:
    if character.encode("gb2312", "ignore"):
        return False
    encoded = character.encode("big5", "ignore")
    return not encoded or encoded[0] >= 0xC7  # the first level of Big5 ends with lead byte C6


def _telling_characters(configuration: str) -> list[int]:
    """Code points that this OpenCC conversion changes."""
    points = [point for start, stop in _ranges(_RANGES[HAN]) if start >= 0x3400 for point in range(start, stop)]
    lines = opencc.OpenCC(configuration).convert("\n".join(map(chr, points))).split("\n")
    return [point for point, line in zip(points, lines, strict=True) if line != chr(point)]


@lru_cache(maxsize=1)
def character_roles() -> np.ndarray:
    """The roles of each code point below TABLE_SIZE as bits: uint16, read-only."""
    table = np.zeros(TABLE_SIZE, dtype=np.uint16)
    for bit, characters in _ROLES.items():
        table[[ord(character) for character in characters]] |= bit
    # A character that either conversion changes to the other and back (乾, 后, 里) tells nothing sure, but it is rare.
    traditional = set(_telling_characters("t2s"))
    simplified = set(_telling_characters("s2t"))
    table[sorted(traditional - simplified)] |= HANT
    table[sorted(simplified - traditional)] |= HANS
    table[[point for point in range(0x3400, 0xA000) if _is_rare(chr(point))]] |= RARE
    table[0x80:0xA0] |= DAMAGE
    table[0xFFFD] |= DAMAGE
    table.setflags(write=False)
    return table
