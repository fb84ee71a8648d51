"""Lines and paragraphs repeated over many documents of a host: navigation, cookie notices, footers.

A line is known by its folded units, so that case, width, punctuation and Traditional forms do not hide a repetition.
Lines are counted once a document, over the documents that survived deduplication. A line in enough documents of its
host is repeated. A long one is taken out wherever it stands. A short one may be a heading ("Examples", 参见) and stays,
unless it stands at the beginning or the end of the document or in a run of repeated lines, where navigation stands:
that is how repeated paragraphs, which are runs of repeated lines, leave whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from xxhash import xxh3_64_intdigest

from data.compiled import compiled
from data.deduplicate import RepeatedLinesConfig
from data.partitions import parts, read_ranges, write_part
from data.shingles import placed_units
from data.text_kernels import mix, text_buffers

Array = np.ndarray
NEWLINE = np.uint8(0x0A)


@dataclass(frozen=True, kw_only=True)
class Lines:
    """The lines of a column of texts, end to end."""

    keys: Array
    """uint64: hash of the line's folded units; 0 for a line without units."""
    units: Array
    """int32: units in the line."""
    starts: Array
    """int64: first byte of the line in the column's text buffer."""
    stops: Array
    """int64: one past the line's last byte, its line feed left out."""
    offsets: Array
    """int64 (documents + 1): where each document's lines begin."""


@compiled
def _split(
    buffer: Array, offsets: Array, units: Array, unit_offsets: Array, places: Array
) -> tuple[Array, Array, Array, Array, Array]:
    documents = offsets.shape[0] - 1
    capacity = documents
    for byte in buffer:
        capacity += byte == NEWLINE
    keys = np.empty(capacity, np.uint64)
    counts = np.empty(capacity, np.int32)
    starts = np.empty(capacity, np.int64)
    stops = np.empty(capacity, np.int64)
    line_offsets = np.zeros(documents + 1, np.int64)
    line = 0
    for document in range(documents):
        unit, last_unit = unit_offsets[document], unit_offsets[document + 1]
        start, end = offsets[document], offsets[document + 1]
        while True:
            stop = start
            while stop < end and buffer[stop] != NEWLINE:
                stop += 1
            key = np.uint64(0)
            count = 0
            while unit < last_unit and places[unit] < stop:
                key = mix(key ^ np.uint64(units[unit])) + np.uint64(1)
                count += 1
                unit += 1
            keys[line], counts[line], starts[line], stops[line] = key, count, start, stop
            line += 1
            if stop >= end:
                break
            start = stop + 1
        line_offsets[document + 1] = line
    return keys[:line], counts[:line], starts[:line], stops[:line], line_offsets


def split_lines(texts: pl.Series) -> Lines:
    """The lines of each text."""
    units, unit_offsets, places, _ = placed_units(texts)
    keys, counts, starts, stops, offsets = _split(*text_buffers(texts), units, unit_offsets, places)
    return Lines(keys=keys, units=counts, starts=starts, stops=stops, offsets=offsets)


def _host_keys(hosts: pl.Series) -> Array:
    """A number for each host (uint64); 0 for a document without one, whose lines are left alone."""
    # Polars' own hash is not the same from one version to the next
    distinct = {host: xxh3_64_intdigest(host.encode()) if host else 0 for host in hosts.unique().to_list()}
    return np.array([distinct[host] for host in hosts.to_list()], np.uint64)


@compiled
def _join_keys(host_keys: Array, line_keys: Array, offsets: Array) -> Array:
    joined = np.zeros(line_keys.shape[0], np.uint64)
    for document in range(offsets.shape[0] - 1):
        if host_keys[document] == 0:
            continue
        for line in range(offsets[document], offsets[document + 1]):
            if line_keys[line] != 0:
                joined[line] = mix(host_keys[document] ^ mix(line_keys[line]))
    return joined


def count_lines(table: pl.DataFrame, work: Path, shard: int) -> None:
    """Write how many documents of a shard each (host, line) stands in, and how many documents each host has.

    `table` holds the documents that survived, with `text` and `host`.
    """
    hosts = _host_keys(table["host"])
    lines = split_lines(table["text"])
    document = np.repeat(np.arange(table.height, dtype=np.uint32), np.diff(lines.offsets))
    keys = _join_keys(hosts, lines.keys, lines.offsets)
    counted = (
        pl.DataFrame({"key": keys, "host": hosts[document], "document": document})
        .filter(pl.col("key") != 0)
        .unique()
        .group_by("key", "host")
        .agg(pl.len().cast(pl.UInt32).alias("documents"))
    )
    write_part(counted, work / "lines" / f"{shard:05d}.parquet", "key")
    per_host = pl.DataFrame({"host": hosts}).group_by("host").agg(pl.len().cast(pl.UInt32).alias("host_documents"))
    write_part(per_host, work / "hosts" / f"{shard:05d}.parquet", "host")


