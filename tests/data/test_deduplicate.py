"""Deduplication over a collection: against brute force, and laws that hold for any collection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data.clusters import connected
from data.copies import (
    Collection,
    decide,
    digest_shard,
    join_bands,
    join_exact,
    join_pairs,
    number_documents,
    sign_shard,
    verify_part,
)
from data.copies_index import describe_index, read_index, take_index, write_index_shard
from data.deduplicate import DeduplicateConfig, MinHashConfig, VerifyConfig
from data.partitions import parts, read_ranges, write_part
from data.shingles import folded_units, shingles_into

HAN = [chr(c) for c in range(0x4E00, 0x4E00 + 900)]


def text_of(generator: np.random.Generator, length: int) -> str:
    return "".join(generator.choice(HAN, length))


def edited(generator: np.random.Generator, text: str, rate: float) -> str:
    characters = list(text)
    for place in np.flatnonzero(generator.random(len(characters)) < rate):
        characters[place] = str(generator.choice(HAN))
    return "".join(characters)


def collection_of_texts(texts: list[str], date: str | None = None) -> pl.DataFrame:
    ids = [f"{i:032x}" for i in range(len(texts))]
    columns = {"id": ids, "text": texts, "date": [date] * len(texts), "host": [None] * len(texts)}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def run(shards: list[pl.DataFrame], work: Path, config: DeduplicateConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    firsts = number_documents([shard.height for shard in shards])
    collection = Collection(work=work, firsts=firsts, config=config)
    for number, shard in enumerate(shards):
        digest_shard(collection, number, shard)
    join_exact(collection)
    for number, shard in enumerate(shards):
        sign_shard(collection, number, shard)
    join_bands(collection)
    for path in parts(work / "candidates"):
        verify_part(collection, int(path.stem))
    join_pairs(collection)
    done = [decide(collection, number, shard) for number, shard in enumerate(shards)]
    return pl.concat([kept for kept, _ in done]), pl.concat([rejected for _, rejected in done])


def near_collection(seed: int, originals: int = 60) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    texts = [text_of(generator, int(generator.integers(80, 400))) for _ in range(originals)]
    texts += [edited(generator, texts[i], 0.01 * (i % 12)) for i in range(originals)]
    texts += [texts[i] for i in range(0, originals, 3)]
    order = generator.permutation(len(texts))
    return collection_of_texts([texts[i] for i in order])


def true_pairs(table: pl.DataFrame, config: DeduplicateConfig, least: float) -> set[tuple[str, str]]:
    units, offsets = folded_units(table["text"])
    shape = config.minhash
    out = np.empty(len(units) + 1, np.uint32)
    sets = []
    for i in range(table.height):
        n = shingles_into(units, offsets[i], offsets[i + 1], shape.han_shingle, shape.word_shingle, out)
        sets.append(set(out[:n].tolist()))
    ids = table["id"].to_list()
    found = set()
    for i in range(len(sets)):
        for j in range(i):
            common = len(sets[i] & sets[j])
            if common and common / (len(sets[i]) + len(sets[j]) - common) >= least:
                found.add((ids[j], ids[i]))
    return found


def test_clusters_are_those_of_brute_force(tmp_path: Path) -> None:
    """All pairs at or above the threshold, found by comparing everything with everything, joined by reachability."""
    bare = VerifyConfig(jaccard=0.6, containment=1.0, edited_jaccard=1.0, swap=2.0, phrases=2.0)
    config = DeduplicateConfig(verify=bare)
    table = near_collection(seed=1)
    kept, rejected = run([table[:50], table[50:]], tmp_path, config)
    pairs = true_pairs(table, config, 0.6)
    cluster = {i: i for i in table["id"]}
    for _ in range(len(cluster)):
        changed = False
        for a, b in pairs:
            low = min(cluster[a], cluster[b])
            changed |= cluster[a] != low or cluster[b] != low
            cluster[a] = cluster[b] = low
        if not changed:
            break
    assert len(pairs) > 40
    assert kept.height == len(set(cluster.values()))
    ours = dict(pl.concat([kept, rejected.select(kept.columns)]).select("id", "cluster").rows())
    assert all(ours[a] == ours[first] for a, first in cluster.items())


@pytest.mark.parametrize("seed", [2, 3])
def test_every_document_is_kept_or_rejected_once(tmp_path: Path, seed: int) -> None:
    table = near_collection(seed)
    kept, rejected = run([table[:10], table[10:10], table[10:]], tmp_path, DeduplicateConfig())
    assert sorted([*kept["id"], *rejected["id"]]) == table["id"].to_list()
    # each cluster has one survivor, which names it, and its size is that of its members
    everyone = pl.concat([kept, rejected.select(kept.columns)])
    sizes = dict(everyone.group_by("cluster").len().rows())
    assert set(kept["cluster"]) == set(everyone["cluster"])
    assert (kept["cluster"] == kept["id"]).all()
    assert all(sizes[cluster] == size for cluster, size in everyone.select("cluster", "cluster_size").rows())
    assert set(rejected["rejected_by"]) == {"deduplicate.exact", "deduplicate.near"}


@pytest.mark.parametrize("seed", [4, 5])
def test_shards_and_memory_change_nothing(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One shard or many, one pass over the partitions or many: the same decisions."""
    table = near_collection(seed)
    whole = run([table], tmp_path / "one", DeduplicateConfig())
    config = DeduplicateConfig(memory_mb=64)
    monkeypatch.setattr("data.copies.read_ranges", _tight)
    cut = run([table[i : i + 23] for i in range(0, table.height, 23)], tmp_path / "many", config)
    for one, other in zip(whole, cut, strict=True):
        assert (
            one.sort("id")
            .drop("rejected_value", strict=False)
            .equals(other.sort("id").drop("rejected_value", strict=False))
        )


