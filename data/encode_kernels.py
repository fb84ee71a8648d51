"""Byte-level BPE over Arrow buffers: the tokenizers library's ids without a Python string, many times faster.

The library spends most of its time cutting text and carrying offsets that a token shard has no use for. Here one
kernel cuts the UTF-8 bytes by the rules of `tokenizer.pretokenization`, looks each piece up in a table of pieces that
it has seen, and merges the bytes of a new one by the ranks of the tokenizer's merges. Character classes come from the
library's own regular expressions, so that both follow one version of Unicode.
Tests hold the ids equal over every plane.

Only for tokenizers that this project trains: `fast_encoder` returns None for any other, and a document with a piece of
more than `LONGEST_PIECE` bytes is left to the library, whose merging does not grow with the square of the length.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

import numpy as np

from data.compiled import compiled
from data.text_kernels import decode
from tokenizer.config import DigitRule, HanRule, PretokenizationConfig
from tokenizer.load import Tokenizer, bytes_of_stand_ins
from tokenizer.pretokenization import CHINESE_MARKS, pattern

Array = np.ndarray

LONGEST_PIECE = 1024
LONGEST_REMEMBERED = 64
SEEN_SLOTS = 1 << 20
"""Slots for pieces that were seen; filled to five eighths, then no more are remembered."""

LETTER, HAN_LETTER, NUMBER, SPACE, LINE_END, CHINESE_MARK, OTHER = 0, 1, 2, 3, 4, 5, 6
"""Classes of characters. LETTER holds letters and combining marks that are not Han."""

HAN_WITH_LETTERS, HAN_WITH_MARKS = -2, -1
"""Rules for Han runs that are no greatest length; 0 is a run apart of any length."""


@dataclass(frozen=True)
class FastEncoder:
    """The tables of one tokenizer; `encode` reads and fills the memory of pieces."""

    classes: Array
    han_rule: int
    digits: int
    contractions: bool
    byte_ids: Array
    pair_keys: Array
    pair_ranks: Array
    pair_ids: Array
    seen: Array
    seen_bytes: Array
    seen_ids: Array
    filled: Array
    endoftext: int

    def encode(self, buffer: Array, offsets: Array) -> tuple[Array, Array]:
        """Ids (t,) int32 of the documents `buffer[offsets[i]:offsets[i + 1]]`, each closed, and lengths (n,) int64.

        A length of -1 marks a document that is left to the library; it has no ids.
        """
        ids = np.empty(int(offsets[-1] - offsets[0]) + len(offsets), dtype=np.int32)
        lengths = np.zeros(len(offsets) - 1, dtype=np.int64)
        total = _encode(
            buffer, offsets, ids, lengths, self.classes, self.han_rule, self.digits, self.contractions, self.byte_ids,
            self.pair_keys, self.pair_ranks, self.pair_ids, self.seen, self.seen_bytes, self.seen_ids, self.filled,
            self.endoftext,
        )  # fmt: skip
        return ids[:total], lengths


def fast_encoder(tokenizer: Tokenizer) -> FastEncoder | None:
    """The tables for a tokenizer; None where it is not one of this project's byte-level BPEs."""
    parsed = json.loads(tokenizer.definition)
    config = _pretokenization(parsed)
    if config is None:
        return None
    vocabulary: dict[str, int] = parsed["model"]["vocab"]
    byte_ids = np.zeros(256, dtype=np.int32)
    for stand_in, byte in bytes_of_stand_ins().items():
        byte_ids[byte] = vocabulary[stand_in]
    merges = parsed["model"]["merges"]
    keys = np.array([(vocabulary[a] << 32) | vocabulary[b] for a, b in merges], dtype=np.int64)
    ids = np.array([vocabulary[a + b] for a, b in merges], dtype=np.int32)
    slots = 1 << max(4, (4 * len(merges)).bit_length())
    pair_keys = np.full(slots, -1, dtype=np.int64)
    pair_ranks, pair_ids = np.zeros(slots, dtype=np.int32), np.zeros(slots, dtype=np.int32)
    _fill_pairs(keys, ids, pair_keys, pair_ranks, pair_ids)
    return FastEncoder(
        classes=character_classes(),
        han_rule=_han_rule(config.han),
        digits={"one": 1, "three": 3, "run": 0}[config.digits],
        contractions=config.contractions,
        byte_ids=byte_ids,
        pair_keys=pair_keys,
        pair_ranks=pair_ranks,
        pair_ids=pair_ids,
        seen=np.zeros((SEEN_SLOTS, 3), dtype=np.int64),
        seen_bytes=np.zeros(SEEN_SLOTS * 10, dtype=np.uint8),
        seen_ids=np.zeros(SEEN_SLOTS * 4, dtype=np.int32),
        filled=np.zeros(3, dtype=np.int64),
        endoftext=tokenizer.special.endoftext,
    )


