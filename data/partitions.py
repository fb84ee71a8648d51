"""Grouping more rows than memory holds: sorted Parquet parts on disk, read back one range of keys at a time.

A map step writes one part a shard, sorted by a uint64 key in small row groups. To bring all rows of a key together,
ranges of the key space are read in turn, each small enough for the memory allowed; Parquet's row-group statistics
skip what lies outside. Keys that are hashes spread evenly, so that equal ranges are equal shares; keys that are
document numbers are dense, so that their greatest is the end of the space.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow.parquet

from data.shards import temporary_name

ROW_GROUP = 1 << 16
KEY_SPACE = 1 << 64


def write_part(table: pl.DataFrame, path: Path, key: str) -> None:
    """Write `table` sorted by `key`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    table.sort(key, maintain_order=True).write_parquet(
        temporary, compression="zstd", compression_level=1, row_group_size=ROW_GROUP, statistics=True
    )
    os.replace(temporary, path)


def parts(folder: Path) -> list[Path]:
    """The parts of a folder in a fixed order."""
    return sorted(p for p in folder.glob("*.parquet") if not p.name.startswith("."))


def count_rows(paths: list[Path]) -> int:
    """Rows in all parts, from their footers alone."""
    return sum(pyarrow.parquet.read_metadata(path).num_rows for path in paths)


def read_range(paths: list[Path], key: str, low: int, high: int) -> pl.DataFrame:
    """The rows whose key is in [low, high), sorted by key; equal keys stay in the order of the parts."""
    if not paths:
        raise ValueError("no parts to read")
    column = pl.col(key)
    chosen = column >= pl.lit(low, pl.UInt64)
    if high < KEY_SPACE:
        chosen = chosen & (column < pl.lit(high, pl.UInt64))
    return pl.scan_parquet(paths, glob=False).filter(chosen).collect().sort(key, maintain_order=True)


def read_ranges(
    paths: list[Path], key: str, *, memory_mb: int, bytes_per_row: int, end: int = KEY_SPACE
) -> Iterator[pl.DataFrame]:
    """All rows in ranges of the key, none of which takes more than about `memory_mb`.

    `bytes_per_row` is what a row takes at the peak of the work done on it; `end` is one more than the greatest key.
    """
    if not paths:
        return
    passes = max(1, -(-count_rows(paths) * bytes_per_row // (memory_mb << 20)))
    for number in range(passes):
        table = read_range(paths, key, end * number // passes, end * (number + 1) // passes)
        if table.height:
            yield table
