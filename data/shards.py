"""Shards and small records on disk: written whole or not at all, and the same bytes for the same rows.

A file is written under a temporary name in its own folder, flushed to the disk, and renamed. A reader therefore sees
the old file, the new one, or none. Parquet is written with a fixed row-group size and compression and holds no time or
host, so that two runs over the same rows give the same bytes and `digest` can tell.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl
import xxhash

ROW_GROUP = 8192
"""Rows of a Parquet row group: fixed, because the bytes of a file depend on it."""
TEMPORARY = ".tmp"


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """What is on disk under one name: rows, bytes of text in UTF-8, bytes of the file, digest of the file."""

    documents: int
    text_bytes: int
    file_bytes: int
    digest: str

    def to_dict(self) -> dict[str, int | str]:
        return asdict(self)


def temporary_name(path: Path) -> Path:
    """The name beside `path` that this process writes it under; `remove_temporaries` knows it."""
    return path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what the caller wrote there becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write `value` as readable JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, object]:
    """The JSON object in `path`. ValueError with its name if it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); remove it and run the stage again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object; remove it and run the stage again")
    return value


def write_shard(path: Path, table: pl.DataFrame) -> ShardFile:
    """Write one shard atomically and say what is now on disk."""
    with atomic(path) as temporary:
        table.write_parquet(
            temporary, compression="zstd", compression_level=3, row_group_size=ROW_GROUP, statistics=True
        )
        return ShardFile(
            documents=table.height,
            text_bytes=text_bytes(table),
            file_bytes=temporary.stat().st_size,
            digest=file_digest(temporary),
        )


def read_shard(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read one shard. ValueError with its name if it is not Parquet."""
    try:
        return pl.read_parquet(path, columns=list(columns) if columns is not None else None, glob=False)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None


def text_bytes(table: pl.DataFrame) -> int:
    """Bytes of the column `text` in UTF-8, over all rows."""
    if "text" not in table.columns:
        return 0
    return int(table["text"].str.len_bytes().sum())


def file_digest(path: Path) -> str:
    """xxh3-128 of a file's bytes, as 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def value_digest(value: object) -> str:
    """xxh3-128 of a JSON value, its keys in order, as 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8"))


def remove_temporaries(folder: Path) -> None:
    """Remove what killed processes left half-written under `folder`."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)
