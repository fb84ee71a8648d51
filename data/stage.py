"""What a stage is: what it reads, what it writes, and its phases, each a list of tasks that may run anywhere.

    Stage   a name, the folders that it reads and writes, its part of the configuration, its phases
    Phase   a list of task names, known when the phase begins, and a function that does one of them
    Context where everything lies; small and picklable, it travels to the process that does a task

A task writes whole files and returns a `Done`. The engine (`data/pipeline.py`) saves that as the task's marker, last of
all; a task without its marker is done again, and gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from data.schema import KEPT, REJECTED
from data.shards import ShardFile, read_json, read_shard, write_json, write_shard

if TYPE_CHECKING:
    from data.config import CorpusConfig

Counts = dict[str, "int | Counts"]
RECORD = "stage.json"
MARKERS = "progress"
KEY = "key.json"
"""Beside the markers: whose they are."""
WORK = "work"


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a task says when it is done."""

    files: dict[str, ShardFile] = field(default_factory=dict)
    """Files written, by their path below the stage's folder."""
    counts: Counts = field(default_factory=dict)
    """Numbers that are added up over the tasks of a stage."""
    problems: list[dict[str, str]] = field(default_factory=list)
    """What could not be read: `file`, `reason`, `detail`."""
    facts: dict[str, object] = field(default_factory=dict)
    """What is said once for the whole stage (choices made, alarms), not added up."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a stage's task finds its input, its settings, and its place to write."""

    workspace: Path
    stage: str
    reads: tuple[str, ...]
    config: CorpusConfig
    key: str
    """Digest of all that the stage's output depends on."""
    limit: int | None = None
    """Documents to read at most, for the stage that was asked for by itself."""
    tokenizer: Path | None = None

    @property
    def folder(self) -> Path:
        """The stage's own folder."""
        return self.workspace / self.stage

    @property
    def work(self) -> Path:
        """Where the stage may keep what it needs between its phases; removed when the stage is done."""
        return self.folder / WORK

    def marker(self, phase: str, task: str) -> Path:
        return self.folder / MARKERS / phase / f"{task}.json"

    def shards(self, folder: str | None = None) -> list[str]:
        """File names in an input folder such as `filter/kept`, from that stage's record and not from the disk."""
        stage, _, part = (folder or self.reads[0]).partition("/")
        files = read_json(self.workspace / stage / RECORD)["files"]
        assert isinstance(files, dict)
        return sorted(path.removeprefix(f"{part}/") for path in files if path.startswith(f"{part}/"))

    def read(self, shard: str, columns: list[str] | None = None, folder: str | None = None) -> pl.DataFrame:
        """One shard of the input, cut to this run's share of `limit`."""
        table = read_shard(self.workspace / (folder or self.reads[0]) / shard, columns)
        if self.limit is None:
            return table
        names = self.shards(folder)
        return table.head(share_of(self.limit, names.index(shard), len(names)))

    def write(self, part: str, shard: str, table: pl.DataFrame) -> dict[str, ShardFile]:
        """Write one shard of the output; returns it as an entry of `Done.files`."""
        check_owner(self)
        return {f"{part}/{shard}": write_shard(self.folder / part / shard, table)}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A list of tasks, and the function that does one."""

    name: str
    tasks: Callable[[Context], list[str]]
    run: Callable[[Context, str], Done]
    size: Callable[[Context, str], int] = lambda context, task: 1  # noqa: ARG005
    """Bytes that a task reads, for the progress and its rate."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the pipeline."""

    name: str
    reads: tuple[str, ...]
    """Folders read, as `<stage>/<part>`; none for ingest, which reads the sources."""
    writes: tuple[str, ...]
    """Parts written below the stage's own folder."""
    settings: Callable[[CorpusConfig], object]
    """The part of the configuration that the output depends on."""
    phases: tuple[Phase, ...]
    growth: float = 1.0
    """Bytes written, at the most to be expected, for each byte read (the sizes on disk)."""
    optional: tuple[str, ...] = ()
    """Folders read when they are there."""
    version: int = 1
    """Raised when the stage's meaning changes, so that older output is rebuilt."""
    adds_up: bool = True
    """Whether documents read are documents kept and rejected."""
    fingerprint: Callable[[CorpusConfig, Path | None], dict[str, str]] = lambda config, tokenizer: {}  # noqa: ARG005
    """Digests of what is read from outside the workspace: source files, a tokenizer."""


