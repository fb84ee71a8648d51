"""Copies over a whole collection: from shards to a decision for each document, through files on disk.

The steps, each a function over one shard or over all of what the step before wrote:

    digest_shard   a row a document: digest of the folded text, and what the survivor is chosen by
    join_exact     documents with one digest -> every one but the best follows it
    sign_shard     units and bands of the documents that follow nobody
    join_bands     documents that share a band -> candidate pairs, each once
    verify_part    candidate pairs judged on their whole texts
    join_pairs     verified pairs -> clusters -> the survivor of each
    decisions      what to do with each document of a shard

A document's number is its place in the whole collection: that of its shard's first document and its row. Memory is
bounded by `memory_mb` (`partitions.py`), except for union-find: 40 bytes for each document in a verified pair.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from data.clusters import connected
from data.compiled import compiled
from data.deduplicate import DeduplicateConfig
from data.exact import folded_digests
from data.minhash import band_keys, signatures
from data.partitions import parts, read_range, read_ranges, write_part
from data.shards import temporary_name
from data.shingles import titled_units
from data.verify import CLAUSES, SCORES, Side, compare

Array = np.ndarray

QUALITY_COLUMN = "quality_score"
"""Column that `prefer: quality` reads; null where no quality model was given."""
DENSE_BAND = 24
"""Documents in a band that are all compared with one another; in larger ones each is with the neighbours below."""
NEIGHBOURS = 6
PAIRS_PER_PART = 1 << 18
UNIT_FILES = ("units", "offsets", "titles")
"""What is kept of each shard's texts, as `shingles.titled_units` gives it."""

MEMBER_SCHEMA = {
    "document": pl.UInt64,
    "survivor": pl.UInt64,
    "cluster": pl.String,
    "cluster_size": pl.Int32,
    "rule": pl.String,
    "value": pl.String,
}


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Where the steps keep their files, and how the documents of the shards are numbered."""

    work: Path
    firsts: tuple[int, ...]
    """The number of each shard's first document, and one past the last document at the end."""
    config: DeduplicateConfig
    indexed_shards: int = 0
    """Shards at the end that come from the index of a finished corpus (`copies_index.py`)."""

    @property
    def new_shards(self) -> int:
        return len(self.firsts) - 1 - self.indexed_shards

    @property
    def new_documents(self) -> int:
        """One past the number of the last document that is judged."""
        return self.firsts[self.new_shards]

    @property
    def documents(self) -> int:
        return self.firsts[-1]

    def numbers(self, shard: int, rows: int) -> pl.Series:
        """The numbers of a shard's documents."""
        return pl.Series("document", np.arange(self.firsts[shard], self.firsts[shard] + rows, dtype=np.uint64))

    def shard_of(self, documents: Array) -> Array:
        """The shard that each document number belongs to."""
        return np.searchsorted(np.array(self.firsts[:-1], np.uint64), documents, side="right") - 1

    def part(self, step: str, number: int) -> Path:
        return self.work / step / f"{number:05d}.parquet"


def number_documents(counts: list[int]) -> tuple[int, ...]:
    """`Collection.firsts` from the number of documents in each shard."""
    return (0, *np.cumsum(np.array(counts, np.int64)).tolist())


def digest_shard(collection: Collection, shard: int, table: pl.DataFrame) -> None:
    """Write the digest of each document of a shard and the columns that survivors are chosen by."""
    digests = folded_digests(table["text"])
    quality = pl.col(QUALITY_COLUMN) if QUALITY_COLUMN in table.columns else pl.lit(None)
    rows = table.select(
        collection.numbers(shard, table.height),
        pl.Series("digest_high", digests[:, 0]),
        pl.Series("digest_low", digests[:, 1]),
        "id",
        quality.cast(pl.Float64).alias("quality"),
        pl.col("text").str.len_chars().cast(pl.Int64).alias("length"),
        (pl.col("date") if "date" in table.columns else pl.lit(None)).cast(pl.String).alias("date"),
    )
    write_part(rows, collection.part("digests", shard), "digest_high")
    write_part(rows.drop("digest_high", "digest_low"), collection.part("documents", shard), "document")


def best_first(collection: Collection, table: pl.DataFrame, *groups: str) -> pl.DataFrame:
    """`table` sorted by `groups` and, in each, from the document that survives to the worst.

    What is indexed survives; else the best: high quality, great length, early date, small id; null is worst.
    """
    descending = {"quality": True, "length": True, "date": False, "id": False}
    order = list(collection.config.prefer) + [name for name in ("id",) if name not in collection.config.prefer]
    down = [False] * len(groups) + [False, *(descending[name] for name in order)]
    table = table.with_columns((pl.col("document") < collection.new_documents).alias("new"))
    return table.sort([*groups, "new", *order], descending=down, nulls_last=True)


