"""The annotate stage: language, script and every signal as columns. It drops nothing.

One pass of the kernels over the text of a batch gives counts; the expressions of `data/signals.py` make signals of
them, and `data/language.py` reads the language and the script off the same counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from data.c4_kernels import C4_COUNTS, scan_c4
from data.character_kernels import CHARACTER_COUNTS, scan_characters
from data.language import LanguageConfig, identify
from data.line_kernels import LINE_COUNTS, scan_lines
from data.repetition_kernels import BLOCK_COUNTS, REPETITION_COUNTS, scan_blocks, scan_repetition
from data.schema import LANGUAGES
from data.signals import SIGNAL_COLUMNS, SIGNALS
from data.text_kernels import Array, measured_units, text_buffers
from data.word_kernels import WORD_COUNTS, scan_words


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """What annotate measures."""

    language: LanguageConfig = field(default_factory=LanguageConfig)
    """How language and script are decided."""
    flagged_words: str | None = None
    """A text file with one word or phrase a line: `flagged_word_share` is how much of a document lies inside them. One
    in Latin letters or digits is found as a whole word."""
    flagged_hosts: str | None = None
    """A text file with one host name a line: `flagged_host` is true for pages there and on their subdomains."""
    quality_models: dict[str, str] = field(default_factory=dict)
    """Language to a fastText model of `python -m data train-quality`; its score is the column `quality_score`."""
    batch_bytes: int = 8_000_000
    """Text is measured this many bytes at a time, which bounds memory."""

    def __post_init__(self) -> None:
        if self.batch_bytes < 1:
            raise ValueError("annotate: batch_bytes must be positive")
        if unknown := [language for language in self.quality_models if language not in LANGUAGES]:
            raise ValueError(f"annotate.quality_models: '{unknown[0]}' is none of {', '.join(LANGUAGES)}")

    def files(self) -> dict[str, Path]:
        """The user's files that annotate reads, by the key that names them."""
        named = {"flagged_words": self.flagged_words, "flagged_hosts": self.flagged_hosts}
        named |= {f"quality_models.{language}": path for language, path in self.quality_models.items()}
        return {f"annotate.{key}": Path(path) for key, path in named.items() if path is not None}


def count(texts: pl.Series) -> pl.DataFrame:
    """The kernels' counts of each text: one row a text, a column a count."""
    buffer, offsets = text_buffers(texts)
    hashes, lengths, unit_offsets, number_words = measured_units(buffer, offsets)
    columns: dict[str, Array] = {"number_words": number_words}
    for names, counts in (
        (CHARACTER_COUNTS, scan_characters(buffer, offsets)),
        (LINE_COUNTS, scan_lines(buffer, offsets)),
        (C4_COUNTS, scan_c4(buffer, offsets)),
        (WORD_COUNTS, scan_words(hashes, lengths, unit_offsets)),
        (REPETITION_COUNTS, scan_repetition(hashes, lengths, unit_offsets)),
        (BLOCK_COUNTS, scan_blocks(buffer, offsets)),
    ):
        columns |= {name: counts[:, position] for position, name in enumerate(names)}
    return pl.DataFrame(columns)


def _batches(table: pl.DataFrame, batch_bytes: int) -> Iterator[pl.DataFrame]:
    ends = np.cumsum(table["text"].str.len_bytes().fill_null(0).to_numpy())
    start = 0
    while start < table.height:
        already = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, already + batch_bytes, side="right")))
        yield table[start:stop]
        start = stop


def annotate(table: pl.DataFrame, config: AnnotateConfig) -> pl.DataFrame:
    """`table` (columns `text`, `url`) with `language`, `script` and every column of SIGNAL_COLUMNS, set anew."""
    table = table.drop("language", "script", *SIGNAL_COLUMNS, strict=False)
    lists = _Lists(words=_read_list(config.flagged_words), hosts=frozenset(_read_list(config.flagged_hosts)))
    annotated = [_annotate_batch(batch, config, lists) for batch in _batches(table, config.batch_bytes)]
    return pl.concat(annotated) if annotated else _annotate_batch(table, config, lists)


@dataclass(frozen=True, kw_only=True)
class _Lists:
    """What the user flags."""

    words: tuple[str, ...]
    hosts: frozenset[str]


def _annotate_batch(batch: pl.DataFrame, config: AnnotateConfig, lists: _Lists) -> pl.DataFrame:
    texts = batch["text"].fill_null("")
    counts = count(texts)
    measured = counts.select(signal.expression.cast(signal.dtype).alias(signal.name) for signal in SIGNALS)
    languages = identify(texts, counts, config.language)
    supplied = pl.DataFrame(
        [
            _flagged_word_share(texts, lists.words),
            _flagged_host(batch, lists.hosts),
            _quality_score(texts, languages["language"], config.quality_models),
        ]
    )
    return pl.concat([batch, languages, measured, supplied], how="horizontal")


def _read_list(path: str | None) -> tuple[str, ...]:
    """The entries of a user's list in lower case, without blank lines and comments; none without a list."""
    if path is None:
        return ()
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save it so") from None
    entries = tuple(line.lower() for line in lines if line and not line.startswith("#"))
    if not entries:
        raise ValueError(f"{path}: the list is empty; give one entry a line")
    return entries


def _flagged_word_share(texts: pl.Series, words: tuple[str, ...]) -> pl.Series:
    name = "flagged_word_share"
    if not words:
        return pl.repeat(0.0, len(texts), dtype=pl.Float32, eager=True).alias(name)
    lowered = texts.str.to_lowercase()
    longest_first = sorted(words, key=len, reverse=True)  # of those that begin at one place the first is found
    found = lowered.str.extract_many(longest_first, leftmost=True)
    places = lowered.str.find_many(longest_first, leftmost=True)
    inside = [0] * len(texts)
    for row in (found.list.len() > 0).arg_true():
        text = lowered[row].encode()
        for word, place in zip(found[row], places[row], strict=True):
            inside[row] += len(word) if _stands_apart(text, place, place + len(word.encode())) else 0
    return (pl.Series(name, inside) / texts.str.len_chars().clip(lower_bound=1)).cast(pl.Float32)


def _stands_apart(text: bytes, start: int, stop: int) -> bool:
    """Whether neither end of a word cuts a run of ASCII letters and digits in two."""
    before = text[start - 1 : start].isalnum() and text[start : start + 1].isalnum()
    behind = text[stop - 1 : stop].isalnum() and text[stop : stop + 1].isalnum()
    return not (before or behind)


def _flagged_host(batch: pl.DataFrame, flagged: frozenset[str]) -> pl.Series:
    if not flagged or "url" not in batch.columns:
        return pl.repeat(False, batch.height, dtype=pl.Boolean, eager=True).alias("flagged_host")
    hosts = (
        batch["url"].str.extract(r"^[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^/@]*@)?([^/:?#]+)").str.to_lowercase().fill_null("")
    )

    def is_flagged(host: str) -> bool:
        parts = host.split(".")
        return any(".".join(parts[i:]) in flagged for i in range(len(parts)))

    verdicts = {host: is_flagged(host) for host in hosts.unique()}
    return hosts.replace_strict(verdicts, return_dtype=pl.Boolean).alias("flagged_host")


def _quality_score(texts: pl.Series, languages: pl.Series, models: dict[str, str]) -> pl.Series:
    scores = pl.repeat(None, len(texts), dtype=pl.Float32, eager=True).alias("quality_score")
    if not models:
        return scores
    from data.quality import score  # the fastText extra is needed only where a model is given

    return score(texts, languages, models)
