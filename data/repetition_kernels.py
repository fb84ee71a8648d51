"""Numba kernels for what repeats within a document: lines, paragraphs and n-grams of units.

The measures are Gopher's (Rae et al. 2021, appendix A.1, table A1) and are counted as datatrove's
`GopherRepetitionFilter` counts them, so that thresholds published for it keep their meaning:

- a line or paragraph is a duplicate when an equal one stands before it;
- the share of the top n-gram is its characters, with a space between words, times how often it stands;
- duplicate n-grams are found greedily: one seen before counts whole and the search goes on behind it.
"""

from __future__ import annotations

import numpy as np

from data.compiled import compiled
from data.text_kernels import Array, Integer, mix

TOP_SIZES = (2, 3, 4)
DUPLICATE_SIZES = (5, 6, 7, 8, 9, 10)
REPETITION_COUNTS = (*(f"top_{n}gram" for n in TOP_SIZES), *(f"duplicate_{n}gram" for n in DUPLICATE_SIZES))
BLOCK_COUNTS = (
    "line_pieces", "duplicate_lines", "duplicate_line_characters",
    "paragraphs", "duplicate_paragraphs", "duplicate_paragraph_characters", "top_line_characters",
)  # fmt: skip
(
    LINE_PIECES, DUPLICATE_LINES, DUPLICATE_LINE_CHARACTERS,
    PARAGRAPHS, DUPLICATE_PARAGRAPHS, DUPLICATE_PARAGRAPH_CHARACTERS, TOP_LINE_CHARACTERS,
) = range(len(BLOCK_COUNTS))  # fmt: skip

# Odd 64-bit constants: of SplitMix64 (Steele, Lea and Flood 2014), and two of xxHash64's primes (Collet 2012).
_FIRST = np.uint64(0x9E3779B97F4A7C15)
_SECOND = np.uint64(0xC2B2AE3D27D4EB4F)
_LINE = np.uint64(0x9E3779B185EBCA87)
_LARGEST_STAMP = 2**31 - 1


@compiled(inline="always")
def _table_bits(entries: Integer) -> int:
    """Bits of the address of an open-addressing table that `entries` fill by half at the most."""
    bits = 4
    while (1 << bits) < 2 * entries:
        bits += 1
    return bits


@compiled(inline="always")
def _label_pair(keys: Array, i: Integer, table: Array, bits: int, base: Integer, labels: Array, count: Array) -> None:
    """Name the pair of neighbours at place i by the place of the first pair that equals it, and count that.

    A slot of `table` holds `base` and the place of a pair; what is below `base` was left by an earlier call.
    """
    first, second = keys[i], keys[i + 1]
    slot = np.int64((np.uint64(first) * _FIRST + np.uint64(second) * _SECOND) >> np.uint64(64 - bits))
    while True:
        j = table[slot] - base
        if j < 0:
            table[slot], labels[i], count[i] = base + i, i, 1
            break
        if keys[j] == first and keys[j + 1] == second:
            labels[i] = j
            count[j] += 1
            break
        slot = (slot + 1) & ((1 << bits) - 1)


@compiled
def _label_pairs(keys: Array, size: Integer, table: Array, base: Integer, labels: Array, count: Array) -> None:
    """Name and count each of the pairs of neighbours among `size` keys."""
    bits = _table_bits(size)
    for i in range(size - 1):
        _label_pair(keys, i, table, bits, base, labels, count)


@compiled
def _label_longer(
    keys: Array, places: Array, found: Integer, table: Array, base: Integer, labels: Array, count: Array
) -> int:
    """The same for pairs of neighbours among `places[:found]`; how many there are, now in the front of `places`."""
    bits = _table_bits(found)
    pairs = 0
    for k in range(found - 1):
        i = places[k]
        if places[k + 1] != i + 1:
            continue
        _label_pair(keys, i, table, bits, base, labels, count)
        places[pairs] = i
        pairs += 1
    return pairs


