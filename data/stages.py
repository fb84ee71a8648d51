"""All stages, and the order that follows from what they read. Nothing else says what comes after what.

Stage bodies are imported where a task runs, so that a command that needs one stage does not load the others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from data import ingest, mix
from data.records import gather, read_record
from data.schema import KEPT, REJECTED, TRAIN, VALIDATION
from data.shards import ShardFile, file_digest
from data.stage import (
    Context,
    Counts,
    Done,
    Phase,
    Stage,
    add_counts,
    one_task,
    shard_size,
    shard_tasks,
    share_of,
    table_stage_task,
    tally_by,
)

if TYPE_CHECKING:
    from data.config import CorpusConfig


def _annotate(context: Context, task: str) -> Done:
    from data.annotate import annotate

    return table_stage_task(context, task, lambda table: (annotate(table, context.config.annotate), None))


def _annotate_fingerprint(config: CorpusConfig, tokenizer: Path | None) -> dict[str, str]:  # noqa: ARG001
    """Digests of the user's lists and models: a list that was edited is another annotation."""
    digests = {}
    for key, path in config.annotate.files().items():
        if not path.is_file():
            raise FileNotFoundError(f"{key}: {path}: no such file")
        digests[key] = file_digest(path)
    return digests


def _filter(context: Context, task: str) -> Done:
    from data.filter import filter_documents

    rules: Counts = {}

    def judge(table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        kept, rejected = filter_documents(table, context.config.filter)
        for language, part in rejected.group_by("language", maintain_order=True):
            rules[str(language[0])] = tally_by(part, "rejected_by")
        return kept, rejected

    done = table_stage_task(context, task, judge)
    return replace(done, counts={**done.counts, "rejected_by_language_and_rule": rules})


def _alarm(context: Context, task: str) -> Done:  # noqa: ARG001
    """Rules that take more of a language than they should: in the record, and said at once."""
    from data.filter import alarms

    counts: Any = gather(context).counts
    by_rule = {
        (language, rule): part["documents"]
        for language, rules in counts.get("rejected_by_language_and_rule", {}).items()
        for rule, part in rules.items()
    }
    read: dict[str, int] = {}
    for name in ("kept_by_language", "rejected_by_language"):
        for language, part in counts.get(name, {}).items():
            read[language] = read.get(language, 0) + part["documents"]
    return Done(facts={"alarms": alarms(read, by_rule, context.config.filter)})


def _redact(context: Context, task: str) -> Done:
    from data.redact import redact

    return table_stage_task(context, task, lambda table: (redact(table, context.config.redact), None))


def _mix_tasks(context: Context) -> list[str]:
    """A task for each shard of both sides of the mix: `train.00000`."""
    return [
        f"{part}.{name.removesuffix('.parquet')}"
        for part in (TRAIN, VALIDATION)
        for name in context.shards(f"mix/{part}")
    ]


def _mix_shard(context: Context, task: str) -> Path:
    part, _, number = task.partition(".")
    return context.workspace / "mix" / part / f"{number}.parquet"


def _mix_size(context: Context, task: str) -> int:
    return _mix_shard(context, task).stat().st_size


def _mix_text_bytes(context: Context) -> int:
    record = read_record(context.workspace, "mix")
    files = record["files"] if record is not None else {}
    assert isinstance(files, dict)
    return sum(int(file["text_bytes"]) for file in files.values())


def _tokenize(context: Context, task: str) -> Done:
    """Token shards of one shard of the mix."""
    from data.tokenize import cached_tokenizer, encode_shard

    assert context.tokenizer is not None
    part, _, _ = task.partition(".")
    tasks = _mix_tasks(context)
    limit = None if context.limit is None else share_of(context.limit, tasks.index(task), len(tasks))
    output = context.folder / part
    tokenizer = cached_tokenizer(context.tokenizer)
    share = _mix_text_bytes(context) // min(len(tasks), os.cpu_count() or 1)
    encoded = encode_shard(_mix_shard(context, task), tokenizer, output, context.config.tokenize, limit, share)
    files: dict[str, ShardFile] = {}
    counts: Counts = {}
    for prefix, given in encoded.files.items():
        for suffix in (".bin", ".idx"):
            path = output / f"{prefix}{suffix}"
            files[f"{part}/{prefix}{suffix}"] = ShardFile(
                documents=given.documents,
                text_bytes=given.text_bytes,
                file_bytes=path.stat().st_size,
                digest=file_digest(path),
            )
        group: Counts = {"documents": given.documents, "tokens": given.tokens, "bytes": given.text_bytes}
        counts = add_counts([counts, {"all": {part: dict(group)}, part: {prefix.partition("/")[0]: group}}])
    return Done(
        files=files,
        counts={"tokens": counts},
        facts={"tokenizer_digest": tokenizer.digest, "vocab_size": tokenizer.vocab_size},
    )


def tokenizer_fingerprint(config: CorpusConfig, tokenizer: Path | None) -> dict[str, str]:  # noqa: ARG001
    """Digest of the tokenizer's files. ValueError without a tokenizer."""
    if tokenizer is None:
        raise ValueError("tokenize: no tokenizer is given: --tokenizer DIR (made by `python -m tokenizer train`)")
    files = sorted(path for path in tokenizer.glob("*") if path.is_file()) if tokenizer.is_dir() else []
    if not files:
        raise FileNotFoundError(f"--tokenizer {tokenizer}: there is no tokenizer in this folder")
    from tokenizer.load import load_tokenizer

    return {"tokenizer": load_tokenizer(tokenizer).digest}


def _report(context: Context, task: str) -> Done:  # noqa: ARG001
    from data.report import write_report

    path = write_report(context.workspace, context.config.report)
    file = ShardFile(documents=0, text_bytes=0, file_bytes=path.stat().st_size, digest=file_digest(path))
    return Done(files={f"../{path.name}": file})  # beside the stages, where a person looks first


ANNOTATE = Stage(
    name="annotate",
    version=3,
    reads=(f"ingest/{KEPT}",),
    writes=(KEPT,),
    settings=lambda config: config.annotate,
    phases=(Phase(name="annotate", tasks=shard_tasks, run=_annotate, size=shard_size),),
    growth=1.3,
    fingerprint=_annotate_fingerprint,
)
INGEST = Stage(
    name="ingest",
    version=3,
    reads=(),
    writes=(KEPT, REJECTED),
    settings=ingest.settings,
    phases=ingest.PHASES,
    growth=1.5,
    fingerprint=ingest.fingerprint,
)
FILTER = Stage(
    name="filter",
    reads=(f"annotate/{KEPT}",),
    writes=(KEPT, REJECTED),
    settings=lambda config: config.filter.complete(),
    phases=(
        Phase(name="filter", tasks=shard_tasks, run=_filter, size=shard_size),
        Phase(name="alarm", tasks=one_task, run=_alarm),
    ),
)
REDACT = Stage(
    name="redact",
    version=3,
    reads=(f"deduplicate/{KEPT}",),
    writes=(KEPT,),
    settings=lambda config: config.redact,
    phases=(Phase(name="redact", tasks=shard_tasks, run=_redact, size=shard_size),),
)
MIX = Stage(
    name="mix",
    version=4,
    reads=(f"decontaminate/{KEPT}",),
    writes=(TRAIN, VALIDATION),
    settings=mix.settings,
    phases=mix.PHASES,
    fingerprint=mix.fingerprint,
    growth=3.0,
    adds_up=False,
)
TOKENIZE = Stage(
    name="tokenize",
    reads=(f"mix/{TRAIN}", f"mix/{VALIDATION}"),
    writes=(TRAIN, VALIDATION),
    settings=lambda config: {},  # noqa: ARG005 - nothing in TokenizeConfig changes the ids
    phases=(Phase(name="tokenize", tasks=_mix_tasks, run=_tokenize, size=_mix_size),),
    fingerprint=tokenizer_fingerprint,
    growth=2.0,
    adds_up=False,
)
REPORT = Stage(
    name="report",
    version=2,
    reads=(
        *(f"{n}/{KEPT}" for n in ("ingest", "annotate", "filter", "deduplicate", "redact", "decontaminate")),
        f"mix/{TRAIN}",
    ),
    optional=(f"tokenize/{TRAIN}",),
    writes=(),
    settings=lambda config: config.report,
    phases=(Phase(name="report", tasks=one_task, run=_report),),
    growth=0.0,
    adds_up=False,
)


def declared() -> list[Stage]:
    """All stages, in no order."""
    from data.decontaminate_stage import DECONTAMINATE
    from data.deduplicate_stage import DEDUPLICATE

    return [ANNOTATE, INGEST, FILTER, DEDUPLICATE, REDACT, DECONTAMINATE, MIX, TOKENIZE, REPORT]


@cache
def in_order() -> tuple[Stage, ...]:
    """The stages, each after all that it reads."""
    return tuple(order(declared()))


def order(stages: Sequence[Stage]) -> list[Stage]:
    """Sort stages by what they read and write. RuntimeError if a folder is read that nobody writes, or in a circle."""
    left, done = list(stages), list[Stage]()
    written = {f"{stage.name}/{part}" for stage in stages for part in stage.writes}
    for stage in stages:
        for folder in stage.reads + stage.optional:
            if folder not in written:
                raise RuntimeError(f"{stage.name} reads {folder}, which no stage writes")
    while left:
        names = {stage.name for stage in left}
        free = [s for s in left if not any(f.partition("/")[0] in names for f in s.reads + s.optional)]
        if not free:
            raise RuntimeError(f"these stages read one another: {', '.join(sorted(names))}")
        done.append(free[0])
        left.remove(free[0])
    return done


def stage_named(name: str) -> Stage:
    """The stage of this name."""
    return next(stage for stage in in_order() if stage.name == name)
