"""The stage mix: which documents the corpus holds, how often, in what order, and which are held out.

A document's expected copies are its quality bucket's epochs x its source's weight x a power of its cluster's size x its
language's factor; the factors bring Chinese and English to the wanted shares. Expected copies become whole ones by a
number in [0, 1) drawn from the document's id, and the order by another: nothing depends on files or workers.
Repeating up to about four epochs costs little against new text (Muennighoff et al. 2023, section 5). The plan looks at
all documents at once: about 100 bytes of memory for each.

    measure  a table of numbers for each shard     plan    factors, held-out clusters, number of output shards
    scatter  copies of each shard, by their place  gather  each output shard, in order; then a card that says what it is
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from data.schema import TRAIN, VALIDATION
from data.shards import ShardFile, atomic, file_digest, read_json, read_shard, write_json, write_shard
from data.stage import Context, Counts, Done, Phase, add_counts, one_task, shard_size, shard_tasks, tally, tally_by

if TYPE_CHECKING:
    from data.config import CorpusConfig

BALANCED = ("zh", "en")


@dataclass(frozen=True, kw_only=True)
class QualityBucket:
    """Documents of at least this quality, and how often they are read."""

    min: float
    """The lowest `quality_score` of the bucket."""
    epochs: float
    """How many copies, on average, the mix takes of its documents."""


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """What the corpus is made of."""

    zh_share: float = 0.5
    """Share of Chinese in Chinese + English; documents of both languages count half for each."""
    unit: Literal["bytes", "tokens"] = "bytes"
    """What the shares are shares of: UTF-8 bytes, or tokens (needs `--tokenizer`)."""
    balance: Literal["repeat", "downsample", "none"] = "repeat"
    """How the shares are reached: the scarce language repeated as far as `max_epochs` and the other cut down for the
    rest; only cut down; or not at all."""
    max_epochs: float = 4.0
    """The most copies of one document."""
    buckets: list[QualityBucket] = field(default_factory=list)
    """Quality buckets with their epochs; needs a quality model in `annotate`. Documents below all buckets are left;
    those of a language without a model have one epoch."""
    cluster_power: float = 0.0
    """Copies grow with (documents in the cluster) to this power: 0 is not at all."""
    validation_share: float = 0.02
    """Share of each language that is held out, whole clusters at a time; at least one cluster where there are two."""
    validation_max_mb: float = 50.0
    """The most text held out of each language."""
    shard_mb: float = 64.0
    """Text in an output shard."""
    seed: int = 0
    """Seed of every draw."""

    def __post_init__(self) -> None:
        if not 0 <= self.zh_share <= 1:
            raise ValueError(f"mix.zh_share is {self.zh_share}: expected a share in [0, 1]")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"mix.validation_share is {self.validation_share}: expected a share in [0, 1)")
        if self.max_epochs < 1 or self.shard_mb <= 0 or self.validation_max_mb < 0 or self.cluster_power < 0:
            raise ValueError("mix: expected max_epochs >= 1, shard_mb > 0, validation_max_mb >= 0, cluster_power >= 0")
        if any(bucket.epochs < 0 for bucket in self.buckets):
            raise ValueError("mix.buckets: epochs must be 0 or more")


def settings(config: CorpusConfig) -> object:
    """The mix's own settings, and the weights of the sources."""
    from data.records import plain

    weights = {source.name: source.weight for source in config.sources if source.weight != 1.0}
    return {"mix": plain(config.mix), "weights": weights}


def fingerprint(config: CorpusConfig, tokenizer: Path | None) -> dict[str, str]:
    """Digest of the tokenizer where tokens are counted. ValueError without one."""
    if config.mix.unit == "bytes":
        return {}
    if tokenizer is None:
        raise ValueError("mix.unit is tokens: give --tokenizer DIR, or set mix.unit to bytes")
    return {"tokenizer": file_digest(tokenizer / "tokenizer.json")}


def first_bits(ids: pl.Series) -> pl.Series:
    """The first 64 bits of each id (a string of hexadecimal digits), uint64: all that is held of every document."""
    numbers = np.fromiter((int(one[:16], 16) for one in ids), dtype=np.uint64, count=len(ids))
    return pl.Series(ids.name, numbers)


