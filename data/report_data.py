"""What the report tells, gathered from the stages' records and shards and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from data.records import stale_before
from data.schema import KEPT, LANGUAGES, REJECTED, TRAIN, VALIDATION
from data.shards import read_json

ORDER = ("ingest", "annotate", "filter", "deduplicate", "redact", "decontaminate", "mix", "tokenize")
"""Stages in the order of the funnel; one that was not run is left out."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage's record, read."""

    name: str
    record: dict[str, object]
    folder: Path

    def count(self, *path: str) -> float:
        """A number of the record's counts; 0 where it is not."""
        value: object = self.record.get("counts", {})
        for name in path:
            value = value.get(name, 0) if isinstance(value, dict) else 0
        return float(value) if isinstance(value, int | float) else 0.0

    def counts(self, *path: str) -> dict[str, object]:
        """A table of the record's counts; empty where it is not."""
        value: object = self.record.get("counts", {})
        for name in path:
            value = value.get(name, {}) if isinstance(value, dict) else {}
        return value if isinstance(value, dict) else {}

    @property
    def facts(self) -> dict[str, object]:
        value = self.record.get("facts", {})
        return value if isinstance(value, dict) else {}

    @property
    def run(self) -> dict[str, object]:
        value = self.record.get("run", {})
        return value if isinstance(value, dict) else {}

    @property
    def config(self) -> dict[str, object]:
        value = self.record.get("config", {})
        return value if isinstance(value, dict) else {}

    def shards(self, part: str) -> list[Path]:
        """The stage's shards of one part, as its record names them."""
        files = self.record.get("files", {})
        names = sorted(name for name in files if name.startswith(f"{part}/")) if isinstance(files, dict) else []
        return [self.folder / name for name in names if name.endswith(".parquet") and (self.folder / name).exists()]

    def scan(self, part: str) -> pl.LazyFrame | None:
        """All rows of one part; None if it holds no shard."""
        paths = self.shards(part)
        return pl.scan_parquet(paths, glob=False, missing_columns="insert", extra_columns="ignore") if paths else None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One row of the funnel: what was left after a stage."""

    stage: str
    documents: dict[str, float]
    """By language; under "" where languages are not known yet."""
    size: dict[str, float]
    """UTF-8 bytes by language."""
    rejected: float
    tokens: dict[str, float] = field(default_factory=dict)
    """Tokens by language; empty before tokenize."""

    @property
    def all_documents(self) -> float:
        return sum(self.documents.values())

    @property
    def all_bytes(self) -> float:
        return sum(self.size.values())


def read_stages(workspace: Path) -> dict[str, Stage]:
    """The finished stages of a workspace, tokenize if it is of this mix. FileNotFoundError if there is none."""
    stages = {}
    for name in ORDER:
        path = workspace / name / "stage.json"
        if path.exists() and not (name == "tokenize" and stale_before(workspace, name)):
            stages[name] = Stage(name=name, record=read_json(path), folder=workspace / name)
    if not stages:
        raise FileNotFoundError(f"{workspace} holds no finished stage: run `python -m data run` first")
    return stages


def funnel(stages: dict[str, Stage]) -> list[Step]:
    """What was left after each stage, by language where it is known."""
    steps = []
    for name, stage in stages.items():
        if name == "tokenize":
            continue
        parts = (TRAIN, VALIDATION) if name == "mix" else (KEPT,)
        documents: dict[str, float] = {}
        size: dict[str, float] = {}
        for part in parts:
            table = _by_language(stage, part)
            for language, row in table.items():
                documents[language] = documents.get(language, 0) + row[0]
                size[language] = size.get(language, 0) + row[1]
        steps.append(Step(stage=name, documents=documents, size=size, rejected=stage.count("rejected", "documents")))
    return steps


def _by_language(stage: Stage, part: str) -> dict[str, tuple[float, float]]:
    recorded = stage.counts(f"{part}_by_language")
    if recorded:
        return {
            k: (stage.count(f"{part}_by_language", k, "documents"), stage.count(f"{part}_by_language", k, "bytes"))
            for k in recorded
        }
    table = stage.scan(part)
    if table is None:
        return {}
    language = pl.col("language") if "language" in table.collect_schema().names() else pl.lit("").alias("language")
    rows = (
        table.group_by(language.fill_null(""))
        .agg(pl.len().alias("documents"), pl.col("text").str.len_bytes().sum().alias("bytes"))
        .collect()
    )
    return {row["language"]: (row["documents"], row["bytes"]) for row in rows.iter_rows(named=True)}


def languages_of(steps: list[Step]) -> list[str]:
    """Languages that occur, in the schema's order, "" (not known) last."""
    found = {language for step in steps for language in step.documents}
    return [language for language in (*LANGUAGES, "") if language in found]


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A rule that rejected documents."""

    rule: str
    documents: int
    size: int
    by_language: dict[str, int]
    examples: list[dict[str, object]]


def reasons(stages: dict[str, Stage], examples: int, characters: int, seed: int) -> list[Reason]:
    """All rules that rejected documents, the most rejecting first in each stage, with examples drawn by `seed`."""
    found = []
    for stage in stages.values():
        rejected = stage.scan(REJECTED)
        if rejected is None:
            continue
        names = rejected.collect_schema().names()
        language = pl.col("language").fill_null("") if "language" in names else pl.lit("").alias("language")
        table = rejected.select(
            "rejected_by",
            "rejected_value",
            "source_id",
            "url",
            language,
            pl.col("text").str.len_bytes().alias("bytes"),
            pl.col("text").str.slice(0, characters),
        )
        counted = table.group_by("rejected_by", "language").agg(pl.len().alias("n"), pl.col("bytes").sum()).collect()
        # a random order that does not depend on how rows lie in shards
        drawn = (
            table.with_columns(pl.col("source_id").hash(seed).rank("ordinal").over("rejected_by").alias("draw"))
            .filter(pl.col("draw") <= examples)
            .sort("rejected_by", "draw")
            .collect()
        )
        for rule in counted["rejected_by"].unique().to_list():
            own = counted.filter(pl.col("rejected_by") == rule)
            # documents that lost lines are judged by the filter's rules once more, after deduplication
            again = "" if rule.startswith(f"{stage.name}.") else f" ({stage.name})"
            found.append(
                Reason(
                    rule=rule + again,
                    documents=int(own["n"].sum()),
                    size=int(own["bytes"].sum()),
                    by_language=dict(own.select("language", "n").rows()),
                    examples=drawn.filter(pl.col("rejected_by") == rule).to_dicts(),
                )
            )
    order = {name: place for place, name in enumerate(ORDER)}
    return sorted(found, key=lambda r: (order.get(r.rule.partition(".")[0], 9), -r.documents, r.rule))


def timings(stages: dict[str, Stage]) -> list[dict[str, object]]:
    """Seconds of each stage and the rate at which it read."""
    rows = []
    for name, stage in stages.items():
        seconds = float(stage.run.get("seconds", 0.0) or 0.0)  # type: ignore[arg-type]
        if name == "tokenize":
            documents, size = (
                sum(stage.count("tokens", "all", part, unit) for part in (TRAIN, VALIDATION))
                for unit in ("documents", "bytes")
            )
        else:
            documents = stage.count("read", "documents") or stage.count("kept", "documents")
            size = stage.count("read", "bytes") or stage.count("kept", "bytes")
        rows.append(
            {
                "stage": name,
                "seconds": seconds,
                "documents_per_second": documents / seconds if seconds else 0.0,
                "megabytes_per_second": size / seconds / 1e6 if seconds else 0.0,
                "workers": stage.run.get("workers", ""),
                "executor": stage.run.get("executor", ""),
            }
        )
    return rows
