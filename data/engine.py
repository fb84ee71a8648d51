"""The engine: runs stages in the order of what they read, skips what is up to date, resumes what was cut short.

A stage's key is the digest of all that its output depends on: its part of the configuration, its inputs' records, its
version. A finished stage whose record has this key is skipped. A begun one with this key goes on with the tasks that
have no marker. Anything else in its folder is stale: the line says why, and the folder is emptied before it begins.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from data.pipeline import ExecutorName, run_tasks
from data.progress import show_progress
from data.records import (
    differences,
    documents,
    gather,
    host,
    identity,
    input_digests,
    make_record,
    read_record,
    versions,
)
from data.shards import TEMPORARY, file_digest, read_json, remove_temporaries, value_digest, write_json
from data.stage import KEY, MARKERS, RECORD, WORK, Context, Phase, Stage, load_marker

if TYPE_CHECKING:
    from data.config import CorpusConfig


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how to run; nothing here but `limit` and `tokenizer` changes what comes out."""

    workspace: Path
    executor: ExecutorName = "local"
    workers: int = 1
    limit: int | None = None
    tokenizer: Path | None = None


def run_stages(stages: Sequence[Stage], config: CorpusConfig, options: RunOptions) -> dict[str, object]:
    """Run `stages` one after another; returns each stage's counts and seconds."""
    if options.workers < 1:
        raise ValueError(f"--workers is {options.workers}: expected at least 1")
    options.workspace.mkdir(parents=True, exist_ok=True)
    figures: dict[str, object] = {}
    with workspace_lock(options.workspace):
        for number, stage in enumerate(stages):
            # a limit belongs to the first stage: those after it read what it let through
            figures[stage.name] = run_stage(stage, config, options, options.limit if number == 0 else None)
    return figures