def draw(ids: pl.Series, seed: int, purpose: int) -> np.ndarray:
    """uint64 for each id, (n,): splitmix64 (Steele et al. 2014) of its first 64 bits, the seed and the purpose.

    `ids` are strings or already `first_bits`.
    """
    bits = (ids if ids.dtype == pl.UInt64 else first_bits(ids)).to_numpy()
    with np.errstate(over="ignore"):
        x = bits + np.uint64((seed * 0x9E3779B97F4A7C15 + purpose * 0xD1B54A32D192ED03) % (1 << 64))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def unit_interval(drawn: np.ndarray) -> np.ndarray:
    """uint64 to float64 in [0, 1)."""
    return (drawn >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def base_weight(table: pl.DataFrame, config: CorpusConfig) -> np.ndarray:
    """Expected copies before the languages are balanced, (n,): bucket's epochs x source's weight x cluster size."""
    mix = config.mix
    weight = np.ones(table.height)
    if mix.buckets:
        score = table["quality_score"]
        weight[score.is_not_null().to_numpy()] = 0.0  # what no model has judged is neither the best nor to be left
        for bucket in sorted(mix.buckets, key=lambda one: one.min):
            weight[(score >= bucket.min).fill_null(False).to_numpy()] = bucket.epochs
    sources = {source.name: source.weight for source in config.sources if source.name}
    collections = table["collection"].to_list()
    weight = weight * np.array([sources.get(name, 1.0) for name in collections], dtype=np.float64)
    if mix.cluster_power:
        weight = weight * table["cluster_size"].fill_null(1).to_numpy().astype(np.float64) ** mix.cluster_power
    return weight


def copies(weight: np.ndarray, factor: float, chance: np.ndarray, max_epochs: float) -> np.ndarray:
    """Whole copies, (n,) int32: expected ones rounded up or down by `chance`, so that the sum comes out right."""
    return np.floor(np.minimum(weight * factor, max_epochs) + chance).astype(np.int32)


def solve_factor(weight: np.ndarray, sizes: np.ndarray, chance: np.ndarray, target: float, max_epochs: float) -> float:
    """The greatest factor whose copies hold at most `target`: exact to one document, for it is monotonous.

    No factor goes beyond the one that brings every document to `max_epochs`.
    """
    some = weight[weight > 0]
    low, high = 0.0, max_epochs / float(some.min()) if len(some) else 1.0
    if float(copies(weight, high, chance, max_epochs) @ sizes) <= target:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        if float(copies(weight, middle, chance, max_epochs) @ sizes) <= target:
            low = middle
        else:
            high = middle
    return low


Arrays = dict[str, np.ndarray]


def balance(sizes: Arrays, weights: Arrays, chances: Arrays, mix: MixConfig) -> dict[str, float]:
    """Each language's factor. `sizes`, `weights` and `chances` are arrays (n,) by language."""
    factors = dict.fromkeys(sizes, 1.0)
    # a language of which no document weighs anything cannot be repeated, and the other must not be cut down to nothing
    if mix.balance == "none" or any(not np.any(weights.get(name, ())) for name in BALANCED):
        return factors

    def total(name: str, factor: float) -> float:
        if name not in sizes:
            return 0.0
        return float(copies(weights[name], factor, chances[name], mix.max_epochs) @ sizes[name])

    both = total("mixed", 1.0) / 2
    share = {"zh": mix.zh_share, "en": 1 - mix.zh_share}
    have = {name: total(name, 1.0) + both for name in BALANCED}
    scarce, ample = sorted(BALANCED, key=lambda name: have[name] / share[name] if share[name] else float("inf"))
    if mix.balance == "repeat" and share[ample] > 0:
        target = have[ample] * share[scarce] / share[ample] - both
        found = solve_factor(weights[scarce], sizes[scarce], chances[scarce], target, mix.max_epochs)
        factors[scarce] = max(1.0, found)
        if total(scarce, found * (1 + 1e-9)) > target:
            return factors  # met to a document; otherwise the other language is cut down for the rest
    reached = total(scarce, factors[scarce]) + both
    target = max(0.0, (reached * share[ample] / share[scarce] if share[scarce] else float("inf")) - both)
    if target < total(ample, 1.0):
        factors[ample] = solve_factor(weights[ample], sizes[ample], chances[ample], target, mix.max_epochs)
    return factors


def choose_validation(table: pl.DataFrame, mix: MixConfig) -> pl.Series:
    """Clusters held out: of each language the first in the order of their draw, up to the share.

    A cluster counts for the language of its first document and goes whole to one side.
    """
    clusters = table.group_by("cluster").agg(pl.col("language").min(), pl.col("bytes").sum())
    order = draw(clusters["cluster"], mix.seed, 3)
    clusters = clusters.with_columns(pl.Series("order", order)).sort("language", "order", "cluster")
    before = (pl.col("bytes").cum_sum() - pl.col("bytes")).over("language")
    share = mix.validation_share * pl.col("bytes").sum().over("language")
    wanted = pl.min_horizontal(share, mix.validation_max_mb * 1e6)
    alone = pl.len().over("language") < 2
    return clusters.filter((before < wanted) & ~alone)["cluster"].sort()


def _measure(context: Context, task: str) -> Done:
    table = context.read(f"{task}.parquet")
    if context.config.mix.unit == "tokens":
        from tokenizer.load import load_tokenizer

        assert context.tokenizer is not None
        encoded = load_tokenizer(context.tokenizer).encode_batch(table["text"].to_list())
        size = pl.Series("size", [len(ids) + 1 for ids in encoded], dtype=pl.Int64)
    else:
        size = table["text"].str.len_bytes().cast(pl.Int64).alias("size")
    measured = table.select(
        first_bits(table["id"]), first_bits(table["cluster"].fill_null(table["id"])),
        pl.col("language").fill_null("other"),
        pl.col("text").str.len_bytes().cast(pl.Int64).alias("bytes"), size,
        pl.Series("weight", base_weight(table, context.config), dtype=pl.Float64),
    )  # fmt: skip
    write_shard(context.work / "measure" / f"{task}.parquet", measured)
    return Done()


def _plan(context: Context, task: str) -> Done:  # noqa: ARG001
    mix = context.config.mix
    table = pl.concat([read_shard(path) for path in sorted((context.work / "measure").glob("*.parquet"))])
    if table.is_empty():
        raise ValueError("mix: no document is left to mix: see the rejected documents of the stages before")
    held_out = choose_validation(table, mix)
    held_out.to_frame("cluster").write_parquet(context.work / "validation.parquet")
    table = table.with_columns(pl.Series("chance", unit_interval(draw(table["id"], mix.seed, 1))))
    train = table.filter(~pl.col("cluster").is_in(held_out.implode()))
    parts = {str(name): part for (name,), part in train.group_by("language", maintain_order=True)}

    def column(name: str) -> Arrays:
        return {language: part[name].to_numpy() for language, part in parts.items()}

    factors = balance(column("size"), column("weight"), column("chance"), mix)
    taken = 0
    for name, part in parts.items():
        weight, chance, size = (part[one].to_numpy() for one in ("weight", "chance", "bytes"))
        taken += int(copies(weight, factors[name], chance, mix.max_epochs) @ size)
    aside = int(table.join(held_out.to_frame("cluster"), on="cluster", how="semi")["bytes"].sum())
    shards = {part: max(1, round(size / (mix.shard_mb * 1e6))) for part, size in ((TRAIN, taken), (VALIDATION, aside))}
    write_json(context.work / "plan.json", {"factors": factors, "shards": shards})
    return Done(facts={"language_factors": {name: round(factor, 6) for name, factor in sorted(factors.items())}})


def _scatter(context: Context, task: str) -> Done:
    """Copies of one shard's documents with their places, a file for each side."""
    mix = context.config.mix
    plan: Any = read_json(context.work / "plan.json")
    table = context.read(f"{task}.parquet").with_columns(pl.col("language").fill_null("other"))
    held_out = read_shard(context.work / "validation.parquet")["cluster"]
    aside = first_bits(table["cluster"].fill_null(table["id"])).is_in(held_out.implode()).to_numpy()
    weight = base_weight(table, context.config)
    factor = np.array([plan["factors"].get(name, 1.0) for name in table["language"]], dtype=np.float64)
    count = copies(weight * factor, 1.0, unit_interval(draw(table["id"], mix.seed, 1)), mix.max_epochs)
    count[aside] = (weight[aside] > 0).astype(np.int32)
    rows = np.repeat(np.arange(table.height), count)
    copy = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    taken = table[rows].with_columns(pl.Series("copy", copy, dtype=pl.Int32))
    place = draw(taken["id"], mix.seed, 2)
    for number in range(1, int(copy.max(initial=0)) + 1):
        place[copy == number] = draw(taken["id"].filter(pl.Series(copy == number)), mix.seed, 16 + number)
    taken = taken.with_columns(pl.Series("place", place, dtype=pl.UInt64)).sort("place", "id")
    held = first_bits(taken["cluster"].fill_null(taken["id"])).is_in(held_out.implode())
    for part, chosen in ((TRAIN, ~held), (VALIDATION, held)):
        write_shard(context.work / "scatter" / part / f"{task}.parquet", taken.filter(chosen))
    return Done(counts=_scatter_counts(table, count, aside))


def _scatter_counts(table: pl.DataFrame, count: np.ndarray, aside: np.ndarray) -> Counts:
    """Documents and bytes read; those taken once or more; left; the further copies; by language, bucket and source."""
    groups = {
        "read": np.ones(table.height, bool),
        "taken": count > 0,
        "left": count == 0,
    }
    counts: Counts = {}
    for name, chosen in groups.items():
        part = table.filter(pl.Series(chosen))
        counts[name] = tally(part)
        counts[f"{name}_by_language"] = tally_by(part, "language")
        counts[f"{name}_by_collection"] = tally_by(part, "collection")
    extra = table[np.repeat(np.arange(table.height), np.maximum(count - 1, 0))]
    counts["repeated"] = tally(extra)
    counts["repeated_by_language"] = tally_by(extra, "language")
    counts["validation_clusters"] = int(table.filter(pl.Series(aside))["cluster"].n_unique())
    licences = table.filter(pl.Series(count > 0)).with_columns(pl.col("license").fill_null("not stated"))
    counts["taken_by_license"] = tally_by(licences, "license")
    return counts


def _gather_tasks(context: Context) -> list[str]:
    plan: Any = read_json(context.work / "plan.json")
    return [f"{part}.{number:05d}" for part in (TRAIN, VALIDATION) for number in range(plan["shards"][part])]


def _gather(context: Context, task: str) -> Done:
    """One output shard: the copies whose place lies in its range, in order."""
    part, _, number = task.partition(".")
    plan: Any = read_json(context.work / "plan.json")
    shards = plan["shards"][part]
    low, high = ((int(number) + step) * (1 << 64) // shards for step in (0, 1))
    inside = (pl.col("place") >= pl.lit(low, pl.UInt64)) & (pl.col("place") <= pl.lit(high - 1, pl.UInt64))
    paths = sorted((context.work / "scatter" / part).glob("*.parquet"))
    frames = [pl.scan_parquet(path, glob=False).filter(inside).collect() for path in paths]
    table = pl.concat(frames, how="diagonal_relaxed").sort("place", "id", "copy").drop("place")
    files = context.write(part, f"{number}.parquet", table)
    return Done(files=files, counts={part: tally(table), f"{part}_by_language": tally_by(table, "language")})


def _card(context: Context, task: str) -> Done:  # noqa: ARG001
    """The corpus card, in the form that the Hugging Face hub and `datasets` read."""
    from data.card import corpus_card, recorded_settings
    from data.records import gather

    done = gather(context)
    own: Any = settings(context.config)
    stated = recorded_settings(context.workspace) | own
    path = context.folder / "README.md"
    with atomic(path) as temporary:
        temporary.write_text(corpus_card(stated, add_counts([done.counts]), done.facts), encoding="utf-8")
    file = ShardFile(documents=0, text_bytes=0, file_bytes=path.stat().st_size, digest=file_digest(path))
    return Done(files={"README.md": file})


PHASES = (
    Phase(name="measure", tasks=shard_tasks, run=_measure, size=shard_size),
    Phase(name="plan", tasks=one_task, run=_plan),
    Phase(name="scatter", tasks=shard_tasks, run=_scatter, size=shard_size),
    Phase(name="shuffle", tasks=_gather_tasks, run=_gather),
    Phase(name="write_card", tasks=one_task, run=_card),
)
