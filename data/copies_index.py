"""A finished corpus's signatures as an index: the next corpus is compared with it, and only new documents are judged.

An index is a folder with the digests, band keys and units of the documents that survived, and `index.json`, which says
by what settings they were made. It is read as further shards behind the new ones: its documents can be the survivor of
a cluster and are never dropped themselves.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from data.copies import UNIT_FILES
from data.partitions import write_part
from data.shards import file_digest, read_json, temporary_name, write_json

if TYPE_CHECKING:
    from data.copies import Collection
    from data.deduplicate import DeduplicateConfig

INDEX = "index.json"
FORMAT = 2
"""Raised when what the files hold changes: units and band keys of two formats cannot be compared."""
STEPS = ("digests", "documents", "bands")


def read_index(folder: Path, config: DeduplicateConfig) -> list[int]:
    """The number of documents in each shard of an index.

    FileNotFoundError if there is no index in `folder`, ValueError if it was made by other settings.
    """
    path = folder / INDEX
    if not path.exists():
        raise FileNotFoundError(f"deduplicate.index: {folder} holds no {INDEX}; it is made with deduplicate.keep_index")
    described = read_json(path)
    if described.get("format") != FORMAT:
        raise ValueError(f"deduplicate.index: {folder} was written by an earlier version; run its corpus again")
    if described["minhash"] != asdict(config.minhash):
        raise ValueError(
            f"deduplicate.index: {folder} was made with minhash {described['minhash']}, this corpus has "
            f"{asdict(config.minhash)}; signatures of different settings cannot be compared"
        )
    shards = described["shards"]
    assert isinstance(shards, list)
    return [int(count) for count in shards]


def index_digest(folder: Path) -> str:
    """Digest of an index: that of its description, which holds the digests of its files."""
    if not (folder / INDEX).exists():
        raise FileNotFoundError(f"deduplicate.index: {folder} holds no {INDEX}; it is made with deduplicate.keep_index")
    return file_digest(folder / INDEX)


def take_index(collection: Collection) -> None:
    """Bring the indexes of the configuration into the collection's work folder, numbered behind the new documents."""
    shard = collection.new_shards
    for name in collection.config.index:
        folder = Path(name)
        first = 0
        for number, count in enumerate(read_index(folder, collection.config)):
            moved = pl.col("document") + pl.lit(collection.firsts[shard] - first, pl.UInt64)
            for step in STEPS:
                path = folder / step / f"{number:05d}.parquet"
                if path.exists():
                    table = pl.read_parquet(path, glob=False).with_columns(moved)
                    write_part(table, collection.part(step, shard), table.columns[0])
            units = collection.work / "units"
            units.mkdir(parents=True, exist_ok=True)
            for kind in UNIT_FILES:
                _copy(folder / "units" / f"{number:05d}.{kind}.npy", units / f"{shard:05d}.{kind}.npy")
            first += count
            shard += 1


def write_index_shard(collection: Collection, shard: int, survivors: pl.Series, folder: Path) -> list[Path]:
    """Write one shard of the index of `survivors` (ids); returns the files."""
    described = pl.read_parquet(collection.part("documents", shard), glob=False)
    kept = described.filter(pl.col("id").is_in(survivors.implode()))["document"].implode()
    written = []
    for step in STEPS:
        path = collection.part(step, shard)
        if path.exists():
            table = pl.read_parquet(path, glob=False).filter(pl.col("document").is_in(kept))
            written.append(folder / step / f"{shard:05d}.parquet")
            write_part(table, written[-1], table.columns[0])
    (folder / "units").mkdir(parents=True, exist_ok=True)
    for kind in UNIT_FILES:
        source = collection.work / "units" / f"{shard:05d}.{kind}.npy"
        written.append(folder / "units" / source.name)
        _copy(source, written[-1])
    return written


def _copy(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    temporary = temporary_name(target)
    shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def describe_index(collection: Collection, folder: Path) -> Path:
    """Write `index.json`, last of all; returns its path."""
    counts = np.diff(collection.firsts[: collection.new_shards + 1]).tolist()
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != INDEX)
    write_json(
        folder / INDEX,
        {
            "format": FORMAT,
            "minhash": asdict(collection.config.minhash),
            "shards": counts,
            "files": {str(path.relative_to(folder)): file_digest(path) for path in files},
        },
    )
    return folder / INDEX
