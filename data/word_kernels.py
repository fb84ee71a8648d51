"""The Numba kernel that counts words: stop words, English grammar, distinct words, and phrases of boilerplate.

Words and phrases are looked up by the hashes of their units, so that one pass over the units finds all of them. The
lists stand in `data/phrases.py`; letter case does not count in phrases.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np

from data.compiled import compiled
from data.phrases import (
    BOILERPLATE_PHRASES,
    ENGLISH_FUNCTION_WORDS,
    FINEWEB2_STOP_WORDS,
    GOPHER_STOP_WORDS,
    POLICY_PHRASES,
)
from data.text_kernels import Array, mix, units

_PHRASE_KINDS = (BOILERPLATE_PHRASES, POLICY_PHRASES, ("javascript",), ("lorem ipsum",))

WORD_COUNTS = (
    "words", "word_characters", "english_words", "gopher_stop_words", "fineweb2_stop_words", "distinct_words",
    "boilerplate_phrases", "policy_phrases", "javascript_mentions", "lorem_ipsum",
)  # fmt: skip
(
    WORDS, WORD_CHARACTERS, ENGLISH_WORDS, GOPHER_STOPS, FINEWEB2_STOPS, DISTINCT_WORDS, PHRASES,
) = range(len(WORD_COUNTS) - 3)  # fmt: skip
"""The kinds of phrases follow one another from PHRASES on."""
DISTINCT_WINDOW = 512
_TABLE = 4096
_ENGLISH = 1 << 40
_BEGINS_PHRASE = 1 << 41
_LONGEST_PHRASE = 6


def hash_units(text: str) -> list[int]:
    """The hashes of the units of one text."""
    encoded = np.frombuffer(text.encode(), dtype=np.uint8)
    return units(encoded, np.array([0, len(encoded)], np.int64))[0].tolist()


@compiled(inline="always")
def _extend(running: np.uint64, key: np.uint64) -> np.uint64:
    return mix(running * np.uint64(0x9E3779B97F4A7C15) + key)


def _open_addressing(bits: dict[int, int]) -> tuple[Array, Array]:
    keys, values = np.zeros(_TABLE, np.uint64), np.zeros(_TABLE, np.int64)
    for key, value in bits.items():
        slot = key & (_TABLE - 1)
        while keys[slot]:
            slot = (slot + 1) & (_TABLE - 1)
        keys[slot], values[slot] = key, value
    return keys, values


def _written_forms(phrase: str) -> set[str]:
    """A phrase with each of its words in lower case, capitalised or in capitals: `Terms of Use` is one of them."""
    forms = [{word, word.capitalize(), word.upper(), word.replace("javas", "JavaS")} for word in phrase.split(" ")]
    return {" ".join(words) for words in product(*forms)}


@lru_cache(maxsize=1)
def _word_table() -> tuple[Array, Array]:
    """From the hash of a word or a phrase to its bits: keys uint64, bits int64, open addressing.

    Bits 0-7 are Gopher's stop words, 8-39 FineWeb-2's; then English function words, words that begin a phrase, and
    from bit 42 the kinds of phrases.
    """
    bits: dict[int, int] = {}

    def add(key: int, value: int) -> None:
        bits[key] = bits.get(key, 0) | value

    for position, word in enumerate((*GOPHER_STOP_WORDS, *FINEWEB2_STOP_WORDS)):
        add(hash_units(word)[0], 1 << position)
    for word in ENGLISH_FUNCTION_WORDS:
        for form in {word, word.capitalize(), word.upper()}:
            add(hash_units(form)[0], _ENGLISH)
    for kind, phrases in enumerate(_PHRASE_KINDS):
        for phrase in phrases:
            for form in _written_forms(phrase):
                keys = hash_units(form)
                assert len(keys) <= _LONGEST_PHRASE, f"'{phrase}' would never be found: raise _LONGEST_PHRASE"
                add(keys[0], _BEGINS_PHRASE)
                running = np.uint64(0)
                for key in keys:
                    running = np.uint64(_extend(running, np.uint64(key)))
                add(int(running), 1 << (42 + kind))
    return _open_addressing(bits)


@compiled(inline="always")
def _look_up(key: np.uint64, keys: Array, values: Array) -> int:
    mask = keys.shape[0] - 1
    slot = np.int64(key) & mask
    while keys[slot] != 0:
        if keys[slot] == key:
            return values[slot]
        slot = (slot + 1) & mask
    return 0


@compiled
def _scan_words(hashes: Array, lengths: Array, unit_offsets: Array, keys: Array, values: Array, counts: Array) -> None:
    seen = np.zeros(4 * DISTINCT_WINDOW, np.uint64)
    stamps = np.full(4 * DISTINCT_WINDOW, -1, np.int64)
    for document in range(unit_offsets.shape[0] - 1):
        row = counts[document]
        stop_words = np.int64(0)
        begin, stop = unit_offsets[document], unit_offsets[document + 1]
        for i in range(begin, stop):
            row[WORD_CHARACTERS] += lengths[i]
            bits = _look_up(hashes[i], keys, values)
            if bits != 0:
                stop_words |= bits
                row[ENGLISH_WORDS] += (bits >> 40) & 1
                if bits & _BEGINS_PHRASE != 0:
                    running = np.uint64(0)
                    for j in range(i, min(i + _LONGEST_PHRASE, stop)):
                        running = _extend(running, hashes[j])
                        found = _look_up(running, keys, values) >> 42
                        if found != 0:
                            for kind in range(4):
                                row[PHRASES + kind] += (found >> kind) & 1
                            break
            if i - begin < DISTINCT_WINDOW:
                slot = np.int64(hashes[i] >> np.uint64(50)) & (4 * DISTINCT_WINDOW - 1)
                while stamps[slot] == document and seen[slot] != hashes[i]:
                    slot = (slot + 1) & (4 * DISTINCT_WINDOW - 1)
                if stamps[slot] != document:
                    stamps[slot], seen[slot] = document, hashes[i]
                    row[DISTINCT_WORDS] += 1
        row[WORDS] = stop - begin
        for bit in range(8):
            row[GOPHER_STOPS] += (stop_words >> bit) & 1
        for bit in range(8, 40):
            row[FINEWEB2_STOPS] += (stop_words >> bit) & 1


def scan_words(hashes: Array, lengths: Array, unit_offsets: Array) -> Array:
    """Counts over the units of each document: int64 of shape (n, len(WORD_COUNTS))."""
    counts = np.zeros((unit_offsets.shape[0] - 1, len(WORD_COUNTS)), dtype=np.int64)
    _scan_words(hashes, lengths, unit_offsets, *_word_table(), counts)
    return counts
