"""How two texts differ: their alignment, and what tells sibling pages from a copy that was edited.

Pages of a reference work that share a template and differ in their facts agree in as many units as a copy with edits
all over it does. They differ in another manner:

    swap      one thing is put for another again and again ("source" for "target" wherever it stands): the share of the
              commonest replacement among all replacements. Random edits hardly ever make the same replacement twice.
    variety   different units among those that differ, over the number expected had edits fallen on the texts' units at
              random. Random edits give about 1; what says "short" where the other says "long" gives much less.

Three more are asked only where the first lines of the two texts are titles that name different things. Edits that fall
at random hit a title now and then, but the rest of the text does not follow them:

    phrases   whole phrases were put in, left out or replaced: the share of differing units that are in runs of three or
              more. What one text has at an end alone (a header, a footer, the end of a cut text) is not counted.
    echo      what differs below the titles is what differs in them: the share of differing units that are the title's,
              of those words that differ in a fifth of the places where they stand and more.
    codes     replaced words with digits in them, five characters and more: the numbers of two entries of one list.

The alignment is a longest common subsequence of units on bit vectors (Hyyrö 2004), 64 units a step, with the vectors
of all rows kept to go back through; what both texts begin and end with is taken off before.
"""

from __future__ import annotations

import numpy as np

from data.compiled import compiled
from data.shingles import is_code
from data.text_kernels import mix

Array = np.ndarray

TITLE = 40
"""The most units of a first line that is a title."""
PHRASE = 3
"""Units in a row that are a phrase."""
SOLID = 12
"""Aligned units in a row that are no chance."""
SELDOM = 0.005
"""Differences in less than this share of the units say nothing: an edition of a novel that spells one name otherwise is
that novel."""


@compiled(inline="always")
def slot_of(keys: Array, stamps: Array, stamp: int, key: int) -> int:
    """Where `key` stands in the open-addressing table, or where it would be put."""
    mask = keys.shape[0] - 1
    slot = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & mask
    while stamps[slot] >= stamp and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@compiled
def number_units(a: Array, b: Array) -> tuple[Array, Array, int]:
    """The units of two texts as small numbers, the same for equal units, and how many different ones there are."""
    size = 64
    while size < 2 * (a.shape[0] + b.shape[0]):
        size *= 2
    keys, stamps = np.zeros(size, np.uint32), np.zeros(size, np.int64)
    numbers = np.zeros(size, np.int32)
    numbered_a, numbered_b = np.empty(a.shape[0], np.int32), np.empty(b.shape[0], np.int32)
    count = 0
    for side in range(2):
        units, numbered = (a, numbered_a) if side == 0 else (b, numbered_b)
        for i in range(units.shape[0]):
            slot = slot_of(keys, stamps, 1, units[i])
            if stamps[slot] == 0:
                stamps[slot], keys[slot], numbers[slot] = 1, units[i], count
                count += 1
            numbered[i] = numbers[slot]
    return numbered_a, numbered_b, count


@compiled
def _rows(a: Array, b: Array, count: int) -> Array:
    """uint64 (len(b) + 1, words): bit i of row j is 0 where a[i] lengthens the subsequence of a[: i + 1] and b[:j]."""
    n = a.shape[0]
    # the places of each number in `a` as a chain: a bit matrix of all numbers would be quadratic in memory
    head = np.full(count, -1, np.int64)
    following = np.empty(n, np.int64)
    for i in range(n):
        following[i] = head[a[i]]
        head[a[i]] = i
    words = (n + 63) // 64
    rows = np.empty((b.shape[0] + 1, words), np.uint64)
    rows[0] = np.uint64(0xFFFFFFFFFFFFFFFF)
    matches = np.zeros(words, np.uint64)
    for j in range(b.shape[0]):
        state, after = rows[j], rows[j + 1]
        place = head[b[j]]
        if place < 0:
            after[:] = state
            continue
        while place >= 0:
            matches[place >> 6] |= np.uint64(1) << np.uint64(place & 63)
            place = following[place]
        carry = np.uint64(0)
        for w in range(words):
            old = state[w]
            both = old & matches[w]
            partial = old + both
            total = partial + carry
            carry = np.uint64(1) if partial < old or total < partial else np.uint64(0)
            after[w] = total | (old - both)
        place = head[b[j]]
        while place >= 0:
            matches[place >> 6] = np.uint64(0)
            place = following[place]
    return rows