def run_stage(stage: Stage, config: CorpusConfig, options: RunOptions, limit: int | None) -> dict[str, object]:
    """Bring one stage up to date; returns its counts and seconds."""
    workspace = options.workspace
    extra = stage.fingerprint(config, options.tokenizer)
    inputs = input_digests(workspace, stage)
    wanted = identity(stage, config, inputs, limit, extra)
    key = value_digest(wanted)
    record = read_record(workspace, stage.name)
    if record is not None and _same(record, wanted) and _files_stand(workspace / stage.name, record):
        say(f"{stage.name}: up to date, skipped")
        _clear(workspace / stage.name)  # a kill right behind the record left it
        return _figures(record, skipped=True)
    context = Context(
        workspace=workspace,
        stage=stage.name,
        reads=stage.reads + tuple(f for f in stage.optional if f.partition("/")[0] in inputs),
        config=config,
        key=key,
        limit=limit,
        tokenizer=options.tokenizer,
    )
    _check_documents(context)
    _claim(context, wanted, record)
    _check_disk(stage, context, config)
    started = time.perf_counter()
    small = options.executor == "local" and _bytes_read(stage, context) < config.engine.spread_mb * 1e6
    workers = 1 if small else options.workers
    for index, phase in enumerate(stage.phases):
        _run_phase(context, phase, index, config, options.executor, workers)
    done = gather(context)
    run = {
        "seconds": round(time.perf_counter() - started, 3),
        "task_seconds": round(_task_seconds(context), 3),
        "host": host(),
        "executor": options.executor,
        "workers": options.workers,
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    finished = make_record(wanted, done, run)
    _check_counts(stage, context, finished)
    write_json(context.folder / RECORD, finished)
    _clear(context.folder)
    _say_done(stage, finished)
    return _figures(finished, skipped=False)


def _run_phase(
    context: Context, phase: Phase, index: int, config: CorpusConfig, executor: ExecutorName, workers: int
) -> None:
    """Do the tasks of a phase that have no sound marker yet."""
    tasks = phase.tasks(context)
    left = [task for task in tasks if not _is_done(context, phase, task)]
    if 0 < len(left) < len(tasks):
        say(f"{context.stage} {phase.name}: going on, {len(tasks) - len(left)} of {len(tasks)} tasks are done")
    sizes = {task: phase.size(context, task) for task in tasks}
    name = context.stage if phase.name == context.stage else f"{context.stage} {phase.name}"
    if left:
        with show_progress(name, context.marker(phase.name, "x").parent, sizes):
            run_tasks(context, phase, index, left, executor, workers, config.engine)


def _is_done(context: Context, phase: Phase, task: str) -> bool:
    """Whether a task's marker is there and the files it names are those that it wrote."""
    loaded = load_marker(context.marker(phase.name, task))
    if loaded is None:
        return False
    for name, file in loaded[0].files.items():
        path = context.folder / name
        if not path.exists() or path.stat().st_size != file.file_bytes or file_digest(path) != file.digest:
            return False
    return True


def _same(record: dict[str, object], wanted: dict[str, object]) -> bool:
    return all(record.get(name) == value for name, value in wanted.items())


def _files_stand(folder: Path, record: dict[str, object]) -> bool:
    """Whether every file of a record is on the disk at its size (resuming after a crash compares digests as well)."""
    files = record["files"]
    assert isinstance(files, dict)
    for name, file in files.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != file["file_bytes"]:
            say(f"{folder.name}: {path} is missing or cut short")
            return False
    return True


def _claim(context: Context, wanted: dict[str, object], record: dict[str, object] | None) -> None:
    """Make the stage's folder this run's own: go on in it if it has our key, empty it if it is stale."""
    folder, keyfile = context.folder, context.folder / MARKERS / KEY
    begun = read_json(keyfile) if keyfile.exists() else None
    if begun is not None and begun.get("key") == context.key and record is None:
        say(f"{context.stage}: begun before, going on")
        remove_temporaries(folder)
        return
    if folder.exists():
        if record is None and begun is None and _holds_files(folder):
            raise ValueError(
                f"{folder} holds files that no stage has recorded; remove it, or choose another --workspace"
            )
        old = record or begun
        if old is not None:
            changed = differences({name: old.get(name) for name in wanted}, wanted)
            say(f"{context.stage}: stale ({'; '.join(changed[:4]) or 'files are missing'}), rebuilt")
        _empty(folder)
    write_json(keyfile, wanted | {"key": context.key})


def _holds_files(folder: Path) -> bool:
    """Whether a folder holds a whole file: a kill before its first key was written leaves folders and half a file."""
    return any(path.is_file() and path.suffix != TEMPORARY for path in folder.rglob("*"))


def _empty(folder: Path) -> None:
    """Empty a stage's folder, its record first; the sign that it is ours stays: a kill on the way changes nothing."""
    write_json(folder / MARKERS / KEY, {"key": "emptied"})
    (folder / RECORD).unlink(missing_ok=True)
    for child in (*sorted(folder.iterdir()), *sorted((folder / MARKERS).iterdir())):
        if child not in (folder / MARKERS, folder / MARKERS / KEY):
            shutil.rmtree(child) if child.is_dir() else child.unlink()


def _clear(folder: Path) -> None:
    """Remove what a finished stage needed on the way."""
    for name in (WORK, MARKERS):
        shutil.rmtree(folder / name, ignore_errors=True)


def _check_documents(context: Context) -> None:
    """ValueError if the stages before left no document, saying which rules took them."""
    before = read_record(context.workspace, context.reads[0].partition("/")[0]) if context.reads else None
    counts = before["counts"] if before is not None else {}
    assert isinstance(counts, dict)
    if "kept" in counts and documents(counts, "kept") == 0:
        assert before is not None
        rules = sorted(counts.get("rejected_by", {}).items(), key=lambda rule: -rule[1]["documents"])[:3]
        said = ", ".join(f"{part['documents']} by {rule}" for rule, part in rules)
        raise ValueError(f"{context.stage} has nothing to read: {before['stage']} rejected every document ({said})")


def _bytes_read(stage: Stage, context: Context) -> int:
    """Bytes on disk that the stage reads, by its first phase's tasks."""
    phase = stage.phases[0]
    return sum(phase.size(context, task) for task in phase.tasks(context))


def _check_disk(stage: Stage, context: Context, config: CorpusConfig) -> None:
    """OSError before the stage begins if the disk would be too small for what it is expected to write."""
    read = _bytes_read(stage, context)
    written = sum(path.stat().st_size for path in context.folder.rglob("*.parquet"))
    needed = max(0, int(read * stage.growth) - written) + config.engine.disk_reserve_mb * 1_000_000
    free = shutil.disk_usage(context.workspace).free
    if free < needed:
        raise OSError(
            f"{stage.name} is expected to write {human(int(read * stage.growth))} below {context.workspace} and leave "
            f"{config.engine.disk_reserve_mb} MB (engine.disk_reserve_mb), but only {human(free)} are free: make room, "
            "or choose another --workspace"
        )


def _check_counts(stage: Stage, context: Context, record: dict[str, object]) -> None:
    """RuntimeError if the stage lost or doubled a document: what it read is what it kept and rejected."""
    counts = record["counts"]
    assert isinstance(counts, dict)
    read, kept, rejected = (documents(counts, name) for name in ("read", "kept", "rejected"))
    if stage.adds_up and read != kept + rejected:
        raise RuntimeError(f"{stage.name}: read {read} documents, kept {kept} and rejected {rejected}")
    if stage.adds_up and stage.reads and context.limit is None:
        before = read_record(context.workspace, stage.reads[0].partition("/")[0])
        given = documents(before["counts"], "kept") if before else 0  # type: ignore[arg-type]
        if read != given:
            raise RuntimeError(f"{stage.name}: read {read} documents where {stage.reads[0]} holds {given}")


def _task_seconds(context: Context) -> float:
    loaded = (load_marker(path) for path in (context.folder / MARKERS).glob("*/*.json"))
    return sum(marker[1] for marker in loaded if marker is not None)


def _figures(record: dict[str, object], skipped: bool) -> dict[str, object]:
    run = record["run"]
    assert isinstance(run, dict)
    problems = record["problems"]
    assert isinstance(problems, list)
    return {"counts": record["counts"], "problems": len(problems), "seconds": run["seconds"], "skipped": skipped}


def _say_done(stage: Stage, record: dict[str, object]) -> None:
    counts, run, problems = record["counts"], record["run"], record["problems"]
    assert isinstance(counts, dict)
    assert isinstance(run, dict)
    assert isinstance(problems, list)
    parts = [f"{documents(counts, name):,} {name}" for name in ("read", "kept", "rejected") if name in counts]
    parts += [f"{documents(counts, name):,} {name}" for name in ("train", "validation") if name in counts]
    tokens = counts.get("tokens")
    if isinstance(tokens, dict):
        parts += [f"{part['tokens']:,} tokens to {name}" for name, part in sorted(tokens.get("all", {}).items())]
    say(f"{stage.name}: {', '.join(parts) or 'done'} ({run['seconds']:.1f} s)")
    facts, settings = record["facts"], record["config"]
    assert isinstance(facts, dict)
    if "s_curve" in facts and isinstance(settings, dict) and settings["near"]:
        say(f"  {curve_line(settings['minhash']['bands'], settings['minhash']['rows'])}")
    for line in facts.get("alarms", []):
        say(f"  alarm: {line}")
    for problem in problems[:10]:
        say(f"  {problem['file']}: {problem['reason']}: {problem['detail']}")
    if len(problems) > 10:
        say(f"  ... and {len(problems) - 10} more in the record")


def curve_line(bands: int, rows: int) -> str:
    """What an S-curve comes to: the Jaccard at which half of the pairs are caught, and the shares caught at three."""
    from data.minhash import catch_probability

    half = (1 - 0.5 ** (1 / bands)) ** (1 / rows)
    shares = ", ".join(f"{catch_probability(jaccard, bands, rows):.0%} at {jaccard}" for jaccard in (0.4, 0.6, 0.8))
    return f"S-curve: half of the pairs become candidates at J {half:.2f}; {shares}"


@contextmanager
def workspace_lock(workspace: Path) -> Iterator[None]:
    """Hold the workspace for this process. OSError if another run holds it; a killed run's lock is gone with it."""
    with open(workspace / ".lock", "a+", encoding="utf-8") as file:
        _lock(file, workspace)
        yield


def _lock(file: IO[str], workspace: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise OSError(f"{workspace} is in use by another run (process {file.read().strip() or 'unknown'})") from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()


def human(size: int) -> str:
    """Bytes as a person reads them."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
