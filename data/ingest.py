"""The stage ingest: every input file to shards of one schema, page bytes to text, text to its normal form.

Files are grouped into units, the tasks of the stage: small files together, a large one in parts that take its records
in turn. A unit writes shards as they fill; each is marked with the position that it reached, and a unit that was cut
short goes on from there. Two documents with one id are told apart at the end, over all shards: the first one stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import polars as pl

from data.charset import decode
from data.decompress import Limits
from data.extract import extract_html
from data.normalize import normalize
from data.raw import EXCERPT, Problems, RawRecord
from data.readers import Fields, read_records
from data.schema import DOCUMENT_COLUMNS, KEPT, REJECT_COLUMNS, REJECTED, conform, content_digest, document_id
from data.shards import file_digest, read_json, read_shard, value_digest, write_json
from data.sources import InputFile, SourceConfig, find_inputs
from data.stage import Context, Done, Phase, add_counts, document_counts, load_marker, one_task, save_marker, share_of
from data.warc import TEXT_TYPES, media_type

if TYPE_CHECKING:
    from data.config import CorpusConfig

BLOCK = 256
"""Records in a row that go to one part of a split file."""
SHARD_ROWS = 100_000
"""Documents in a shard at the most, however short: each costs a kilobyte before it is written."""
WHOLE = ("text", "html", "json")
"""Formats that are not split: one record, or one value."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """How input files are cut into work, and what a record may be."""

    split_mb: float = 64.0
    """A larger file (as it lies on disk) is read by several tasks, which take its records in turn."""
    max_parts: int = 8
    """Tasks that share one file, at the most: each reads past the others' records."""
    pack_mb: float = 1.0
    """Smaller files are read together by one task, up to this size."""
    shard_mb: float = 32.0
    """Text in a shard, which has 100,000 documents at most."""
    max_record_mb: float = 48.0
    """A larger line, page or file of one document is set aside."""
    max_ratio: float = 250.0
    """A compressed member that grows beyond this many times its size, and beyond 64 MB, is given up as a bomb."""

    def __post_init__(self) -> None:
        for name in ("split_mb", "pack_mb", "shard_mb", "max_record_mb", "max_ratio"):
            if getattr(self, name) <= 0:
                raise ValueError(f"ingest.{name} is {getattr(self, name)}: expected more than 0")
        if self.max_parts < 1:
            raise ValueError(f"ingest.max_parts is {self.max_parts}: expected at least 1")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A file, or part `part` of `parts` of it: the blocks of records whose number is `part` modulo `parts`."""

    file: InputFile
    part: int = 0
    parts: int = 1
    limit: int | None = None


def settings(config: CorpusConfig) -> object:
    """What the output depends on: everything about a source but its weight, which is the mix's."""
    sources = [{k: v for k, v in asdict(source).items() if k != "weight"} for source in config.sources]
    return {
        "sources": sources,
        "ingest": asdict(config.ingest),
        "extract": asdict(config.extract),
        "normalize": asdict(config.normalize),
    }


def fingerprint(config: CorpusConfig, tokenizer: Path | None) -> dict[str, str]:  # noqa: ARG001
    """Digest of the input files' names, sizes and samples of their content."""
    files, problems = find_inputs(config.sources)
    if not files:
        said = "; ".join(f"{one['file']} {one['reason'].replace('_', ' ')}" for one in problems[:3])
        raise FileNotFoundError(f"nothing to read: {said or 'no sources: name some in the YAML or by --input'}")
    return {"files": value_digest([[item.name, item.format, item.size, item.fingerprint] for item in files])}