@compiled
def align(a: Array, b: Array, count: int) -> tuple[int, Array]:
    """Align two sequences of numbers below `count` along a longest common subsequence.

    Returns its length, and what is not in it as int64 (hunks, 4): a[h[0]:h[1]] stands where b[h[2]:h[3]] does, in
    order; one side of a hunk may be empty.
    """
    n, m = a.shape[0], b.shape[0]
    before = 0
    while before < min(n, m) and a[before] == b[before]:
        before += 1
    behind = 0
    while behind < min(n, m) - before and a[n - 1 - behind] == b[m - 1 - behind]:
        behind += 1
    hunks = np.empty((min(n, m) - before - behind + 1, 4), np.int64)
    inner_a, inner_b = a[before : n - behind], b[before : m - behind]
    i, j = inner_a.shape[0], inner_b.shape[0]
    if i + j == 0:
        return before + behind, hunks[:0]
    if i == 0 or j == 0:
        hunks[0] = np.array([before, before + i, before, before + j])
        return before + behind, hunks[:1]
    rows = _rows(inner_a, inner_b, count)
    found, aligned = 0, 0
    end_a, end_b = i, j
    while True:
        matched = False
        if i > 0 and j > 0:
            bit = np.uint64(1) << np.uint64((i - 1) & 63)
            word = (i - 1) >> 6
            if rows[j, word] & bit:
                i -= 1
                continue
            if not rows[j - 1, word] & bit:
                j -= 1
                continue
            matched = True
        stop_a, stop_b = (i, j) if matched else (0, 0)
        if end_a > stop_a or end_b > stop_b:
            hunks[found] = np.array([before + stop_a, before + end_a, before + stop_b, before + end_b])
            found += 1
        if not matched:
            break
        aligned += 1
        i -= 1
        j -= 1
        end_a, end_b = i, j
    return before + behind + aligned, hunks[:found][::-1].copy()


@compiled
def titles_differ(hunks: Array, title_a: int, title_b: int) -> bool:
    """Whether the first lines (so many units each) are one line that names two things.

    They differ, and share a third of the longer one's units or stand for one another as a whole. A line that was put
    on top is no other name, and a line of more than `TITLE` units is no title.
    """
    if min(title_a, title_b) == 0 or max(title_a, title_b) > TITLE:
        return False
    shared, differing, whole = 0, 0, False
    behind_a, behind_b = 0, 0
    for h in range(hunks.shape[0]):
        start_a, stop_a, start_b, stop_b = hunks[h]
        shared += max(0, min(start_a - behind_a, title_a - behind_a, title_b - behind_b))
        differing += max(0, min(stop_a, title_a) - start_a) + max(0, min(stop_b, title_b) - start_b)
        if start_a == 0 and start_b == 0:
            whole = title_a <= stop_a <= TITLE and title_b <= stop_b <= TITLE
        behind_a, behind_b = stop_a, stop_b
    shared += max(0, min(title_a - behind_a, title_b - behind_b))
    return differing > 0 and (whole or 3 * shared >= max(title_a, title_b))


@compiled
def swap_of(a: Array, b: Array, hunks: Array) -> float:
    """The commonest replacement's share of all replacements of two aligned texts; see the head of this file."""
    keys = np.empty(hunks.shape[0], np.uint64)
    sizes = np.empty(hunks.shape[0], np.int64)
    count = 0
    for h in range(hunks.shape[0]):
        start_a, stop_a, start_b, stop_b = hunks[h]
        if start_a == stop_a or start_b == stop_b:
            continue
        key = np.uint64(stop_a - start_a)
        for i in range(start_a, stop_a):
            key = mix(key ^ np.uint64(a[i]))
        key ^= np.uint64(0x9E3779B97F4A7C15)
        for i in range(start_b, stop_b):
            key = mix(key ^ np.uint64(b[i]))
        keys[count], sizes[count] = key, max(stop_a - start_a, stop_b - start_b)
        count += 1
    order = np.argsort(keys[:count])
    most, units_of_most, start = 1, 0, 0
    for k in range(1, count + 1):
        if k < count and keys[order[k]] == keys[order[start]]:
            continue
        if k - start > most:
            most, units_of_most = k - start, (k - start) * sizes[order[start]]
        start = k
    return most / count if most > 1 and units_of_most >= SELDOM * max(a.shape[0], b.shape[0]) else 0.0


