"""Numba kernels for what repeats within a document: lines, paragraphs and n-grams of units.

The measures are Gopher's (Rae et al. 2021, appendix A.1, table A1) and are counted as datatrove's
`GopherRepetitionFilter` counts them, so that thresholds published for it keep their meaning:

- a line or paragraph is a duplicate when an equal one stands before it;
- the share of the top n-gram is its characters, with a space between words, times how often it stands;
- duplicate n-grams are found greedily: one seen before counts whole and the search goes on behind it.
"""

from __future__ import annotations

import numba
import numpy as np

from data.text_kernels import Array, mix

TOP_SIZES = (2, 3, 4)
DUPLICATE_SIZES = (5, 6, 7, 8, 9, 10)
REPETITION_COUNTS = (*(f"top_{n}gram" for n in TOP_SIZES), *(f"duplicate_{n}gram" for n in DUPLICATE_SIZES))
BLOCK_COUNTS = (
    "line_pieces", "duplicate_lines", "duplicate_line_characters",
    "paragraphs", "duplicate_paragraphs", "duplicate_paragraph_characters",
)  # fmt: skip

_BASE = np.uint64(0x9E3779B97F4A7C15)


@numba.njit(cache=True, inline="always")
def _window_hash(prefix: Array, power: np.uint64, start: int, size: int) -> np.uint64:
    """Hash of `size` units from `start`, out of prefix polynomials modulo 2^64."""
    return mix(prefix[start + size] - prefix[start] * power)


@numba.njit(cache=True)
def _top(
    prefix: Array, spans: Array, size: int, keys: Array, first: Array, count: Array, stamps: Array, stamp: int
) -> tuple[int, int]:
    """Characters of the commonest n-gram (the first of equals), with spaces between words; and how often it stands."""
    mask = keys.shape[0] - 1
    power = np.uint64(1)
    for _ in range(size):
        power *= _BASE
    best_count = best_first = 0
    for i in range(prefix.shape[0] - size):
        key = _window_hash(prefix, power, i, size)
        slot = np.int64(key) & mask
        while stamps[slot] == stamp and keys[slot] != key:
            slot = (slot + 1) & mask
        if stamps[slot] != stamp:
            stamps[slot], keys[slot], first[slot], count[slot] = stamp, key, i, 0
        count[slot] += 1
        if count[slot] > best_count or (count[slot] == best_count and first[slot] < best_first):
            best_count, best_first = count[slot], first[slot]
    if best_count == 0:
        return 0, 0
    return spans[best_first + size] - spans[best_first] + size - 1, best_count


@numba.njit(cache=True)
def _duplicates(prefix: Array, spans: Array, size: int, keys: Array, stamps: Array, stamp: int) -> int:
    """Characters of n-grams that stood before, found greedily from the left."""
    mask = keys.shape[0] - 1
    power = np.uint64(1)
    for _ in range(size):
        power *= _BASE
    repeated = 0
    i = 0
    while i < prefix.shape[0] - size:
        key = _window_hash(prefix, power, i, size)
        slot = np.int64(key) & mask
        while stamps[slot] == stamp and keys[slot] != key:
            slot = (slot + 1) & mask
        if stamps[slot] == stamp:
            repeated += spans[i + size] - spans[i]
            i += size
        else:
            stamps[slot], keys[slot] = stamp, key
            i += 1
    return repeated


@numba.njit(cache=True)
def _scan_repetition(hashes: Array, lengths: Array, unit_offsets: Array, counts: Array) -> None:
    documents = unit_offsets.shape[0] - 1
    longest = 0
    for document in range(documents):
        longest = max(longest, unit_offsets[document + 1] - unit_offsets[document])
    capacity = 16
    while capacity < 2 * longest:
        capacity *= 2
    keys, first, count = np.empty(capacity, np.uint64), np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    stamps = np.full(capacity, -1, np.int64)
    prefix, spans = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.int64)
    for document in range(documents):
        begin = unit_offsets[document]
        size = unit_offsets[document + 1] - begin
        # a small document uses the front of the table alone, which stays in the cache
        table = 16
        while table < 2 * size:
            table *= 2
        prefix[0], spans[0] = np.uint64(0), 0
        for i in range(size):
            prefix[i + 1] = prefix[i] * _BASE + hashes[begin + i]
            spans[i + 1] = spans[i] + lengths[begin + i]
        stamp = document * 16
        repeats = 2
        for n in range(2, 5):
            # where no n-gram stands twice, no longer one does: the first stands for all
            if repeats > 1 or size < n:
                characters, repeats = _top(
                    prefix[: size + 1], spans, n, keys[:table], first[:table], count[:table], stamps[:table], stamp + n
                )
            else:
                characters = spans[n] + n - 1
            counts[document, n - 2] = characters * repeats
        found = 1 if repeats > 1 or size < 4 else 0
        for n in range(5, 11):
            if found > 0:
                found = _duplicates(prefix[: size + 1], spans, n, keys[:table], stamps[:table], stamp + n)
            counts[document, n - 2] = found


