"""The phases of decontamination for the engine: the n-grams common in the corpus counted, then leaks cut."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from data.annotate import annotate
from data.decontaminate import build_index, decontaminate
from data.evaluation_sets import set_files
from data.overlap import Index, documents_holding
from data.schema import KEPT, REJECTED
from data.shards import atomic, file_digest
from data.stage import Context, Counts, Done, Phase, Stage, document_counts, one_task, shard_size, shard_tasks

if TYPE_CHECKING:
    from data.config import CorpusConfig

HITS = "hits"
"""Folder of the table of leaks."""
_indexes: dict[tuple[Path, str], Index] = {}


def _index(context: Context) -> Index:
    """The index without common n-grams, built once in a process."""
    key = (context.work, context.key)  # which holds the settings and the digests of the sets' files
    if key not in _indexes:
        index = build_index(context.config.decontaminate)
        common = context.work / "common.npy"
        _indexes.clear()
        _indexes[key] = index.without(np.load(common)) if common.exists() else index
    return _indexes[key]


def _count(context: Context, task: str) -> Done:
    index = _index(context)
    counts = documents_holding(index, context.read(f"{task}.parquet", ["text"])["text"])
    _save(context.work / "counts" / f"{task}.npy", counts)
    return Done()


def _save(path: Path, array: np.ndarray) -> None:
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())


def _choose(context: Context, task: str) -> Done:  # noqa: ARG001
    (context.work / "common.npy").unlink(missing_ok=True)
    _indexes.clear()
    index = _index(context)
    total = np.zeros(len(index.grams), np.int64)
    for name in shard_tasks(context):
        total += np.load(context.work / "counts" / f"{name}.npy")
    common = total > context.config.decontaminate.common_documents
    _save(context.work / "common.npy", common)
    _indexes.clear()
    sets = {name: index.sets.count(name) for name in sorted(set(index.sets))}
    return Done(
        facts={
            "evaluation_items": sets,
            "ngrams": len(index.grams),
            "common_ngrams_left_out": int(common.sum()),
        }
    )


def _apply(context: Context, task: str) -> Done:
    name = f"{task}.parquet"
    table = context.read(name)
    kept, rejected, hits = decontaminate(table, _index(context), context.config.decontaminate)
    changed = pl.col("spans_cut") > 0
    if kept.filter(changed).height:
        # signals describe the text as it now is
        again = annotate(kept.filter(changed), context.config.annotate).select(kept.columns)
        kept = kept.update(again, on="id", how="left", include_nulls=True)
    files = context.write(KEPT, name, kept) | context.write(REJECTED, name, rejected) | context.write(HITS, name, hits)
    counts: Counts = document_counts(table, kept, rejected)
    counts["leaks"] = {str(set_): number for set_, number in sorted(hits["set"].value_counts().rows())}
    counts["documents_cut"] = kept.filter(changed).height
    return Done(files=files, counts=counts)


def _fingerprint(config: CorpusConfig, tokenizer: Path | None) -> dict[str, str]:  # noqa: ARG001
    """Digests of the evaluation files, so that another version of a set makes the stage stale."""
    files = set_files(config.decontaminate.against)
    return {f"evaluation {name}": file_digest(path) for name, path in files.items()}


DECONTAMINATE = Stage(
    name="decontaminate",
    version=3,
    reads=("redact/kept",),
    writes=(KEPT, REJECTED, HITS),
    settings=lambda config: config.decontaminate,
    phases=(
        Phase(name="count", tasks=shard_tasks, run=_count, size=shard_size),
        Phase(name="common", tasks=one_task, run=_choose),
        Phase(name="apply", tasks=shard_tasks, run=_apply, size=shard_size),
    ),
    growth=1.2,
    fingerprint=_fingerprint,
)
"""Decontamination, after redaction."""
