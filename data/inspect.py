"""The life of one document, and digests of what stages wrote: looking into a workspace without changing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from data.records import read_record
from data.schema import REJECTED
from data.shards import file_digest, read_json, value_digest
from data.stage import RECORD


def _recorded(workspace: Path) -> list[tuple[str, dict[str, Any]]]:
    """(name, record) of every finished stage, in the order of what they read."""
    from data.stages import in_order

    found = [(stage.name, read_record(workspace, stage.name)) for stage in in_order()]
    recorded = [(name, record) for name, record in found if record is not None]
    if not recorded:
        raise FileNotFoundError(f"{workspace}: no stage has been finished in this folder")
    return recorded


def life_of(workspace: Path, name: str) -> list[dict[str, Any]]:
    """Every row that a document has in the workspace's shards, in the order of the stages.

    `name` is its `source_id` or its `id`. An entry has `stage`, `part`, `shard`, and `row`. FileNotFoundError if there
    is none.
    """
    life: list[dict[str, Any]] = []
    for stage, record in _recorded(workspace):
        for path in record["files"]:
            if not path.endswith(".parquet"):
                continue
            rows = pl.scan_parquet(workspace / stage / path, glob=False)
            columns = rows.collect_schema().names()
            if "source_id" not in columns:
                continue
            found = rows.filter((pl.col("source_id") == name) | (pl.col("id") == name)).collect()
            part, _, shard = path.partition("/")
            life += [{"stage": stage, "part": part, "shard": shard, "row": row} for row in found.to_dicts()]
    if not life:
        raise FileNotFoundError(f"{workspace}: no document has the source id or id '{name}'")
    return life


def show_life(life: list[dict[str, Any]], characters: int) -> str:
    """A document's life as lines: what each stage added or changed, and where it left."""
    lines: list[str] = []
    before: dict[str, Any] = {}
    for entry in life:
        row = entry["row"]
        if before and row["id"] != before["id"]:
            before = {}
        verdict = entry["part"]
        if verdict == REJECTED:
            verdict = f"rejected by {row['rejected_by']} ({row['rejected_value']})"
        lines.append(f"{entry['stage']}: {verdict}  [{entry['shard']}]")
        for column, value in row.items():
            if column in ("text", "rejected_by", "rejected_value") or value is None or before.get(column) == value:
                continue
            shown = f"{value:.4g}" if isinstance(value, float) else value
            lines.append(f"    {column}: {shown}")
        text = row["text"]
        if before.get("text") != text:
            lines.append(f"    text ({len(text)} characters):")
            lines += [f"    | {line}" for line in text[:characters].splitlines()]
            if len(text) > characters:
                lines.append("    | ...")
        before = row
    return "\n".join(lines)


def stage_digests(workspace: Path, files: bool) -> dict[str, Any]:
    """Digest of each stage's files as they lie on the disk; with `files`, of each of them.

    The report is left out: it tells times, and is another one each time.
    """
    digests: dict[str, Any] = {}
    for stage, _ in _recorded(workspace):
        if stage == "report":
            continue
        recorded: Any = read_json(workspace / stage / RECORD)["files"]
        each = {path: file_digest(workspace / stage / path) for path in sorted(recorded)}
        digests[stage] = each if files else value_digest(each)
    return digests