def share_of(limit: int, index: int, parts: int) -> int:
    """Part `index` of `limit` spread evenly over `parts`: the first ones get one more."""
    return limit // parts + (1 if index < limit % parts else 0)


def one_task(context: Context) -> list[str]:  # noqa: ARG001
    """Tasks of a phase that is one piece of work."""
    return ["all"]


def shard_tasks(context: Context) -> list[str]:
    """A task for each input shard."""
    return [name.removesuffix(".parquet") for name in context.shards()]


def shard_size(context: Context, task: str) -> int:
    """Bytes of the input shard of a task."""
    return (context.workspace / context.reads[0] / f"{task}.parquet").stat().st_size


def table_stage_task(
    context: Context, task: str, body: Callable[[pl.DataFrame], tuple[pl.DataFrame, pl.DataFrame | None]]
) -> Done:
    """Do one shard with `body`, which returns (kept, rejected); rejected None means that the stage drops nothing."""
    shard = f"{task}.parquet"
    table = context.read(shard)
    kept, rejected = body(table)
    files = context.write(KEPT, shard, kept)
    if rejected is not None:
        files |= context.write(REJECTED, shard, rejected)
    if table.height != kept.height + (0 if rejected is None else rejected.height):
        raise RuntimeError(f"{context.stage} {shard}: {table.height} documents read, other number kept and rejected")
    return Done(files=files, counts=document_counts(table, kept, rejected))


def document_counts(read: pl.DataFrame | None, kept: pl.DataFrame, rejected: pl.DataFrame | None) -> Counts:
    """The counts every stage gives: documents and bytes read, kept and rejected, by language and by rule."""
    counts: Counts = {"kept": tally(kept), "rejected": tally(rejected)}
    if read is not None:
        counts["read"] = tally(read)
    if "language" in kept.columns:
        counts["kept_by_language"] = tally_by(kept, "language")
        if rejected is not None and "language" in rejected.columns:
            counts["rejected_by_language"] = tally_by(rejected, "language")
    if rejected is not None and rejected.height:
        counts["rejected_by"] = tally_by(rejected, "rejected_by")
    return counts


def tally(table: pl.DataFrame | None) -> Counts:
    """Documents and UTF-8 bytes of text."""
    if table is None:
        return {"documents": 0, "bytes": 0}
    return {"documents": table.height, "bytes": int(table["text"].str.len_bytes().sum())}


def tally_by(table: pl.DataFrame, column: str) -> Counts:
    """`tally` for each value of a column."""
    grouped = table.group_by(column).agg(
        pl.len().alias("documents"), pl.col("text").str.len_bytes().sum().alias("bytes")
    )
    rows = sorted((str(name), int(documents), int(size)) for name, documents, size in grouped.iter_rows())
    return {name: {"documents": documents, "bytes": size} for name, documents, size in rows}


def add_counts(parts: Iterable[Counts]) -> Counts:
    """The sum of nested counts, name by name."""
    total: Counts = {}
    for part in parts:
        for name, value in part.items():
            here = total.get(name)
            if isinstance(value, dict):
                total[name] = add_counts([here if isinstance(here, dict) else {}, value])
            else:
                total[name] = (here if isinstance(here, int) else 0) + value
    return {name: total[name] for name in sorted(total)}


def save_marker(path: Path, done: Done, seconds: float) -> None:
    """Save what a task did; its presence says that the task is done."""
    write_json(
        path,
        {
            "files": {name: file.to_dict() for name, file in sorted(done.files.items())},
            "counts": done.counts,
            "problems": done.problems,
            "facts": done.facts,
            "seconds": round(seconds, 3),
        },
    )


def load_marker(path: Path) -> tuple[Done, float] | None:
    """What `save_marker` wrote, or None where it is absent or unreadable."""
    try:
        value = read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    files = {name: ShardFile(**file) for name, file in value["files"].items()}  # type: ignore[attr-defined]
    done = Done(files=files, counts=value["counts"], problems=value["problems"], facts=value["facts"])  # type: ignore[arg-type]
    return done, float(value["seconds"])  # type: ignore[arg-type]


class TakenOver(RuntimeError):  # noqa: N818 - what happened to the task, by no fault of its own
    """The stage's folder now belongs to another run."""


def check_owner(context: Context) -> None:
    """TakenOver if the stage's folder now belongs to another run: a process left over must not write into it."""
    keyfile = context.folder / MARKERS / KEY
    if not keyfile.exists() or read_json(keyfile).get("key") != context.key:
        raise TakenOver(f"{context.folder} was taken over by another run")