def join_exact(collection: Collection) -> int:
    """Write who follows whom for documents of equal digest; returns how many follow."""
    followers = 0
    if not collection.config.exact:
        return 0
    paths = parts(collection.work / "digests")
    memory = collection.config.memory_mb
    for number, table in enumerate(read_ranges(paths, "digest_high", memory_mb=memory, bytes_per_row=240)):
        shared = table.filter(pl.col("digest_high").is_duplicated())
        # the best leads: were it another, an index would hold its survivor without units and band keys
        leader = pl.col("document").first().over("digest_high", "digest_low").alias("leader")
        follow = (
            best_first(collection, shared, "digest_high", "digest_low")
            .with_columns(leader)
            .filter(pl.col("document") != pl.col("leader"))
            .select("document", "leader")
        )
        write_part(follow, collection.part("followers", number), "document")
        followers += follow.height
    return followers


def shard_rows(collection: Collection, step: str, shard: int) -> pl.DataFrame | None:
    """The rows of a step's parts that are about the documents of one shard; None if the step wrote nothing."""
    paths = parts(collection.work / step)
    if not paths:
        return None
    return read_range(paths, "document", collection.firsts[shard], collection.firsts[shard + 1])


def sign_shard(collection: Collection, shard: int, table: pl.DataFrame) -> None:
    """Write the units and the band keys of the documents of a shard that follow nobody."""
    config = collection.config
    following = shard_rows(collection, "followers", shard)
    texts = table.select(collection.numbers(shard, table.height), "text")
    if following is not None:
        texts = texts.with_columns(
            pl.when(pl.col("document").is_in(following["document"].implode()))
            .then(None)
            .otherwise("text")
            .alias("text")
        )
    units, offsets, titles = titled_units(texts["text"])
    _save_units(collection, shard, units, offsets, titles)
    if not config.near:
        return
    shape = config.minhash
    signed, _ = signatures(
        units,
        offsets,
        han_shingle=shape.han_shingle,
        word_shingle=shape.word_shingle,
        number=shape.bands * shape.rows,
        seed=shape.seed,
    )
    filled = np.flatnonzero(np.diff(offsets) > 0)
    keys = band_keys(signed[filled], bands=shape.bands, rows=shape.rows)
    documents = np.repeat(texts["document"].to_numpy()[filled], shape.bands)
    write_part(pl.DataFrame({"key": keys.ravel(), "document": documents}), collection.part("bands", shard), "key")


def _save_units(collection: Collection, shard: int, *arrays: Array) -> None:
    folder = collection.work / "units"
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(UNIT_FILES, arrays, strict=True):
        path = folder / f"{shard:05d}.{name}.npy"
        temporary = temporary_name(path)
        with open(temporary, "wb") as file:
            np.save(file, array)
        os.replace(temporary, path)


def load_units(collection: Collection, shard: int) -> tuple[Array, Array, Array]:
    """The arrays `UNIT_FILES` of a shard's documents as memory maps."""
    paths = [collection.work / "units" / f"{shard:05d}.{name}.npy" for name in UNIT_FILES]
    # an empty file cannot be mapped; "c" gives the type that kernels are compiled for, and nothing is written
    units, offsets, titles = (np.load(path, mmap_mode="c" if path.stat().st_size > 128 else None) for path in paths)
    return units, offsets, titles


@compiled
def _pairs_of_runs(keys: Array, documents: Array, dense: int, neighbours: int) -> tuple[Array, Array]:
    """Pairs of documents with one key; rows are sorted by key and, within a key, by document."""
    rows = keys.shape[0]
    capacity = 0
    start = 0
    for i in range(1, rows + 1):
        if i == rows or keys[i] != keys[start]:
            n = i - start
            capacity += n * (n - 1) // 2 if n <= dense else n * (neighbours + 1)
            start = i
    left = np.empty(capacity, np.uint64)
    right = np.empty(capacity, np.uint64)
    count = 0
    start = 0
    for i in range(1, rows + 1):
        if i < rows and keys[i] == keys[start]:
            continue
        n = i - start
        for j in range(start + 1, i):
            lowest = start if n <= dense else max(start, j - neighbours)
            for k in range(lowest, j):
                left[count], right[count] = documents[k], documents[j]
                count += 1
            if lowest > start:
                left[count], right[count] = documents[start], documents[j]
                count += 1
        start = i
    return left[:count], right[:count]


