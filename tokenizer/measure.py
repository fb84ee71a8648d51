"""Measure tokenizers on text: how short they make it, how evenly they use their vocabulary, how fast they are.

bytes_per_token, characters_per_token    how much text a token carries
tokens_per_word      fertility; a word is one Han character or a run of other letters and digits
partial_share        tokens that are not whole characters (byte fallback, or part of a character's UTF-8)
renyi_efficiency     Renyi entropy of the tokens, alpha 2.5, over its maximum log |V| (Zouhar et al. 2023,
                     arXiv 2306.16842)
dead_share           ordinary tokens that the whole evaluation text never uses
han_3500, han_8105   share of the standard characters, common and all, that are one token
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

ALPHA = 2.5
_WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]|(?:(?![\u3400-\u9fff])[^\W_])+")


@dataclass(frozen=True)
class Measured:
    """A tokenizer as measuring needs it, ours or anyone's."""

    name: str
    encode_batch: Callable[[list[str]], list[list[int]]]
    decode: Callable[[list[int]], str]
    bytes_of_id: list[bytes]
    """What each id stands for; empty for special ids."""

    @property
    def tokens(self) -> int:
        """Ordinary tokens."""
        return sum(1 for value in self.bytes_of_id if value)


def measure(tokenizer: Measured, groups: dict[str, list[str]]) -> dict[str, object]:
    """The figures of one tokenizer: `groups` (a group's figures each), and those of its vocabulary.

    `groups` maps `zh`, `en`, `Hant`, `code` and the like to their texts. A text may stand in several.
    """
    all_counts = np.zeros(len(tokenizer.bytes_of_id), dtype=np.int64)
    partial = np.array([not _is_whole(value) for value in tokenizer.bytes_of_id])
    figures: dict[str, dict[str, float]] = {}
    for group, texts in groups.items():
        group_figures, counts = _measure_group(tokenizer, texts, partial)
        figures[group] = group_figures
        all_counts += counts
    ordinary = np.array([bool(value) for value in tokenizer.bytes_of_id])
    return {
        "name": tokenizer.name,
        "tokens": tokenizer.tokens,
        "groups": figures,
        "dead_share": float((all_counts[ordinary] == 0).mean()),
        "renyi_efficiency": renyi_efficiency(all_counts, tokenizer.tokens),
    } | han_coverage(tokenizer)


def _measure_group(
    tokenizer: Measured, texts: list[str], partial: npt.NDArray[np.bool_]
) -> tuple[dict[str, float], npt.NDArray[np.int64]]:
    started = time.perf_counter()
    encoded = tokenizer.encode_batch(texts)
    encoding_seconds = time.perf_counter() - started
    started = time.perf_counter()
    for ids in encoded:
        tokenizer.decode(ids)
    decoding_seconds = time.perf_counter() - started
    counts = np.zeros(len(partial), dtype=np.int64)
    for ids in encoded:
        counts += np.bincount(np.array(ids, dtype=np.int64), minlength=len(counts))
    tokens = max(1, int(counts.sum()))
    text_bytes = sum(len(text.encode()) for text in texts)
    return {
        "megabytes": text_bytes / 1e6,
        "bytes_per_token": text_bytes / tokens,
        "characters_per_token": sum(map(len, texts)) / tokens,
        "tokens_per_word": tokens / max(1, sum(count_words(text) for text in texts)),
        "partial_share": float(counts[partial].sum() / tokens),
        "renyi_efficiency": renyi_efficiency(counts, tokenizer.tokens),
        "encode_megabytes_per_second": text_bytes / 1e6 / max(encoding_seconds, 1e-9),
        "decode_megabytes_per_second": text_bytes / 1e6 / max(decoding_seconds, 1e-9),
    }, counts


def count_words(text: str) -> int:
    """Han characters, and runs of other letters and digits."""
    return sum(1 for _ in _WORD.finditer(text))


def renyi_efficiency(counts: npt.NDArray[np.int64], vocabulary: int) -> float:
    """Renyi entropy of order 2.5 of the counts' distribution over log `vocabulary`; 1 where all are used alike."""
    seen = counts[counts > 0]
    if seen.size == 0 or vocabulary < 2:
        return 0.0
    shares = seen / seen.sum()
    return float(np.log((shares**ALPHA).sum()) / (1 - ALPHA) / np.log(vocabulary))


def han_coverage(tokenizer: Measured) -> dict[str, float]:
    """Share of the 3,500 common and of all 8,105 standard characters that are one token of the vocabulary."""
    single = {value for value in tokenizer.bytes_of_id if 3 <= len(value) <= 4}
    covered = [character.encode() in single for character in standard_characters()]
    return {"han_3500": sum(covered[:3500]) / 3500, "han_8105": sum(covered) / len(covered)}


@lru_cache(maxsize=1)
def standard_characters() -> str:
    """The 8,105 characters of the Table of General Standard Chinese Characters (2013), the 3,500 common ones first."""
    lines = Path(__file__).with_name("standard_characters.txt").read_text(encoding="utf-8").splitlines()
    return "".join(line for line in lines if not line.startswith("#"))


def script_of(text: str) -> str:
    """`Hans`, `Hant` or "" for a Chinese text: which of GB 2312's and Big5's own characters it has more of."""
    simplified = traditional = 0
    for character in set(text[:20000]):
        if "\u4e00" <= character <= "\u9fff":
            in_gb, in_big5 = _encodable(character, "gb2312"), _encodable(character, "big5")
            simplified += in_gb and not in_big5
            traditional += in_big5 and not in_gb
    if simplified == traditional:
        return ""
    return "Hans" if simplified > traditional else "Hant"


@lru_cache(maxsize=32768)
def _encodable(character: str, charset: str) -> bool:
    try:
        character.encode(charset)
    except UnicodeEncodeError:
        return False
    return True


def _is_whole(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
