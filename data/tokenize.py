"""The stage tokenize: shards of text become token shards, one folder a language and kind.

A Parquet shard NNNNN of the mix gives at most one token shard in each folder, `<language>-<kind>/NNNNN.{bin,idx}`, with
the documents in their order. What a file holds depends on its input shard and the tokenizer alone, not on how many
processes there are, so a run that was killed goes on with the shards that are missing and ends with the same bytes.

Text is encoded with special tokens as plain characters; every document is closed by `<|endoftext|>`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from data.token_shards import TokenShard, TokenShardWriter
from tokenizer.load import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from data.encode_kernels import FastEncoder

KERNEL_PAYS_AFTER = 3_000_000
"""Bytes of text that a process gives the library before the kernel takes over: what the library encodes in the second
that the kernel's tables and compiled code take to load (four seconds more where they were never compiled)."""

MARKERS = ".done"
"""Folder beside the token shards: one JSON file an input shard that is done, with what it gave."""


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig:
    """How the stage tokenize reads and encodes; nothing here changes the ids."""

    batch_documents: int = 512
    """Documents that a process encodes at a time."""
    encoder: Literal["auto", "kernel", "library"] = "auto"
    """What encodes: the compiled kernel of `data/encode_kernels.py`, the tokenizers library, or the library until a
    process has had so much text that the kernel's start (seconds) pays. The ids are the same."""

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
    shard: Path, tokenizer: Tokenizer, output: Path, config: TokenizeConfig, limit: int | None = None
) -> EncodedShard:
    """Encode one Parquet shard (columns `text`, `language`, `kind`) into token shards below `output`.

    `limit` takes the first documents alone. Raises ValueError naming the shard where it has no such columns.
    """
    result = EncodedShard()
    writers: dict[str, TokenShardWriter] = {}
    encoder = _encoder(tokenizer, config.encoder)
    with ExitStack() as stack:
        for folder, texts in _batches(shard, config.batch_documents, limit, result):
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
    """Encodes columns of text with the kernel or the library, whichever is due (`TokenizeConfig.encoder`)."""

    def __init__(self, tokenizer: Tokenizer, choice: str) -> None:
        self._tokenizer = tokenizer
        self._bytes_before_kernel = {"auto": KERNEL_PAYS_AFTER, "kernel": 0, "library": None}[choice]
        self._kernel: FastEncoder | None = None

    def encode(self, texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        """Ids (t,) int32 of all texts end to end, each closed by `<|endoftext|>`, and their lengths (n,) in tokens."""
        if self._kernel is None and self._bytes_before_kernel is not None:
            self._bytes_before_kernel -= int(texts.str.len_bytes().sum())
            if self._bytes_before_kernel < 0:
                from data.encode_kernels import fast_encoder

                self._kernel = fast_encoder(self._tokenizer)
                self._bytes_before_kernel = None
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


def _encoder(tokenizer: Tokenizer, choice: str) -> Encoder:
    """This process's encoder of a tokenizer: its tables are made once and serve every shard."""
    key = tokenizer.digest, choice
    if key not in _encoders:
        for other in [other for other in _encoders if other[0] != tokenizer.digest]:
            del _encoders[other]
        _encoders[key] = Encoder(tokenizer, choice)
    return _encoders[key]


def encode_closed(texts: list[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Ids (t,) int32 of all texts end to end, each closed by `<|endoftext|>`, and their lengths (n,) in tokens."""
    encoded = tokenizer.encode_batch(texts)
    for ids in encoded:
        ids.append(tokenizer.special.endoftext)
    lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
    return np.fromiter(chain.from_iterable(encoded), dtype=np.int32, count=int(lengths.sum())), lengths


def encode_documents(
    shards: Sequence[Path],
    tokenizer_folder: Path,
    output: Path,
    config: TokenizeConfig,
    *,
    workers: int = 1,
    limit: int | None = None,
    on_shard: Callable[[Path, EncodedShard], None] | None = None,
) -> dict[str, TokenCounts]:
    """Encode Parquet shards with `workers` processes into `output`; returns the counts of each `<language>-<kind>`.

    A shard whose marker agrees with its content and the tokenizer is not encoded again. `limit` is the number of
    documents from each shard. Raises ValueError where `output` holds shards of another tokenizer, or two shards
    share a name.
    """
    if len({shard.stem for shard in shards}) != len(shards):
        raise ValueError(f"{output}: two input shards share a file name; token shards are named after them")
    tokenizer = load_tokenizer(tokenizer_folder)
    _require_same_tokenizer(output, tokenizer)
    totals: dict[str, TokenCounts] = {}
    tasks = [(shard, Path(tokenizer_folder), output, config, limit) for shard in shards]
    for shard, result in zip(shards, _run(tasks, workers), strict=True):
        if on_shard is not None:
            on_shard(shard, result)
        for folder, counts in result.by_folder().items():
            totals.setdefault(folder, TokenCounts()).add(counts)
    return totals


_Task = tuple[Path, Path, Path, TokenizeConfig, "int | None"]


def _run(tasks: list[_Task], workers: int) -> Iterator[EncodedShard]:
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from map(_encode_or_recall, tasks)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    # Not fork: the tokenizers library has threads of its own, which a forked child would wait for in vain.
    with ProcessPoolExecutor(workers, get_context("spawn"), _limit_threads, (threads,)) as pool:
        yield from pool.map(_encode_or_recall, tasks)


def _limit_threads(threads: int) -> None:
    os.environ["RAYON_NUM_THREADS"] = str(threads)


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def _encode_or_recall(task: _Task) -> EncodedShard:
    """Encode a shard, or say what it gave if its marker shows that it is done."""
    shard, tokenizer_folder, output, config, limit = task
    tokenizer = _tokenizer(tokenizer_folder)
    marker = output / MARKERS / f"{shard.stem}.json"
    content = hashlib.blake2b(shard.read_bytes(), digest_size=16).hexdigest()
    identity = {"tokenizer": tokenizer.digest, "content": content, "limit": limit}
    if marker.is_file():
        record = json.loads(marker.read_text(encoding="utf-8"))
        files = {prefix: TokenCounts(**counts) for prefix, counts in record["files"].items()}
        if record["identity"] == identity and all(_is_whole(output / prefix, files[prefix]) for prefix in files):
            return EncodedShard(files=files, empty_documents=record["empty_documents"])
    result = encode_shard(shard, tokenizer, output, config, limit)
    marker.parent.mkdir(parents=True, exist_ok=True)
    partial = marker.with_suffix(".partial")
    partial.write_text(json.dumps({"identity": identity, **asdict(result)}, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, marker)
    return result


def _is_whole(prefix: Path, counts: TokenCounts) -> bool:
    try:
        shard = TokenShard(prefix)
    except (OSError, ValueError):
        return False
    return len(shard) == counts.documents and shard.tokens.size == counts.tokens


def _require_same_tokenizer(output: Path, tokenizer: Tokenizer) -> None:
    for marker in sorted((output / MARKERS).glob("*.json")):
        digest = json.loads(marker.read_text(encoding="utf-8"))["identity"]["tokenizer"]
        if digest != tokenizer.digest:
            raise ValueError(
                f"{output}: holds token shards of another tokenizer (digest {digest[:8]}, this one is "
                f"{tokenizer.digest[:8]}); give that tokenizer, or delete the folder"
            )


def _batches(shard: Path, documents: int, limit: int | None, result: EncodedShard) -> Iterator[tuple[str, pl.Series]]:
    """(`<language>-<kind>`, texts) in the order of the documents within each folder."""
    folder = pl.col("language").fill_null("other") + "-" + pl.col("kind").fill_null("prose")
    for table in _tables(shard, documents, limit):
        whole = table.filter(pl.col("text").str.len_bytes() > 0)
        result.empty_documents += table.height - whole.height
        grouped = whole.select("text", folder=folder).group_by("folder", maintain_order=True)
        for (name,), part in grouped:
            yield str(name), part["text"]


def _tables(shard: Path, documents: int, limit: int | None) -> Iterator[pl.DataFrame]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(shard)
        missing = {"text", "language", "kind"} - set(file.schema_arrow.names)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{shard}: not a Parquet shard ({error})") from error
    if missing:
        raise ValueError(f"{shard}: lacks the columns {', '.join(sorted(missing))}; run the stages up to mix")
    left = limit if limit is not None else file.metadata.num_rows
    for batch in file.iter_batches(batch_size=documents, columns=["text", "language", "kind"]):
        if left <= 0:
            return
        table = pl.DataFrame(batch.slice(0, left))
        left -= table.height
        yield table
