"""The stage tokenize: shards of text become token shards, one folder a language and kind.

A Parquet shard NNNNN of the mix gives at most one token shard in each folder, `<language>-<kind>/NNNNN.{bin,idx}`, with
the documents in their order. What a file holds depends on its input shard and the tokenizer alone, so that it is the
same however many processes there are. `data/stages.py` spreads the shards and keeps the record.

Text is encoded with special tokens as plain characters; every document is closed by `<|endoftext|>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from data.token_shards import TokenShardWriter
from tokenizer.load import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    import pyarrow.parquet

    from data.encode_kernels import FastEncoder

KERNEL_PAYS_FROM = 2_000_000
"""Bytes of text for one process from which the kernel is the faster: its tables and compiled code take most of a second
to load (and four more where they were never compiled), in which the library encodes one to two megabytes."""

_COLUMNS = ["text", "language", "kind"]


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig:
    """How the stage tokenize reads and encodes; nothing here changes the ids."""

    batch_documents: int = 512
    """Documents that a process encodes at a time."""
    encoder: Literal["auto", "kernel", "library"] = "auto"
    """What encodes: the compiled kernel of `data/encode_kernels.py`, the tokenizers library, or (auto) the kernel where
    there is so much text that its start pays. The ids are the same."""

    def __post_init__(self) -> None:
        """Raise ValueError for a batch of nothing."""
        if self.batch_documents < 1:
            raise ValueError(f"tokenize.batch_documents must be at least 1, not {self.batch_documents}")


@dataclass(kw_only=True)
class TokenCounts:
    """What went into one token shard, or into many."""

    documents: int = 0
    """Documents encoded."""
    tokens: int = 0
    """Tokens, the closing `<|endoftext|>` of each document among them."""
    text_bytes: int = 0
    """UTF-8 bytes of their text."""

    def add(self, other: TokenCounts) -> None:
        """Add another's numbers to these."""
        self.documents += other.documents
        self.tokens += other.tokens
        self.text_bytes += other.text_bytes


@dataclass(kw_only=True)
class EncodedShard:
    """What one input shard gave."""

    files: dict[str, TokenCounts] = field(default_factory=dict)
    """Path prefix below the output folder (`zh-prose/00000`) -> what is in it."""
    empty_documents: int = 0
    """Documents without text, which are left out."""

    def by_folder(self) -> dict[str, TokenCounts]:
        """The counts of each `<language>-<kind>`."""
        return {prefix.partition("/")[0]: counts for prefix, counts in self.files.items()}


def encode_shard(
    shard: Path,
    tokenizer: Tokenizer,
    output: Path,
    config: TokenizeConfig,
    limit: int | None = None,
    expected_bytes: int = 0,
) -> EncodedShard:
    """Encode one Parquet shard (columns `text`, `language`, `kind`) into token shards below `output`.

    `limit` takes the first documents alone. `expected_bytes` of text are what this process will encode over all its
    shards, if that is known and more than this shard holds. Raises ValueError naming the shard where it has no such
    columns.
    """
    file = _open(shard)
    result = EncodedShard()
    writers: dict[str, TokenShardWriter] = {}
    encoder = _encoder(tokenizer, config.encoder, max(expected_bytes, _text_bytes(file)))
    with ExitStack() as stack:
        for folder, texts in _batches(file, config.batch_documents, limit, result):
            prefix = f"{folder}/{shard.stem}"
            if folder not in writers:
                writers[folder] = stack.enter_context(TokenShardWriter(output / prefix, tokenizer.vocab_size))
                result.files[prefix] = TokenCounts()
            ids, lengths = encoder.encode(texts)
            writers[folder].add_many(ids, lengths)
            text_bytes = int(texts.str.len_bytes().sum())
            result.files[prefix].add(TokenCounts(documents=len(texts), tokens=ids.size, text_bytes=text_bytes))
    return result