def _tight(paths, key, *, memory_mb, bytes_per_row, end=1 << 64):  # type: ignore[no-untyped-def]
    return read_ranges(paths, key, memory_mb=memory_mb, bytes_per_row=bytes_per_row * 1200, end=end)


def test_the_survivor_is_the_best_by_the_stated_order(tmp_path: Path) -> None:
    generator = np.random.default_rng(6)
    text = text_of(generator, 200)
    table = collection_of_texts([text, text + text_of(generator, 4), text, text_of(generator, 200)])
    table = table.with_columns(pl.Series("date", [None, "2024-01-01", "2020-01-01", None]))

    def survivor(prefer: tuple[str, ...], quality: list[float | None] | None = None) -> str:
        given = table if quality is None else table.with_columns(pl.Series("quality_score", quality, dtype=pl.Float32))
        kept, _ = run([given], tmp_path / "-".join(prefer) / str(quality), DeduplicateConfig(prefer=prefer))
        assert kept.height == 2
        return str(kept["id"].min())[-1]

    assert survivor(("quality", "length", "date", "id")) == "1"
    assert survivor(("quality", "length", "date", "id"), [0.1, None, 0.9, None]) == "2"
    assert survivor(("date", "id")) == "2"
    assert survivor(("id",)) == "0"


@pytest.mark.parametrize("prefer", [("id",), ("date", "id")])
def test_an_index_judges_only_what_is_new(tmp_path: Path, prefer: tuple[str, ...]) -> None:
    """New documents against the index of old ones: left is what all of them together would have left of the new."""
    table = near_collection(seed=8)
    # by `date` the last of a cluster's old documents is its best, and any of them is better than a new one
    dates = pl.Series("date", [f"{2000 - i if i < 70 else 2010 + i}-01-01" for i in range(table.height)])
    table = table.with_columns(dates)
    old, new = table[:70], table[70:]
    config = DeduplicateConfig(prefer=prefer)
    kept_old, _ = run([old[:30], old[30:]], tmp_path / "old", config)
    first = Collection(work=tmp_path / "old", firsts=number_documents([30, 40]), config=config)
    for number, shard in enumerate([old[:30], old[30:]]):
        write_index_shard(
            first, number, shard.filter(pl.col("id").is_in(kept_old["id"].implode()))["id"], tmp_path / "i"
        )
    describe_index(first, tmp_path / "i")
    config = DeduplicateConfig(prefer=prefer, index=(str(tmp_path / "i"),))
    indexed = read_index(tmp_path / "i", config)
    collection = Collection(
        work=tmp_path / "new",
        firsts=number_documents([new.height, *indexed]),
        config=config,
        indexed_shards=len(indexed),
    )
    digest_shard(collection, 0, new)
    take_index(collection)
    join_exact(collection)
    sign_shard(collection, 0, new)
    join_bands(collection)
    for path in parts(collection.work / "candidates"):
        verify_part(collection, int(path.stem))
    join_pairs(collection)
    kept, rejected = decide(collection, 0, new)
    together, _ = run([table], tmp_path / "both", DeduplicateConfig(prefer=prefer))
    assert kept["id"].to_list() == together.filter(pl.col("id").is_in(new["id"].implode()))["id"].to_list()
    assert kept.height + rejected.height == new.height
    dropped_for_old = rejected.filter(pl.col("cluster").is_in(kept_old["id"].implode()))
    assert dropped_for_old.height > 10
    with pytest.raises(ValueError, match="cannot be compared"):
        read_index(tmp_path / "i", DeduplicateConfig(minhash=MinHashConfig(seed=3)))
    with pytest.raises(FileNotFoundError, match="keep_index"):
        read_index(tmp_path, config)
    described = tmp_path / "i" / "index.json"
    described.write_text(described.read_text(encoding="utf-8").replace('"format"', '"was"'), encoding="utf-8")
    with pytest.raises(ValueError, match="earlier version"):
        read_index(tmp_path / "i", config)


