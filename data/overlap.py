"""The n-grams of evaluation items as an index, and where a document holds them.

An n-gram that starts at a word has `words` units and one that starts at a Han character `characters`; units are folded
(`shingles.py`), so that case, width, white space and Traditional forms do not hide a leak. The strings of an item
stand one after another, as they do when a page prints a question with its options. A string too short for an n-gram is
one n-gram of its whole length, if it is not too short to tell by.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from data.compiled import compiled
from data.shingles import folded_units
from data.text_kernels import mix

if TYPE_CHECKING:
    from data.decontaminate import DecontaminateConfig
    from data.evaluation_sets import Item

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Index:
    """Evaluation items and the n-grams that they hold."""

    sets: tuple[str, ...]
    """The set of each item."""
    items: tuple[str, ...]
    """The name of each item in its set."""
    unit_offsets: Array
    """int64 (items + 1): units before each item."""
    string_stops: Array
    """int64: the unit, counted over all items, at which each string ends; sorted."""
    grams: Array
    """uint64, sorted: hash of each different n-gram."""
    first: Array
    """int64 (grams + 1): where the places of each n-gram begin."""
    places: Array
    """int64: units, counted over all items, at which the n-gram stands."""
    lengths: Array
    """int32: units of the n-gram at each place."""
    word_lengths: Array
    """int64, sorted: lengths of n-grams that start at a word."""
    character_lengths: Array
    """int64, sorted: lengths of n-grams that start at a character."""

    @cached_property
    def table(self) -> tuple[Array, Array, Array]:
        """The n-grams as a hash table (`_table`)."""
        return _table(self.grams)

    def without(self, common: Array) -> Index:
        """The index less n-grams where `common` (bool, one each) is true."""
        counts = np.diff(self.first)
        keep = np.repeat(~common, counts)
        return replace(
            self,
            grams=self.grams[~common],
            first=np.concatenate([[0], np.cumsum(counts[~common])]).astype(np.int64),
            places=self.places[keep],
            lengths=self.lengths[keep],
        )


@compiled(inline="always")
def _extend(running: np.uint64, unit: np.uint32) -> np.uint64:
    running = (running ^ np.uint64(unit)) * np.uint64(0x9E3779B97F4A7C15)
    return running ^ (running >> np.uint64(32))


@compiled
def _gram(units: Array, start: int, length: int) -> np.uint64:
    running = np.uint64(0)
    for i in range(start, start + length):
        running = _extend(running, units[i])
    return mix(running ^ np.uint64(length))


@compiled
def _item_grams(
    units: Array,
    item_offsets: Array,
    string_stops: Array,
    words: int,
    characters: int,
    least_words: int,
    least_characters: int,
) -> tuple[Array, Array, Array]:
    """Hash, place and length of every n-gram of the items."""
    capacity = units.shape[0] + string_stops.shape[0]
    grams = np.empty(capacity, np.uint64)
    places = np.empty(capacity, np.int64)
    lengths = np.empty(capacity, np.int32)
    count = 0
    for item in range(item_offsets.shape[0] - 1):
        stop = item_offsets[item + 1]
        for i in range(item_offsets[item], stop):
            n = characters if units[i] & np.uint32(1) else words
            if i + n <= stop:
                grams[count], places[count], lengths[count] = _gram(units, i, n), i, n
                count += 1
    start = 0
    for stop in string_stops:
        n = stop - start
        if n > 0:
            character = units[start] & np.uint32(1)
            if (least_characters if character else least_words) <= n < (characters if character else words):
                grams[count], places[count], lengths[count] = _gram(units, start, n), start, n
                count += 1
        start = stop
    return grams[:count], places[:count], lengths[:count]


def build(items: Iterable[Item], config: DecontaminateConfig) -> Index:
    """The index of evaluation items, less n-grams that are in too many of them."""
    listed = list(items)
    strings = pl.Series("text", [string for item in listed for string in item.strings], dtype=pl.String)
    units, string_offsets = folded_units(strings)
    strings_before = np.concatenate([[0], np.cumsum([len(item.strings) for item in listed])]).astype(np.int64)
    unit_offsets = string_offsets[strings_before]
    grams, places, lengths = _item_grams(
        units,
        unit_offsets,
        string_offsets[1:],
        config.words,
        config.characters,
        config.shortest_words,
        config.shortest_characters,
    )
    order = np.lexsort((places, grams))
    grams, places, lengths = grams[order], places[order], lengths[order]
    distinct, first = np.unique(grams, return_index=True)
    of_character = (units[places] & 1).astype(bool) if len(places) else np.zeros(0, bool)
    index = Index(
        sets=tuple(item.set for item in listed),
        items=tuple(item.item for item in listed),
        unit_offsets=unit_offsets,
        string_stops=string_offsets[1:],
        grams=distinct,
        first=np.append(first, len(grams)).astype(np.int64),
        places=places,
        lengths=lengths,
        word_lengths=np.unique(lengths[~of_character]).astype(np.int64),
        character_lengths=np.unique(lengths[of_character]).astype(np.int64),
    )
    return index.without(_common_in_sets(index, config))


def _common_in_sets(index: Index, config: DecontaminateConfig) -> Array:
    """Whether each n-gram is in too many items of a set (bool, one each)."""
    names, set_of_item, sizes = np.unique(np.array(index.sets), return_inverse=True, return_counts=True)
    gram = np.repeat(np.arange(len(index.grams)), np.diff(index.first))
    item = np.searchsorted(index.unit_offsets, index.places, side="right") - 1
    pairs = np.unique(np.stack([gram, item]), axis=1)
    common = np.zeros(len(index.grams), bool)
    for number in range(len(names)):
        items = np.bincount(pairs[0][set_of_item[pairs[1]] == number], minlength=len(index.grams))
        common |= (items > config.common_items) & (items > config.common_share * sizes[number])
    return common


@compiled
def _table(grams: Array) -> tuple[Array, Array, Array]:
    """Open-addressing table of the grams: keys (0: empty), their numbers, and a filter of one bit a key.

    Nearly every n-gram of a corpus is in no evaluation set, and the filter says so from the cache.
    """
    size = 64
    while size < 4 * grams.shape[0]:
        size *= 2
    keys = np.zeros(size, np.uint64)
    numbers = np.zeros(size, np.int32)
    bits = np.zeros(size // 8, np.uint64)  # eight bits a slot: 32 and more for each gram
    for number in range(grams.shape[0]):
        slot = np.int64(grams[number] & np.uint64(size - 1))
        while keys[slot] != 0:
            slot = (slot + 1) & (size - 1)
        keys[slot], numbers[slot] = grams[number], number
        bit = (grams[number] >> np.uint64(32)) & np.uint64(size * 8 - 1)
        bits[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))
    return keys, numbers, bits


@compiled
def _scan(
    units: Array,
    offsets: Array,
    keys: Array,
    numbers: Array,
    bits: Array,
    word_lengths: Array,
    character_lengths: Array,
) -> tuple[Array, Array, Array]:
    """Document, unit (from the document's first) and n-gram of each hit, in order."""
    documents = np.empty(1024, np.int64)
    places = np.empty(1024, np.int64)
    grams = np.empty(1024, np.int64)
    count = 0
    mask = keys.shape[0] - 1
    bit_mask = np.uint64(bits.shape[0] * 64 - 1)
    for document in range(offsets.shape[0] - 1):
        first, stop = offsets[document], offsets[document + 1]
        for i in range(first, stop):
            lengths = character_lengths if units[i] & np.uint32(1) else word_lengths
            running = np.uint64(0)
            done = 0
            for n in lengths:
                if i + n > stop:
                    break
                while done < n:
                    running = _extend(running, units[i + done])
                    done += 1
                gram = mix(running ^ np.uint64(n))
                bit = (gram >> np.uint64(32)) & bit_mask
                if not (bits[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1):
                    continue
                slot = np.int64(gram & np.uint64(mask))
                while keys[slot] != 0 and keys[slot] != gram:
                    slot = (slot + 1) & mask
                if keys[slot] == 0:
                    continue
                if count == documents.shape[0]:
                    documents = np.concatenate((documents, np.empty(count, np.int64)))
                    places = np.concatenate((places, np.empty(count, np.int64)))
                    grams = np.concatenate((grams, np.empty(count, np.int64)))
                documents[count], places[count], grams[count] = document, i - first, numbers[slot]
                count += 1
    return documents[:count], places[:count], grams[:count]


def scan(units: Array, offsets: Array, index: Index) -> tuple[Array, Array, Array]:
    """Where documents hold n-grams of the index: document, unit of the document, number of the n-gram (int64)."""
    return _scan(units, offsets, *index.table, index.word_lengths, index.character_lengths)


def documents_holding(index: Index, texts: pl.Series) -> Array:
    """In how many of `texts` each n-gram of the index is (int64, one each)."""
    units, offsets = folded_units(texts)
    documents, _, grams = scan(units, offsets, index)
    if not len(grams):
        return np.zeros(len(index.grams), np.int64)
    pairs = np.unique(np.stack([documents, grams]), axis=1)
    return np.bincount(pairs[1], minlength=len(index.grams)).astype(np.int64)