def join_lines(work: Path, config: RepeatedLinesConfig, memory_mb: int) -> int:
    """Write the keys of the lines that are repeated; returns how many."""
    host_parts = parts(work / "hosts")
    if not host_parts:
        return 0
    hosts = pl.scan_parquet(host_parts, glob=False).group_by("host").agg(pl.col("host_documents").sum()).collect()
    total = 0
    for number, table in enumerate(read_ranges(parts(work / "lines"), "key", memory_mb=memory_mb, bytes_per_row=96)):
        repeated = (
            table.group_by("key", "host")
            .agg(pl.col("documents").sum())
            .filter(pl.col("documents") >= config.documents)
            .join(hosts, on="host", how="left")
            .filter(pl.col("documents") >= config.share * pl.col("host_documents"))
            .select("key", "documents")
        )
        write_part(repeated, work / "repeated" / f"{number:05d}.parquet", "key")
        total += repeated.height
    return total


def shard_repeated(work: Path, shard: int) -> Array:
    """The keys among a shard's lines that are repeated, sorted (uint64)."""
    repeated = parts(work / "repeated")
    if not repeated:
        return np.zeros(0, np.uint64)
    own = pl.scan_parquet(work / "lines" / f"{shard:05d}.parquet", glob=False).select("key")
    keys = pl.scan_parquet(repeated, glob=False).select("key").join(own, on="key", how="semi").collect()
    return np.sort(keys["key"].to_numpy())


@compiled
def _choose(repeated: Array, blank: Array, units: Array, offsets: Array, least_units: int, least_run: int) -> Array:
    """Which lines go: long repeated ones, and short ones at an end of the document or in a run."""
    gone = np.zeros(repeated.shape[0], np.bool_)
    for document in range(offsets.shape[0] - 1):
        first, last = offsets[document], offsets[document + 1]
        head = first
        while head < last and (repeated[head] or blank[head]):
            head += 1
        tail = last
        while tail > head and (repeated[tail - 1] or blank[tail - 1]):
            tail -= 1
        for line in range(first, last):
            if repeated[line]:
                gone[line] = line < head or line >= tail or units[line] >= least_units
        start, run = head, 0
        for line in range(head, tail + 1):
            if line < tail and (repeated[line] or blank[line]):
                run += repeated[line]
                continue
            if run >= least_run:
                for inside in range(start, line):
                    gone[inside] = gone[inside] or repeated[inside]
            start, run = line + 1, 0
    return gone


def remove_lines(table: pl.DataFrame, repeated: Array, config: RepeatedLinesConfig) -> pl.DataFrame:
    """`table` with repeated lines taken out of `text`, and their number in `lines_removed`."""
    removed = np.zeros(table.height, np.int32)
    texts = table["text"]
    if len(repeated) and table.height:
        lines = split_lines(texts)
        keys = _join_keys(_host_keys(table["host"]), lines.keys, lines.offsets)
        places = np.minimum(np.searchsorted(repeated, keys), len(repeated) - 1)
        known = (repeated[places] == keys) & (keys != 0)
        gone = _choose(known, lines.units == 0, lines.units, lines.offsets, config.units, config.run)
        removed = np.add.reduceat(np.append(gone, False).astype(np.int32), lines.offsets[:-1]).astype(np.int32)
        changed = np.flatnonzero(removed)
        buffer, _ = text_buffers(texts)
        rewritten = texts.to_list()
        for document in changed.tolist():
            span = range(lines.offsets[document], lines.offsets[document + 1])
            rewritten[document] = _rebuild(buffer, lines, gone, span)
        texts = pl.Series("text", rewritten, dtype=pl.String)
    return table.with_columns(texts.alias("text"), pl.Series("lines_removed", removed, dtype=pl.Int32))


def _rebuild(buffer: Array, lines: Lines, gone: Array, span: range) -> str:
    """The text without the lines that go; where lines went, at most one empty line stays between what is left."""
    left: list[str] = []
    after_gap = True
    for line in span:
        if gone[line]:
            after_gap = True
            continue
        text = buffer[lines.starts[line] : lines.stops[line]].tobytes().decode()
        if after_gap and not text.strip() and (not left or not left[-1].strip()):
            continue
        after_gap = False
        left.append(text)
    return "\n".join(left).strip("\n")