def test_siblings_are_spared_by_the_manner_of_their_differences(tmp_path: Path) -> None:
    page = (
        "The argument given to the function is {}. This error is raised when the {} argument does not fit the field "
        "that it is stored in. To repair it, give a {} one, or change the field of the table that is too {} for it. "
        "See also the page about {} arguments, and the list of all messages that this server may write to its log."
    )
    table = collection_of_texts([page.format(*["long"] * 5), page.format(*["short"] * 5)])
    joined, _ = run([table], tmp_path / "a", DeduplicateConfig(minhash=MinHashConfig(bands=128)))
    never = VerifyConfig(swap=2.0, phrases=2.0, variety=0.1, scatter=0.1)
    config = DeduplicateConfig(minhash=MinHashConfig(bands=128), verify=never)
    assert run([table], tmp_path / "never", config)[0].height == 1
    config = DeduplicateConfig(minhash=MinHashConfig(bands=128), verify=VerifyConfig(preset="siblings_apart"))
    spared, _ = run([table], tmp_path / "b", config)
    assert spared.height == 2
    assert joined.height == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("longest", 0), ("overlap_units", 0), ("codes", 0), ("swap", 0.0), ("phrases", 0.0), ("echo", 0.0)],
)
def test_settings_that_would_join_nothing_or_crash_are_refused(name: str, value: float) -> None:
    """At 0 each of the four that leave pairs apart would leave every pair apart, for nothing measures less."""
    with pytest.raises(ValueError, match=rf"deduplicate\.verify\.{name} is 0"):
        VerifyConfig(**{name: value})


def test_long_texts_are_not_joined_by_their_beginnings_alone(tmp_path: Path) -> None:
    """Only `longest` units are aligned; what lies beyond is judged by the shingles, which are those of the whole."""
    generator = np.random.default_rng(11)
    beginning, whole = text_of(generator, 1300), text_of(generator, 2000)
    texts = [beginning + text_of(generator, 700), beginning + text_of(generator, 700)]
    texts += [whole, edited(generator, whole, 0.05), edited(generator, whole, 0.08)]
    for longest in (20_000, 1100):
        config = DeduplicateConfig(verify=VerifyConfig(longest=longest))
        kept, rejected = run([collection_of_texts(texts)], tmp_path / str(longest), config)
        assert [one[-1] for one in kept["id"]] == ["0", "1", "2"]
        assert rejected.height == 2


def test_empty_and_tiny_documents(tmp_path: Path) -> None:
    kept, rejected = run([collection_of_texts(["", "", "。", "a", "a b", "A", "\n"])], tmp_path, DeduplicateConfig())
    assert kept["text"].to_list() == ["。", "a", "a b", "\n"]
    assert rejected.height == 3
    kept, rejected = run([collection_of_texts([])], tmp_path / "none", DeduplicateConfig())
    assert kept.height == rejected.height == 0


def test_connected_is_reachability() -> None:
    generator = np.random.default_rng(0)
    left, right = generator.integers(0, 300, (2, 180)).astype(np.uint64)
    documents, roots = connected(left, right)
    reach = np.eye(300, dtype=bool)
    reach[left, right] = reach[right, left] = True
    for _ in range(9):
        reach = reach @ reach
    for document, root in zip(documents, roots, strict=True):
        assert root == np.flatnonzero(reach[document])[0]


def test_ranges_hold_every_row_once_and_keys_whole(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    keys = generator.integers(0, 2**64, 500, dtype=np.uint64).repeat(2)
    for number, half in enumerate(np.array_split(generator.permutation(keys), 3)):
        write_part(pl.DataFrame({"key": half}), tmp_path / f"{number}.parquet", "key")
    ranges = list(read_ranges(parts(tmp_path), "key", memory_mb=1, bytes_per_row=20_000))
    assert len(ranges) > 10
    assert np.sort(np.concatenate([r["key"].to_numpy() for r in ranges])).tolist() == np.sort(keys).tolist()
    assert all((r["key"].value_counts()["count"] == 2).all() for r in ranges)