@compiled
def _keep_repeated(places: Array, pairs: Integer, labels: Array, count: Array) -> tuple[int, int, int]:
    """Leave the n-grams that stand twice in `places`: how many, the commonest's first place, how often it stands.

    Of equally common ones it is the first; where none stands twice, the count is 1 and the place 0.
    """
    kept = best = 0
    most = 1
    for k in range(pairs):
        i = places[k]
        label = labels[i]
        stands = count[label]
        if stands > 1:
            places[kept] = i
            kept += 1
            if stands > most:
                most, best = stands, label
    return kept, best, most


@compiled
def _duplicates(places: Array, found: Integer, labels: Array, count: Array, spans: Array, size: int) -> int:
    """Characters of n-grams that stood before, found greedily from the left, among those that stand twice.

    An n-gram that was gone past once has its count set to -1.
    """
    repeated = 0
    free = 0  # n-grams that begin before this lie within one that was counted
    for k in range(found):
        i = places[k]
        if i < free:
            continue
        label = labels[i]
        if count[label] < 0:
            repeated += spans[i + size] - spans[i]
            free = i + size
        else:
            count[label] = -1
    return repeated


@compiled
def _scan_repetition(hashes: Array, lengths: Array, unit_offsets: Array, counts: Array) -> None:
    """An n-gram can only stand twice where both (n-1)-grams within it do, so each length searches what the last left.

    Within a length an n-gram is named by the place of its first copy: the next length compares two names, not n units.
    """
    documents = unit_offsets.shape[0] - 1
    longest = 0
    for document in range(documents):
        longest = max(longest, unit_offsets[document + 1] - unit_offsets[document])
    table = np.full(1 << _table_bits(longest), -1, np.int32)
    places, count = np.empty(longest + 1, np.int32), np.empty(longest + 1, np.int32)
    labels, longer = np.empty(longest + 1, np.int32), np.empty(longest + 1, np.int32)
    spans = np.zeros(longest + 1, np.int64)
    base = 0
    for document in range(documents):
        begin = unit_offsets[document]
        size = unit_offsets[document + 1] - begin
        if base + 10 * size > _LARGEST_STAMP:
            table[:] = -1
            base = 0
        for i in range(size):
            spans[i + 1] = spans[i] + lengths[begin + i]
            places[i] = i
        found = size
        for n in range(2, 11):
            if n == 2:
                _label_pairs(hashes[begin : begin + size], size, table, base, labels, count)
                pairs = max(size - 1, 0)
            else:
                pairs = _label_longer(labels, places, found, table, base, longer, count)
                labels, longer = longer, labels
            base += size
            found, best, most = _keep_repeated(places, pairs, labels, count)
            if n >= 5:
                counts[document, n - 2] = _duplicates(places, found, labels, count, spans, n)
            elif size >= n:
                counts[document, n - 2] = (spans[best + n] - spans[best] + n - 1) * most
            if found == 0 and n >= 4:
                break


def scan_repetition(hashes: Array, lengths: Array, unit_offsets: Array) -> Array:
    """Characters in repeated n-grams of units, a document a row: int64 of shape (n, len(REPETITION_COUNTS))."""
    counts = np.zeros((unit_offsets.shape[0] - 1, len(REPETITION_COUNTS)), dtype=np.int64)
    _scan_repetition(hashes, lengths, unit_offsets, counts)
    return counts


_ONES = np.uint64(0x0101010101010101)
_HIGH_BITS = np.uint64(0x8080808080808080)
_LINE_FEEDS = np.uint64(0x0A0A0A0A0A0A0A0A)


@compiled(inline="always")
def _eight_bytes(buffer: Array, i: Integer) -> np.uint64:
    word = np.uint64(0)
    for k in range(8):
        word |= np.uint64(buffer[i + k]) << np.uint64(8 * k)
    return word


@compiled
def _read_line(buffer: Array, begin: Integer, end: Integer) -> tuple[Integer, np.uint64, Integer]:
    """Where the line from byte `begin` ends (a line feed or `end`), its hash, and its length in characters.

    Eight bytes are read at a time: a line feed among them, and bytes that continue a character, are found by the bits
    of the whole word (Lamport 1975).
    """
    i = begin
    running = np.uint64(0)
    continued = np.uint64(0)
    while i + 8 <= end:
        word = _eight_bytes(buffer, i)
        zeros = word ^ _LINE_FEEDS
        if (zeros - _ONES) & ~zeros & _HIGH_BITS != 0:
            break
        running = (running ^ word) * _LINE
        running ^= running >> np.uint64(32)
        continued += (((word >> np.uint64(7)) & ~(word >> np.uint64(6)) & _ONES) * _ONES) >> np.uint64(56)
        i += 8
    word = np.uint64(0)
    while i < end and buffer[i] != 10:
        word = (word << np.uint64(8)) | np.uint64(buffer[i])
        continued += np.uint64(buffer[i] & 0xC0 == 0x80)
        i += 1
    return i, mix((running ^ word) * _LINE + np.uint64(i - begin)), i - begin - np.int64(continued)