def cut_into_units(files: list[InputFile], config: IngestConfig, limit: int | None) -> list[list[Piece]]:
    """The tasks of the stage, in an order that depends on the files alone."""
    units: list[list[Piece]] = []
    packed: list[Piece] = []
    size = 0.0
    for index, file in enumerate(files):
        own = None if limit is None else share_of(limit, index, len(files))
        whole = file.format in WHOLE or limit is not None
        parts = 1 if whole else min(config.max_parts, max(1, round(file.size / (config.split_mb * 1e6))))
        if packed and size + file.size > config.pack_mb * 1e6:
            units.append(packed)
            packed, size = [], 0.0
        if parts > 1 or file.size > config.pack_mb * 1e6:
            units += [[Piece(file=file, part=part, parts=parts, limit=own)] for part in range(parts)]
        else:
            packed.append(Piece(file=file, limit=own))
            size += file.size
    return units + ([packed] if packed else [])


def _plan_path(context: Context) -> Path:
    return context.work / "plan.json"


def _read_tasks(context: Context) -> list[str]:
    """Write the plan for the workers to read, if it is not there; a task is the number of a unit."""
    if not _plan_path(context).exists():  # the folder's key holds the files' fingerprints, so a plan found here is ours
        files, problems = find_inputs(context.config.sources)
        units = cut_into_units(files, context.config.ingest, context.limit)
        plan = {"units": [[asdict(one) for one in unit] for unit in units], "problems": problems, "files": len(files)}
        write_json(_plan_path(context), plan)
    return [f"{number:05d}" for number in range(len(_plan(_plan_path(context), context.key)["units"]))]


@lru_cache(maxsize=1)
def _plan(path: Path, key: str) -> dict[str, Any]:  # noqa: ARG001 - the key tells one run's plan from another's
    return read_json(path)


def _unit(context: Context, task: str) -> list[Piece]:
    pieces = []
    for value in _plan(_plan_path(context), context.key)["units"][int(task)]:
        source = {**value["file"]["source"], "fields": Fields(**value["file"]["source"]["fields"])}
        file = InputFile(**{**value["file"], "source": SourceConfig(**source)})
        pieces.append(Piece(**{**value, "file": file}))
    return pieces