def scan_repetition(hashes: Array, lengths: Array, unit_offsets: Array) -> Array:
    """Characters in repeated n-grams of units, a document a row: int64 of shape (n, len(REPETITION_COUNTS))."""
    counts = np.zeros((unit_offsets.shape[0] - 1, len(REPETITION_COUNTS)), dtype=np.int64)
    _scan_repetition(hashes, lengths, unit_offsets, counts)
    return counts


@numba.njit(cache=True)
def _seen(key: np.uint64, keys: Array, stamps: Array, stamp: int) -> bool:
    """Whether this key was met under this stamp before; it is from now on."""
    mask = keys.shape[0] - 1
    slot = np.int64(key) & mask
    while stamps[slot] == stamp:
        if keys[slot] == key:
            return True
        slot = (slot + 1) & mask
    stamps[slot], keys[slot] = stamp, key
    return False


@numba.njit(cache=True)
def _scan_blocks(buffer: Array, offsets: Array, counts: Array) -> None:
    documents = offsets.shape[0] - 1
    most = 0
    for document in range(documents):
        lines = 1
        for i in range(offsets[document], offsets[document + 1]):
            lines += buffer[i] == 10
        most = max(most, lines)
    capacity = 16
    while capacity < 2 * (most + 1):
        capacity *= 2
    line_keys, line_stamps = np.empty(capacity, np.uint64), np.full(capacity, -1, np.int64)
    block_keys, block_stamps = np.empty(capacity, np.uint64), np.full(capacity, -1, np.int64)
    for document in range(documents):
        row = counts[document]
        begin, end = offsets[document], offsets[document + 1]
        # paragraphs are cut from the stripped text, lines from the text as it is
        inner_begin, inner_end = begin, end
        while inner_begin < inner_end and buffer[inner_begin] <= 32:
            inner_begin += 1
        while inner_end > inner_begin and buffer[inner_end - 1] <= 32:
            inner_end -= 1
        line, block = np.uint64(0), np.uint64(0)
        line_length = block_length = breaks = 0
        for i in range(begin, end + 1):
            byte = np.int64(buffer[i]) if i < end else 10
            if byte != 10:
                line = (line ^ np.uint64(byte)) * _BASE
                line ^= line >> np.uint64(31)
                line_length += byte & 0xC0 != 0x80
            elif i in (begin, end) or buffer[i - 1] != 10:
                row[0] += 1
                if _seen(mix(line ^ np.uint64(line_length)), line_keys, line_stamps, document):
                    row[1] += 1
                    row[2] += line_length
                line, line_length = np.uint64(0), 0
            if i < inner_begin or i > inner_end:
                continue
            byte = byte if i < inner_end else 10
            if byte == 10:
                breaks += 1
            if (byte != 10 and breaks >= 2) or i == inner_end:
                row[3] += 1
                if _seen(mix(block ^ np.uint64(block_length)), block_keys, block_stamps, document):
                    row[4] += 1
                    row[5] += block_length
                block, block_length, breaks = np.uint64(0), 0, 0
            if byte != 10:
                if breaks == 1:  # a single line feed is part of the paragraph
                    block = (block ^ np.uint64(10)) * _BASE
                    block ^= block >> np.uint64(31)
                    block_length += 1
                breaks = 0
                block = (block ^ np.uint64(byte)) * _BASE
                block ^= block >> np.uint64(31)
                block_length += byte & 0xC0 != 0x80


def scan_blocks(buffer: Array, offsets: Array) -> Array:
    """Duplicate lines and paragraphs of each document: int64 of shape (n, len(BLOCK_COUNTS))."""
    counts = np.zeros((offsets.shape[0] - 1, len(BLOCK_COUNTS)), dtype=np.int64)
    _scan_blocks(buffer, offsets, counts)
    return counts