@compiled
def _times_seen(key: np.uint64, keys: Array, stamps: Array, times: Array, mask: int, stamp: int) -> int:
    """How often this key was met under this stamp before; it is once more from now on."""
    slot = np.int64(key) & mask
    while stamps[slot] == stamp:
        if keys[slot] == key:
            times[slot] += 1
            return times[slot]
        slot = (slot + 1) & mask
    stamps[slot], keys[slot], times[slot] = stamp, key, 0
    return 0


@compiled
def _count_line_feeds(buffer: Array, begin: Integer, end: Integer) -> int:
    lines = 0
    for i in range(begin, end):
        lines += buffer[i] == 10
    return lines


@compiled
def _scan_blocks(buffer: Array, offsets: Array, counts: Array) -> None:
    documents = offsets.shape[0] - 1
    most = 0
    for document in range(documents):
        most = max(most, _count_line_feeds(buffer, offsets[document], offsets[document + 1]))
    capacity = 1 << _table_bits(most + 2)
    line_keys, line_stamps = np.empty(capacity, np.uint64), np.full(capacity, -1, np.int64)
    block_keys, block_stamps = np.empty(capacity, np.uint64), np.full(capacity, -1, np.int64)
    line_times, block_times = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    for document in range(documents):
        row = counts[document]
        begin, end = offsets[document], offsets[document + 1]
        mask = (1 << _table_bits(_count_line_feeds(buffer, begin, end) + 2)) - 1
        # paragraphs are cut from the stripped text, lines from the text as it is
        inner_begin, inner_end = begin, end
        while inner_begin < inner_end and buffer[inner_begin] <= 32:
            inner_begin += 1
        while inner_end > inner_begin and buffer[inner_end - 1] <= 32:
            inner_end -= 1
        row[PARAGRAPHS] = inner_begin == inner_end  # nothing but white space is one empty paragraph
        block = np.uint64(0)
        block_length: Integer = -1  # no line yet
        i = begin
        while i <= end:
            start = i
            i, line, length = _read_line(buffer, start, end)
            if i > start or start == begin or i == end:
                row[LINE_PIECES] += 1
                times = _times_seen(line, line_keys, line_stamps, line_times, mask, document)
                row[DUPLICATE_LINES] += times > 0
                row[DUPLICATE_LINE_CHARACTERS] += length if times > 0 else 0
                if times >= 2:
                    row[TOP_LINE_CHARACTERS] = max(row[TOP_LINE_CHARACTERS], (times + 1) * length)
            if i > start and i > inner_begin and start < inner_end:
                if start < inner_begin or i > inner_end:
                    _, line, length = _read_line(buffer, max(start, inner_begin), min(i, inner_end))
                block = mix(block * _FIRST + line)
                block_length += length + 1  # with the line feed between it and the line before
            if block_length >= 0 and (i >= inner_end or i == start):
                row[PARAGRAPHS] += 1
                if _times_seen(block, block_keys, block_stamps, block_times, mask, document) > 0:
                    row[DUPLICATE_PARAGRAPHS] += 1
                    row[DUPLICATE_PARAGRAPH_CHARACTERS] += block_length
                block, block_length = np.uint64(0), -1
            i += 1


def scan_blocks(buffer: Array, offsets: Array) -> Array:
    """Duplicate lines and paragraphs of each document: int64 of shape (n, len(BLOCK_COUNTS))."""
    counts = np.zeros((offsets.shape[0] - 1, len(BLOCK_COUNTS)), dtype=np.int64)
    _scan_blocks(buffer, offsets, counts)
    return counts
