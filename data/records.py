"""A stage's record (`stage.json`) and what it is for: to know what is up to date, what is stale and why.

The record holds the stage's configuration and its digest, the digests of its inputs' records, every file with its
digest, the counts, and under `run` what may differ between two runs that give the same corpus (seconds, host, workers,
versions of the libraries). `record_digest` leaves `run` out.
"""

from __future__ import annotations

import dataclasses
import platform
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from data.shards import read_json, value_digest
from data.stage import MARKERS, RECORD, Context, Counts, Done, Stage, add_counts, load_marker

if TYPE_CHECKING:
    from data.config import CorpusConfig

VOLATILE = ("run",)
LIBRARIES = (
    "polars", "pyarrow", "numba", "numpy", "lxml", "resiliparse", "opencc", "ftfy", "datatrove", "tokenizers"
)  # fmt: skip


def plain(value: object) -> object:
    """A configuration as JSON values: what YAML and JSON can hold, and what reads back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def record_digest(record: dict[str, object]) -> str:
    """Digest of a record without what may differ between runs of the same corpus."""
    return value_digest({key: value for key, value in record.items() if key not in VOLATILE})


def read_record(workspace: Path, stage: str) -> dict[str, object] | None:
    """The record of a finished stage, or None."""
    path = workspace / stage / RECORD
    return read_json(path) if path.exists() else None


def input_digests(workspace: Path, stage: Stage) -> dict[str, str]:
    """Digest of the record of each stage that this one reads; of an optional one, if it is there and not stale.

    FileNotFoundError or ValueError naming the stage to run first, if one is not there or stale.
    """
    digests = {}
    for folder in stage.reads + stage.optional:
        name = folder.partition("/")[0]
        record = read_record(workspace, name)
        stale = stale_before(workspace, name)
        if record is not None and stale is None:
            digests[name] = record_digest(record)
        elif folder in stage.reads and stale is not None:
            raise ValueError(
                f"{stage.name} rests on {stale[0]}, which was made before {stale[1]} changed: run "
                f"`python -m data {stale[0]}` and the stages behind it first, or `python -m data run`"
            )
        elif folder in stage.reads:
            raise FileNotFoundError(
                f"{stage.name} reads {workspace / folder}, which is not there: run `python -m data {name}` first"
            )
    return digests


def stale_before(workspace: Path, stage: str) -> tuple[str, str] | None:
    """A finished stage, this one or one that it rests on, and an input of it that is another now; None if all stand.

    What is no longer there is taken to stand, so that a finished stage's input may be removed.
    """
    inputs = (read_record(workspace, stage) or {}).get("inputs", {})
    assert isinstance(inputs, dict)
    for name, digest in inputs.items():
        before = read_record(workspace, name)
        if before is not None:
            if record_digest(before) != digest:
                return stage, name
            if (deeper := stale_before(workspace, name)) is not None:
                return deeper
    return None


def identity(
    stage: Stage, config: CorpusConfig, inputs: dict[str, str], limit: int | None, extra: dict[str, str]
) -> dict[str, object]:
    """All that the output of a stage depends on; its digest is the stage's key."""
    settings = plain(stage.settings(config))
    return {
        "stage": stage.name,
        "version": stage.version,
        "config": settings,
        "config_digest": value_digest(settings),
        "inputs": inputs | extra,
        "limit": limit,
    }


def differences(old: dict[str, object], new: dict[str, object]) -> list[str]:
    """What changed between two identities, in words, for the line that says why a stage is rebuilt."""
    before, after = dict(_flat("", old)), dict(_flat("", new))
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    said = []
    for name in names:
        if name.startswith("inputs."):
            said.append(f"{name.removeprefix('inputs.')} changed")
        elif name.startswith("config."):
            said.append(f"{name.removeprefix('config.')}: {before.get(name)!r} -> {after.get(name)!r}")
        elif name != "config_digest":
            said.append(f"{name}: {before.get(name)!r} -> {after.get(name)!r}")
    return said


def _flat(prefix: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict) and value:
        return [pair for key, item in value.items() for pair in _flat(f"{prefix}{key}.", item)]
    return [(prefix.rstrip("."), value)]


def gather(context: Context) -> Done:
    """Add up the markers of all tasks of a stage, in the order of their names."""
    markers = sorted((context.folder / MARKERS).glob("*/*.json"))
    loaded = [marker for marker in map(load_marker, markers) if marker is not None]
    done = [item for item, _ in loaded]
    return Done(
        files={name: file for item in done for name, file in sorted(item.files.items())},
        counts=add_counts(item.counts for item in done),
        problems=[problem for item in done for problem in item.problems],
        facts={name: fact for item in done for name, fact in item.facts.items()},
    )


def make_record(identity: dict[str, object], done: Done, run: dict[str, object]) -> dict[str, object]:
    """The content of `stage.json`."""
    return {
        **identity,
        "counts": done.counts,
        "problems": done.problems,
        "facts": done.facts,
        "bytes": sum(file.file_bytes for file in done.files.values()),
        "files": {name: file.to_dict() for name, file in sorted(done.files.items())},
        "run": run,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape a corpus."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        if library in sys.modules or library in ("polars", "pyarrow"):
            found[library] = metadata.version(library)
    return found


def host() -> str:
    return socket.gethostname()


def documents(counts: Counts, name: str) -> int:
    """Documents under a name of a stage's counts; 0 where there is none."""
    part = counts.get(name, {})
    value = part.get("documents", 0) if isinstance(part, dict) else 0
    return value if isinstance(value, int) else 0