def join_bands(collection: Collection) -> int:
    """Write the candidate pairs, each once, in parts of a bounded size; returns how many there are."""
    memory = collection.config.memory_mb
    for number, table in enumerate(
        read_ranges(parts(collection.work / "bands"), "key", memory_mb=memory, bytes_per_row=96)
    ):
        shared = table.filter(pl.col("key").is_duplicated()).sort("key", "document")
        left, right = _pairs_of_runs(shared["key"].to_numpy(), shared["document"].to_numpy(), DENSE_BAND, NEIGHBOURS)
        pairs = pl.DataFrame({"left": left, "right": right}).unique()
        write_part(pairs, collection.part("bands_shared", number), "left")
    total = 0
    count = 0
    for table in read_ranges(
        parts(collection.work / "bands_shared"), "left", memory_mb=memory, bytes_per_row=96, end=collection.documents
    ):
        pairs = table.filter(pl.col("left") < collection.new_documents).unique().sort("left", "right")
        for piece in pairs.iter_slices(PAIRS_PER_PART):
            write_part(piece, collection.part("candidates", count), "left")
            count += 1
        total += pairs.height
    return total


def judge(collection: Collection, pairs: pl.DataFrame) -> pl.DataFrame:
    """`pairs` (left, right: document numbers) with their scores and the clause that joins each; sorted by `left`."""
    config = collection.config
    pairs = pairs.sort("left", "right")
    left, right = (pairs[name].to_numpy() for name in ("left", "right"))
    shards = collection.shard_of(left), collection.shard_of(right)
    scores, clauses = np.empty((pairs.height, len(SCORES)), np.float32), np.empty(pairs.height, np.int8)
    order = np.lexsort((right, left, shards[1], shards[0]))
    changes = (np.diff(shards[0][order]) != 0) | (np.diff(shards[1][order]) != 0)
    # each shard is opened once, and a run of pairs costs little: of a thousand shards there are half a million pairs
    opened: dict[int, tuple[Array, Array, Array]] = {}
    for run in np.split(order, np.flatnonzero(changes) + 1) if pairs.height else []:
        sides = []
        for numbers, of in ((left, shards[0]), (right, shards[1])):
            shard = int(of[run[0]])
            if shard not in opened:
                opened[shard] = load_units(collection, shard)
            rows = numbers[run] - np.uint64(collection.firsts[shard])
            sides.append(Side(*opened[shard], rows.astype(np.int64)))
        scores[run], clauses[run] = compare(
            sides[0],
            sides[1],
            han_shingle=config.minhash.han_shingle,
            word_shingle=config.minhash.word_shingle,
            config=config.verify,
        )
    measured = [pl.Series(name, scores[:, column]).fill_nan(None) for column, name in enumerate(SCORES)]
    return pairs.select("left", "right", *measured, pl.Series("clause", clauses))


def verify_part(collection: Collection, number: int) -> dict[str, int]:
    """Judge one part of the candidates; returns how many pairs each clause joined or refused."""
    result = judge(collection, pl.read_parquet(collection.part("candidates", number), glob=False))
    write_part(result, collection.part("verified", number), "left")
    counts = np.bincount(result["clause"].to_numpy(), minlength=len(CLAUSES))
    return dict(zip(CLAUSES, counts.tolist(), strict=True))


def join_pairs(collection: Collection) -> None:
    """Write the members of each cluster with its survivor."""
    verified, followers = parts(collection.work / "verified"), parts(collection.work / "followers")
    joined = pl.DataFrame(schema={"left": pl.UInt64, "right": pl.UInt64, "jaccard": pl.Float32})
    if verified:
        judged = pl.scan_parquet(verified, glob=False)
        joined = judged.filter(pl.col("clause") > 0).select("left", "right", "jaccard").collect()
    following = pl.DataFrame(schema={"document": pl.UInt64, "leader": pl.UInt64})
    if followers:
        following = pl.read_parquet(followers, glob=False)
    done = []
    left = joined
    while True:
        members = clusters_of(collection, left, following)
        stays = near_survivor(collection, members, joined)
        done.append(members.filter(stays))
        apart = members.filter(~stays)
        if apart.is_empty():
            break
        # what is too far from its survivor, and whatever follows it, is joined among itself
        among = apart["document"].implode()
        left = left.filter(pl.col("left").is_in(among) & pl.col("right").is_in(among))
        following = following.filter(pl.col("document").is_in(among) & pl.col("leader").is_in(among))
    members = pl.concat(done).with_columns(pl.len().over("survivor").cast(pl.Int32).alias("cluster_size"))
    ends = [joined.select(pl.col(side).alias("document"), "jaccard") for side in ("left", "right")]
    closest = pl.concat(ends).group_by("document").agg(pl.col("jaccard").max().round(3).cast(pl.String).alias("value"))
    members = members.join(closest, on="document", how="left")
    exact = (pl.col("rule") == "exact") | pl.col("value").is_null()
    members = members.with_columns(pl.when(exact).then(pl.lit("1.0")).otherwise("value").alias("value"))
    write_part(members.select(*MEMBER_SCHEMA), collection.part("members", 0), "document")