def _pretokenization(definition: dict) -> PretokenizationConfig | None:
    """The settings that a definition's cuts were made from, if they were."""
    model, steps = definition["model"], (definition.get("pre_tokenizer") or {}).get("pretokenizers", [])
    if model["type"] != "BPE" or definition.get("normalizer") or len(steps) != 2 or steps[1]["type"] != "ByteLevel":
        return None
    plain = {key: model.get(key) for key in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")}
    if any(plain.values()) or model.get("ignore_merges") or steps[1]["add_prefix_space"] or steps[1]["use_regex"]:
        return None
    if any(not token["special"] for token in definition["added_tokens"]):
        return None
    written = (steps[0].get("pattern") or {}).get("Regex")
    for han, digits, contractions in itertools.product(get_args(HanRule), get_args(DigitRule), (True, False)):
        config = PretokenizationConfig(han=han, digits=digits, contractions=contractions)
        if pattern(config) == written and steps[0]["behavior"] == "Isolated" and not steps[0]["invert"]:
            return config
    return None


def _han_rule(han: HanRule) -> int:
    named = {"with_letters": HAN_WITH_LETTERS, "with_punctuation": HAN_WITH_MARKS, "apart": 0}
    return named[han] if han in named else int(han.removeprefix("runs_of_"))


@lru_cache(maxsize=1)
def character_classes() -> Array:
    """(0x110000,) uint8: the class of every code point, by the regular expressions of the tokenizers library.

    Only planes 0 to 3 and the variation selectors are asked for: the rest of Unicode has no letters, marks, numbers or
    spaces, which a test holds against all of it. They are cut into runs of one class at once, and then the first
    character of each run is asked for its class, as the library needs a tenth of a second to look at all of them.
    """
    from tokenizers import Regex, pre_tokenizers

    kinds = {
        SPACE: r"\s", NUMBER: r"\p{N}", HAN_LETTER: r"[\p{Han}&&\p{L}]", LETTER: r"[[\p{L}\p{M}]&&[^[\p{Han}&&\p{L}]]]",
    }  # fmt: skip
    points = np.r_[0:0xD800, 0xE000:0x32400, 0xE0000:0xE0200]
    everything = "".join(map(chr, points.tolist()))
    cut = pre_tokenizers.Split(Regex("|".join(f"{kind}+" for kind in kinds.values())), behavior="isolated")
    runs = [place for _, place in cut.pre_tokenize_str(everything)]
    classes = np.full(0x110000, OTHER, dtype=np.uint8)
    first_characters = "".join(everything[start] for start, _ in runs)
    for kind, expression in kinds.items():
        split = pre_tokenizers.Split(Regex(f"{expression}+"), behavior="removed", invert=True)
        for _, (begin, end) in split.pre_tokenize_str(first_characters):
            for start, stop in runs[begin:end]:
                classes[points[start:stop]] = kind
    classes[[ord("\r"), ord("\n")]] = LINE_END
    classes[[ord(mark) for mark in CHINESE_MARKS]] = CHINESE_MARK
    return classes


@compiled
def _fill_pairs(keys: Array, ids: Array, pair_keys: Array, pair_ranks: Array, pair_ids: Array) -> None:
    mask = len(pair_keys) - 1
    for rank in range(len(keys)):
        slot = _mix(keys[rank]) & mask
        while pair_keys[slot] != -1:
            slot = (slot + 1) & mask
        pair_keys[slot], pair_ranks[slot], pair_ids[slot] = keys[rank], rank, ids[rank]


@compiled(inline="always")
def _mix(key: np.int64) -> np.int64:
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((mixed >> np.uint64(29)) & np.uint64(0x7FFFFFFF))


@compiled
def _class_at(buffer: Array, i: int, end: int, classes: Array) -> tuple[np.int64, int]:
    """(class, bytes) of the character at i; class -1 at the end."""
    if i >= end:
        return np.int64(-1), 0
    point, size = decode(buffer, i)
    return np.int64(classes[point]), size


@compiled
def _run(buffer: Array, i: int, end: int, classes: Array, first: int, second: int, most: int) -> int:
    """Where the run of classes `first` and `second` from i ends; at most `most` characters if that is above 0."""
    count = 0
    while most <= 0 or count < most:
        kind, size = _class_at(buffer, i, end, classes)
        if kind != first and kind != second:
            break
        i += size
        count += 1
    return i


@compiled
def _contraction(buffer: Array, i: int, end: int, classes: Array) -> int:
    """Where 's 't 'm 'd 're 've 'll at i ends, if no letter follows; else i."""
    if buffer[i] != 0x27 or i + 1 >= end:
        return i
    first = np.int64(buffer[i + 1]) | 0x20
    after = i
    if first in (0x73, 0x74, 0x6D, 0x64):
        after = i + 2
    elif i + 2 < end and buffer[i + 1] == 0xC5 and buffer[i + 2] == 0xBF:  # the long s, which folds to s
        after = i + 3
    elif i + 2 < end:
        second = np.int64(buffer[i + 2]) | 0x20
        if (
            (first == 0x72 and second == 0x65)
            or (first == 0x76 and second == 0x65)
            or (first == 0x6C and second == 0x6C)
        ):
            after = i + 3
    if after > i:
        kind, _ = _class_at(buffer, after, end, classes)
        if kind in (LETTER, HAN_LETTER):
            return i
    return after


@compiled
def _piece_end(buffer: Array, i: int, end: int, classes: Array, han_rule: int, digits: int, contractions: bool) -> int:
    """Where the piece that begins at i ends: the alternatives of `tokenizer.pretokenization.pattern`, in order."""
    if contractions:
        after = _contraction(buffer, i, end, classes)
        if after > i:
            return after
    kind, size = _class_at(buffer, i, end, classes)
    if kind == HAN_LETTER and han_rule >= 0:
        return _run(buffer, i, end, classes, HAN_LETTER, HAN_LETTER, han_rule)
    if han_rule == HAN_WITH_MARKS and kind in (HAN_LETTER, CHINESE_MARK):
        return _run(buffer, i, end, classes, HAN_LETTER, CHINESE_MARK, 0)
    also = HAN_LETTER if han_rule == HAN_WITH_LETTERS else LETTER
    if kind in (LETTER, also):
        return _run(buffer, i, end, classes, LETTER, also, 0)
    if kind != LINE_END and kind != NUMBER and kind != HAN_LETTER:
        following, _ = _class_at(buffer, i + size, end, classes)
        if following in (LETTER, also):
            return _run(buffer, i + size, end, classes, LETTER, also, 0)
    if kind == NUMBER:
        return _run(buffer, i, end, classes, NUMBER, NUMBER, digits)
    start = i
    if buffer[i] == 0x20:
        following, _ = _class_at(buffer, i + 1, end, classes)
        if following in (OTHER, CHINESE_MARK):
            start = i + 1
    if start > i or kind in (OTHER, CHINESE_MARK):
        marks = _run(buffer, start, end, classes, OTHER, CHINESE_MARK, 0)
        return _run(buffer, marks, end, classes, LINE_END, LINE_END, 0)
    return _space_end(buffer, i, end, classes)


@compiled
def _space_end(buffer: Array, i: int, end: int, classes: Array) -> int:
    """White space: up to its last line end, else all but the last character where something follows."""
    after_line_end = last = i
    place = i
    while place < end:
        kind, size = _class_at(buffer, place, end, classes)
        if kind != SPACE and kind != LINE_END:
            break
        last = place
        place += size
        if kind == LINE_END:
            after_line_end = place
    if after_line_end > i:
        return after_line_end
    if place == end or last == i:
        return place
    return last


@compiled
def _merge(
    buffer: Array, start: int, stop: int, byte_ids: Array, pair_keys: Array, pair_ranks: Array, pair_ids: Array,
    ids: Array, ranks: Array, merged: Array,
) -> int:  # fmt: skip
    """Merge the bytes of one piece, the best rank first and the leftmost of equals; returns how many `ids` are left."""
    count = stop - start
    for j in range(count):
        ids[j] = byte_ids[buffer[start + j]]
    for j in range(count - 1):
        ranks[j], merged[j] = _look_up(ids[j], ids[j + 1], pair_keys, pair_ranks, pair_ids)
    while count > 1:
        best, place = np.int32(2147483647), -1
        for j in range(count - 1):
            if ranks[j] < best:
                best, place = ranks[j], j
        if place < 0:
            break
        ids[place] = merged[place]
        for j in range(place + 1, count - 1):
            ids[j] = ids[j + 1]
        for j in range(place, count - 2):
            ranks[j], merged[j] = ranks[j + 1], merged[j + 1]
        count -= 1
        if place > 0:
            ranks[place - 1], merged[place - 1] = _look_up(ids[place - 1], ids[place], pair_keys, pair_ranks, pair_ids)
        if place < count - 1:
            ranks[place], merged[place] = _look_up(ids[place], ids[place + 1], pair_keys, pair_ranks, pair_ids)
    return count


@compiled(inline="always")
def _look_up(
    first: np.int32, second: np.int32, pair_keys: Array, pair_ranks: Array, pair_ids: Array
) -> tuple[np.int32, np.int32]:
    key = (np.int64(first) << 32) | np.int64(second)
    mask = len(pair_keys) - 1
    slot = _mix(key) & mask
    while pair_keys[slot] != -1:
        if pair_keys[slot] == key:
            return pair_ranks[slot], pair_ids[slot]
        slot = (slot + 1) & mask
    return np.int32(2147483647), np.int32(-1)


@compiled
def _same(buffer: Array, start: int, seen_bytes: Array, place: int, length: int) -> bool:
    for j in range(length):  # noqa: SIM110, Numba has no generator expressions
        if buffer[start + j] != seen_bytes[place + j]:
            return False
    return True


@compiled(nogil=True)
def _encode(
    buffer: Array, offsets: Array, out: Array, lengths: Array, classes: Array, han_rule: int, digits: int,
    contractions: bool, byte_ids: Array, pair_keys: Array, pair_ranks: Array, pair_ids: Array, seen: Array,
    seen_bytes: Array, seen_ids: Array, filled: Array, endoftext: int,
) -> int:  # fmt: skip
    """Fill `out` and `lengths`; returns the number of ids. A slot of `seen` is (hash, bytes, ids) of a piece."""
    ids = np.empty(LONGEST_PIECE, dtype=np.int32)
    ranks = np.empty(LONGEST_PIECE, dtype=np.int32)
    merged = np.empty(LONGEST_PIECE, dtype=np.int32)
    mask = len(seen) - 1
    total = 0
    for document in range(len(lengths)):
        i, end, begun = offsets[document], offsets[document + 1], total
        while i < end:
            stop = _piece_end(buffer, i, end, classes, han_rule, digits, contractions)
            length = stop - i
            if length > LONGEST_PIECE:
                break
            if length > LONGEST_REMEMBERED:
                count = _merge(buffer, i, stop, byte_ids, pair_keys, pair_ranks, pair_ids, ids, ranks, merged)
                for j in range(count):
                    out[total + j] = ids[j]
                total += count
                i = stop
                continue
            digest = np.uint64(14695981039346656037)
            for j in range(i, stop):
                digest = (digest ^ np.uint64(buffer[j])) * np.uint64(1099511628211)
            # the low byte of a slot's hash is the piece's length, never 0: an empty slot is 0
            key = np.int64(((digest ^ (digest >> np.uint64(31))) & np.uint64(0x7FFFFFFFFFFFFF00)) | np.uint64(length))
            slot = _mix(key) & mask
            while seen[slot, 0] != 0 and not (
                seen[slot, 0] == key and _same(buffer, i, seen_bytes, seen[slot, 1], length)
            ):
                slot = (slot + 1) & mask
            if seen[slot, 0] != 0:
                place, count = seen[slot, 2] >> 8, seen[slot, 2] & 255
                for j in range(count):
                    out[total + j] = seen_ids[place + j]
            else:
                count = _merge(buffer, i, stop, byte_ids, pair_keys, pair_ranks, pair_ids, ids, ranks, merged)
                for j in range(count):
                    out[total + j] = ids[j]
                room = filled[1] + length <= len(seen_bytes) and filled[2] + count <= len(seen_ids)
                if room and filled[0] < len(seen) // 8 * 5:
                    seen[slot, 0], seen[slot, 1], seen[slot, 2] = key, filled[1], (filled[2] << 8) | count
                    for j in range(length):
                        seen_bytes[filled[1] + j] = buffer[i + j]
                    for j in range(count):
                        seen_ids[filled[2] + j] = ids[j]
                    filled[0] += 1
                    filled[1] += length
                    filled[2] += count
            total += count
            i = stop
        if i < end:
            total, lengths[document] = begun, -1
        else:
            out[total] = endoftext
            total += 1
            lengths[document] = total - begun
    return total