def _unit_size(context: Context, task: str) -> int:
    return sum(piece.file.size // piece.parts for piece in _unit(context, task))


def _read_unit(context: Context, task: str) -> Done:
    """Read a unit from where it was left, shard by shard."""
    partials, position = _finished_shards(context, task)
    writer = _ShardWriter(context, task, partials)
    for number, piece in enumerate(_unit(context, task)):
        if number < position[0]:
            writer.bytes_before += piece.file.size // piece.parts
            continue
        problems = Problems(file=piece.file.path)
        skip = position[1] if number == position[0] else 0
        for index, record in _records_of(piece, context.config.ingest, problems):
            if index < skip:
                continue
            if record is None:
                writer.passed_over += 1
            else:
                writer.bytes_here = problems.read_bytes // piece.parts
                writer.add(record, piece, (number, index + 1))
        writer.problems += problems.listed()
        writer.bytes_before, writer.bytes_here = writer.bytes_before + piece.file.size // piece.parts, 0
    writer.close()
    done = writer.partials
    return Done(
        files={name: file for one in done for name, file in one.files.items()},
        counts=add_counts(one.counts for one in done),
        problems=[problem for one in done for problem in one.problems],
    )


def _records_of(piece: Piece, config: IngestConfig, problems: Problems) -> Iterator[tuple[int, RawRecord | None]]:
    """(number in the file, record) of a piece, up to its limit."""
    limits, given = Limits(ratio=config.max_ratio), 0
    for index, record in enumerate(read_records(piece.file, problems, int(config.max_record_mb * 1e6), limits)):
        if piece.limit is not None and given >= piece.limit:
            return
        if (index // BLOCK) % piece.parts == piece.part:
            given += record is not None
            yield index, record


def _partial_path(context: Context, task: str, number: int) -> Path:
    return context.marker("read", task).with_suffix(f".{number:04d}.partial")


def _finished_shards(context: Context, task: str) -> tuple[list[Done], tuple[int, int]]:
    """What a killed run left of a unit: its whole shards, and the position (piece, record) they reached."""
    partials: list[Done] = []
    position = (0, 0)
    while True:
        loaded = load_marker(_partial_path(context, task, len(partials)))
        if loaded is None:
            return partials, position
        for name, file in loaded[0].files.items():
            path = context.folder / name
            if not path.exists() or file_digest(path) != file.digest:
                return partials, position
        reached: Any = loaded[0].facts["position"]
        position = (int(reached[0]), int(reached[1]))
        partials.append(replace(loaded[0], facts={}))


class _ShardWriter:
    """Collects records, turns them into documents, and writes a shard whenever enough text is there."""

    def __init__(self, context: Context, task: str, partials: list[Done]) -> None:
        self.context, self.task, self.partials = context, task, partials
        self.problems: list[dict[str, str]] = []
        self.passed_over = 0
        self.bytes_before = self.bytes_here = 0
        self._kept: list[dict[str, str | None]] = []
        self._rejected: list[dict[str, str | None]] = []
        self._size = 0
        self._position = (0, 0)
        self._started = time.perf_counter()

    def add(self, record: RawRecord, piece: Piece, position: tuple[int, int]) -> None:
        """Take one record; its page is extracted here."""
        row = _to_row(record, piece.file, self.context.config)
        (self._kept if row["rejected_by"] is None else self._rejected).append(row)
        self._size += len((row["text"] or "").encode("utf-8", "replace"))
        self._position = position
        rows = len(self._kept) + len(self._rejected)
        if self._size >= self.context.config.ingest.shard_mb * 1e6 or rows >= SHARD_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left; a unit without any record still gives one empty shard, with its problems."""
        if self._kept or self._rejected or self.problems or self.passed_over or not self.partials:
            self._flush()

    def _flush(self) -> None:
        number = len(self.partials)
        schema = {**DOCUMENT_COLUMNS, **REJECT_COLUMNS}
        table = pl.DataFrame(self._kept, schema=schema).with_columns(pl.lit("").alias("normalize_changes"))
        table = normalize(table, self.context.config.normalize)
        bare = pl.col("text").str.strip_chars().str.len_bytes() == 0
        emptied = table.filter(bare).with_columns(rejected_by=pl.lit("ingest.empty_text"), rejected_value=pl.lit("0"))
        kept = conform(table.filter(~bare).drop(*REJECT_COLUMNS), DOCUMENT_COLUMNS)
        kept = kept.with_columns(
            pl.Series("content_digest", [content_digest(text) for text in kept["text"]], dtype=pl.String)
        )
        rejected = conform(pl.concat([pl.DataFrame(self._rejected, schema=schema), emptied.select(*schema)]), schema)
        shard = f"{self.task}-{number:04d}.parquet"
        files = self.context.write(KEPT, shard, kept) | self.context.write(REJECTED, shard, rejected)
        counts = document_counts(None, kept, rejected)
        counts["read"] = add_counts([counts["kept"], counts["rejected"]])  # type: ignore[list-item]
        counts["records_passed_over"] = self.passed_over
        facts = {"position": list(self._position), "bytes": self.bytes_before + self.bytes_here}
        done = Done(files=files, counts=counts, problems=self.problems, facts=facts)
        save_marker(_partial_path(self.context, self.task, number), done, time.perf_counter() - self._started)
        self.partials.append(replace(done, facts={}))
        self._kept, self._rejected, self._size = [], [], 0
        self.problems, self.passed_over, self._started = [], 0, time.perf_counter()


def _to_row(record: RawRecord, file: InputFile, config: CorpusConfig) -> dict[str, str | None]:
    """A record as a row of the schema, with `rejected_by` where it is set aside."""
    text, title, charset, extraction = record.text, record.title, None, None
    fault, value = record.fault, record.fault_value
    if fault is None and record.payload is not None:
        if media_type(record.content_type) in TEXT_TYPES:
            text, charset = decode(record.payload, record.content_type)
        else:
            found = extract_html(record.payload, content_type=record.content_type, config=config.extract)
            text, title, charset, extraction = found.text, found.title or title, found.charset, found.status
            if found.status != "ok":
                fault, value = found.status, found.detail or ""
    if text is None:
        text = (record.payload or b"")[: EXCERPT * 4].decode("utf-8", "replace")[:EXCERPT]
    source = record.source or file.source_name
    return {
        "id": document_id(source, record.source_id),
        "source": source,
        "source_id": record.source_id,
        "collection": file.source.name or file.source_name,
        "url": record.url,
        "host": host_of(record.url),
        "date": record.date,
        "title": title,
        "text": text.encode("utf-8", "replace").decode("utf-8"),
        "license": record.license or file.source.license,
        "kind": file.source.kind,
        "language_hint": record.language or file.source.language,
        "charset": charset,
        "extraction": extraction,
        "content_digest": None,
        "normalize_changes": None,
        "rejected_by": None if fault is None else f"ingest.{fault}",
        "rejected_value": None if fault is None else value,
    }


def host_of(url: str | None) -> str | None:
    """Lower-case host of a URL, without port; None where there is none."""
    if not url:
        return None
    try:
        return (urlsplit(url).hostname or "").lower() or None
    except ValueError:
        return None


def _duplicates_path(context: Context) -> Path:
    return context.work / "duplicates.parquet"


def _find_duplicate_ids(context: Context, task: str) -> Done:  # noqa: ARG001
    """Which rows have an id that an earlier row has; a digest of each id is held. ValueError if nothing was kept."""
    frames = []
    for path in sorted((context.folder / KEPT).glob("*.parquet")):
        ids = read_shard(path, ["id"]).with_row_index("row")
        frames.append(ids.with_columns(shard=pl.lit(path.name), id=pl.col("id").str.head(24).hash(seed=0)))
    rows = pl.concat(frames) if frames else pl.DataFrame(schema={"row": pl.UInt32, "id": pl.UInt64, "shard": pl.String})
    plan: Any = read_json(_plan_path(context))
    if rows.is_empty():
        reasons = [read_shard(path, ["rejected_by"]) for path in sorted((context.folder / REJECTED).glob("*.parquet"))]
        counted = pl.concat(reasons)["rejected_by"].value_counts(sort=True).head(3).rows() if reasons else []
        said = ", ".join(f"{count} {reason}" for reason, count in counted) or "they hold no records"
        raise ValueError(f"ingest: {plan['files']} input files gave no document at all: {said}")
    repeated = rows.filter(~pl.col("id").is_first_distinct()).select("shard", "row")
    repeated.write_parquet(_duplicates_path(context))
    return Done(problems=plan["problems"], counts={"files": plan["files"]})


def _settle_tasks(context: Context) -> list[str]:
    return sorted(pl.read_parquet(_duplicates_path(context))["shard"].unique().str.strip_suffix(".parquet"))


def _settle(context: Context, task: str) -> Done:
    """Move the later documents of an id from kept to rejected."""
    shard = f"{task}.parquet"
    later = pl.read_parquet(_duplicates_path(context)).filter(pl.col("shard") == shard)["row"]
    kept = read_shard(context.folder / KEPT / shard)
    rejected = read_shard(context.folder / REJECTED / shard)
    chosen = pl.Series(range(kept.height), dtype=pl.UInt32).is_in(later.implode())
    moved = kept.filter(chosen)
    value = pl.col("id").alias("rejected_value")
    moved = moved.with_columns(pl.lit("ingest.duplicate_id").alias("rejected_by"), value)
    files = context.write(REJECTED, shard, pl.concat([rejected, moved.select(rejected.columns)]))
    files |= context.write(KEPT, shard, kept.filter(~chosen))
    size = int(moved["text"].str.len_bytes().sum())
    part = {"documents": moved.height, "bytes": size}
    return Done(
        files=files,
        counts={
            "kept": {"documents": -moved.height, "bytes": -size},
            "rejected": dict(part),
            "rejected_by": {"ingest.duplicate_id": dict(part)},
        },
    )


PHASES = (
    Phase(name="read", tasks=_read_tasks, run=_read_unit, size=_unit_size),
    Phase(name="ids", tasks=one_task, run=_find_duplicate_ids),
    Phase(name="settle", tasks=_settle_tasks, run=_settle),
)