def clusters_of(collection: Collection, joined: pl.DataFrame, following: pl.DataFrame) -> pl.DataFrame:
    """The members of the clusters that pairs and followers make: document, leader (own number if none), survivor."""
    documents, roots = connected(joined["left"].to_numpy(), joined["right"].to_numpy())
    near = pl.DataFrame({"document": documents, "root": roots}, schema={"document": pl.UInt64, "root": pl.UInt64})
    exact = following.join(near, left_on="leader", right_on="document", how="left").with_columns(
        pl.coalesce("root", "leader").alias("root")
    )
    leaders = exact.select(pl.col("leader").alias("document"), "root").unique().join(near, on="document", how="anti")
    alone = pl.concat([near, leaders]).with_columns(pl.col("document").alias("leader"))
    members = pl.concat([alone, exact.select("document", "root", "leader")])
    # one shard's descriptions at a time: only members' are held
    described = [
        pl.read_parquet(path, glob=False).join(members, on="document", how="inner")
        for path in parts(collection.work / "documents")
    ]
    table = best_first(collection, pl.concat(described), "root")
    return table.select(
        "document",
        "leader",
        pl.col("document").first().over("root").alias("survivor"),
        pl.col("id").first().over("root").alias("cluster"),
        pl.col("leader").first().over("root").alias("survivor_leader"),
    ).with_columns(
        # of one digest with the survivor
        pl.when(pl.col("leader") == pl.col("survivor_leader"))
        .then(pl.lit("exact"))
        .otherwise(pl.lit("near"))
        .alias("rule")
    )


def near_survivor(collection: Collection, members: pl.DataFrame, joined: pl.DataFrame) -> pl.Series:
    """Whether each member is near enough to its survivor to be dropped for it (or is the survivor)."""
    leaders = members.select("leader", "survivor_leader").unique().filter(pl.col("leader") != pl.col("survivor_leader"))
    pairs = leaders.select(
        pl.min_horizontal("leader", "survivor_leader").alias("left"),
        pl.max_horizontal("leader", "survivor_leader").alias("right"),
    ).unique()
    far = judge(collection, pairs.join(joined, on=["left", "right"], how="anti")).filter(
        pl.col("jaccard").fill_null(0.0) < collection.config.verify.survivor_jaccard
    )
    both = pl.concat(
        [far.select("left", "right"), far.select(pl.col("right").alias("left"), pl.col("left").alias("right"))]
    )
    marked = members.join(
        both.with_columns(pl.lit(True).alias("far")),
        left_on=["leader", "survivor_leader"],
        right_on=["left", "right"],
        how="left",
        maintain_order="left",
    )
    return marked["far"].is_null()


def decide(collection: Collection, shard: int, table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A shard's documents that stay and those that are copies of another, with their cluster."""
    members = shard_rows(collection, "members", shard)
    table = table.drop("cluster", "cluster_size", strict=False)
    numbered = table.with_columns(collection.numbers(shard, table.height))
    if members is None:
        members = pl.DataFrame(schema=MEMBER_SCHEMA)
    joined = numbered.join(members, on="document", how="left", maintain_order="left").with_columns(
        pl.coalesce("cluster", "id").alias("cluster"), pl.col("cluster_size").fill_null(1)
    )
    stays = pl.col("survivor").is_null() | (pl.col("survivor") == pl.col("document"))
    own = [*table.columns, "cluster", "cluster_size"]
    kept = joined.filter(stays).select(own)
    rejected = joined.filter(~stays).select(
        *own,
        pl.concat_str(pl.lit("deduplicate."), "rule").alias("rejected_by"),
        pl.col("value").alias("rejected_value"),
    )
    return kept, rejected