@compiled
def manner(a: Array, b: Array, hunks: Array, title_a: int, title_b: int) -> tuple[float, float, int]:
    """(phrases, echo, codes) of two aligned texts whose titles name different things; see the head of this file."""
    differing, counted, in_phrases, codes = 0, 0, 0, 0
    for h in range(hunks.shape[0]):
        start_a, stop_a, start_b, stop_b = hunks[h]
        size_a, size_b = stop_a - start_a, stop_b - start_b
        differing += size_a + size_b
        if size_a == size_b:
            for i in range(size_a):
                codes += is_code(a[start_a + i]) and is_code(b[start_b + i])
        at_an_end = (start_a == 0 and start_b == 0) or (stop_a == a.shape[0] and stop_b == b.shape[0])
        if at_an_end and min(size_a, size_b) == 0:
            continue  # a header, a footer, a text cut short
        size = max(size_a, size_b)
        counted += size
        in_phrases += size if size >= PHRASE else 0
    if differing < SELDOM * (a.shape[0] + b.shape[0]):
        return 0.0, 0.0, 0
    below, echoed = 0, 0
    named = np.unique(np.concatenate((a[:title_a], b[:title_b])))
    everywhere, unaligned = np.zeros(named.shape[0], np.int64), np.zeros((named.shape[0], 2), np.int64)
    for side in range(2):
        units, title = (a, title_a) if side == 0 else (b, title_b)
        for unit in units:
            place = _place(named, unit)
            if place >= 0:
                everywhere[place] += 1
        for h in range(hunks.shape[0]):
            for i in range(hunks[h, 2 * side], hunks[h, 2 * side + 1]):
                below += i >= title
                place = _place(named, units[i])
                if place >= 0:
                    unaligned[place, int(i >= title)] += 1
    for place in range(named.shape[0]):
        in_titles, under = unaligned[place]
        # a common word differs here and there; the title's differs where it stands
        if in_titles > 0 and 5 * (in_titles + under) >= everywhere[place]:
            echoed += under
    # one unit that comes again may be chance
    return in_phrases / max(1, counted), echoed / below if echoed > 1 else 0.0, codes


@compiled(inline="always")
def _place(ordered: Array, unit: int) -> int:
    """Where `unit` is in an ordered array; -1 if it is not."""
    place = np.searchsorted(ordered, unit)
    return int(place) if place < ordered.shape[0] and ordered[place] == unit else -1


@compiled
def overlap_of(hunks: Array, n: int, m: int) -> int:
    """Units of the stretch that two texts of n and m units share when they were cut at other places; 0 if none.

    It lies between the first and the last run of `SOLID` aligned units, and all but a twentieth of it is aligned: what
    is to its sides is each text's own.
    """
    first_a, first_b, last_a, last_b = -1, -1, 0, 0
    aligned, solid = 0, 0
    behind_a, behind_b = 0, 0
    for h in range(hunks.shape[0] + 1):
        start_a, start_b = (hunks[h, 0], hunks[h, 2]) if h < hunks.shape[0] else (n, m)
        run = start_a - behind_a
        if run >= SOLID and first_a < 0:
            first_a, first_b = behind_a, behind_b
        if first_a >= 0:
            aligned += run
        if run >= SOLID:
            last_a, last_b, solid = start_a, start_b, aligned
        if h < hunks.shape[0]:
            behind_a, behind_b = hunks[h, 1], hunks[h, 3]
    return solid if first_a >= 0 and solid >= 0.95 * max(last_a - first_a, last_b - first_b) else 0


@compiled
def variety_of(a: Array, b: Array, count: int) -> float:
    """Different units among those in which two texts differ, over the number expected of edits at random places."""
    in_a, in_b = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for number in a:
        in_a[number] += 1
    for number in b:
        in_b[number] += 1
    different, more_a, more_b = 0, 0, 0
    for number in range(count):
        surplus = in_a[number] - in_b[number]
        different += surplus != 0
        more_a += max(surplus, 0)
        more_b += max(-surplus, 0)
    if different == 0:
        return 1.0
    kept_a, kept_b = 1 - more_a / max(1, a.shape[0]), 1 - more_b / max(1, b.shape[0])
    expected = 0.0
    for number in range(count):
        expected += 2 - kept_a ** in_a[number] - kept_b ** in_b[number]
    return different / max(expected, 1e-9)