class Encoder:
    """Encodes columns of text with the library, or with the kernel where the tokenizer is one that it knows."""

    def __init__(self, tokenizer: Tokenizer, choice: Literal["kernel", "library"]) -> None:
        self._tokenizer = tokenizer
        self._kernel: FastEncoder | None = None
        if choice == "kernel":
            from data.encode_kernels import fast_encoder

            self._kernel = fast_encoder(tokenizer)

    def encode(self, texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        """Ids (t,) int32 of all texts end to end, each closed by `<|endoftext|>`, and their lengths (n,) in tokens."""
        if self._kernel is None:
            return encode_closed(texts.to_list(), self._tokenizer)
        return self._encode_with_kernel(self._kernel, texts)

    def _encode_with_kernel(self, kernel: FastEncoder, texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        from data.text_kernels import text_buffers

        ids, lengths = kernel.encode(*text_buffers(texts))
        left = np.flatnonzero(lengths < 0)
        if left.size == 0:
            return ids, lengths
        documents = np.split(ids, np.cumsum(np.maximum(lengths, 0))[:-1])
        for place in left.tolist():
            documents[place], lengths[place : place + 1] = encode_closed([texts[place]], self._tokenizer)
        return np.concatenate(documents), lengths


_encoders: dict[tuple[str, str], Encoder] = {}


def _encoder(tokenizer: Tokenizer, choice: str, expected_bytes: int) -> Encoder:
    """This process's encoder of a tokenizer: its tables are made once and serve every shard."""
    chosen: Literal["kernel", "library"] = "library"
    if choice == "kernel" or (choice == "auto" and expected_bytes >= KERNEL_PAYS_FROM):
        chosen = "kernel"
    key = tokenizer.digest, chosen
    if key not in _encoders:
        for other in [other for other in _encoders if other[0] != tokenizer.digest]:
            del _encoders[other]
        _encoders[key] = Encoder(tokenizer, chosen)
    return _encoders[key]


def encode_closed(texts: list[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Ids (t,) int32 of all texts end to end, each closed by `<|endoftext|>`, and their lengths (n,) in tokens."""
    encoded = tokenizer.encode_batch(texts)
    for ids in encoded:
        ids.append(tokenizer.special.endoftext)
    lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
    return np.fromiter(chain.from_iterable(encoded), dtype=np.int32, count=int(lengths.sum())), lengths


def cached_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a folder, read once a process for all its shards, and again if its files change."""
    return _read_tokenizer(folder, tuple(path.stat().st_mtime_ns for path in sorted(folder.glob("*.json"))))


@lru_cache(maxsize=1)
def _read_tokenizer(folder: Path, changed: tuple[int, ...]) -> Tokenizer:  # noqa: ARG001, a key of the cache
    return load_tokenizer(folder)


def _batches(
    file: pyarrow.parquet.ParquetFile, documents: int, limit: int | None, result: EncodedShard
) -> Iterator[tuple[str, pl.Series]]:
    """(`<language>-<kind>`, texts) in the order of the documents within each folder."""
    folder = pl.col("language").fill_null("other") + "-" + pl.col("kind").fill_null("prose")
    for table in _tables(file, documents, limit):
        whole = table.filter(pl.col("text").str.len_bytes() > 0)
        result.empty_documents += table.height - whole.height
        grouped = whole.select("text", folder=folder).group_by("folder", maintain_order=True)
        for (name,), part in grouped:
            yield str(name), part["text"]


def _open(shard: Path) -> pyarrow.parquet.ParquetFile:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(shard)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{shard}: not a Parquet shard ({error})") from error
    missing = set(_COLUMNS) - set(file.schema_arrow.names)
    if missing:
        raise ValueError(f"{shard}: lacks the columns {', '.join(sorted(missing))}; run the stages up to mix")
    return file


def _text_bytes(file: pyarrow.parquet.ParquetFile) -> int:
    """About how many bytes of text a shard holds, by its footer."""
    column = file.schema.names.index("text")
    groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
    return sum(group.column(column).total_uncompressed_size for group in groups)


def _tables(file: pyarrow.parquet.ParquetFile, documents: int, limit: int | None) -> Iterator[pl.DataFrame]:
    left = limit if limit is not None else file.metadata.num_rows
    for batch in file.iter_batches(batch_size=documents, columns=_COLUMNS):
        if left <= 0:
            return
        table = pl.DataFrame(batch.slice(0, left))
        left -= table.height
        yield table
