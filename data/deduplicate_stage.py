"""The phases of deduplication for the engine: what each task reads and writes of `copies.py` and `repeated_lines.py`.

Documents that lost lines have their signals computed again and are judged by the filter again: a page that was
navigation and little else leaves here, as `filter.<rule>`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from data.annotate import annotate
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
from data.copies_index import describe_index, index_digest, read_index, take_index, write_index_shard
from data.filter import filter_documents
from data.minhash import describe
from data.partitions import parts
from data.repeated_lines import count_lines, join_lines, remove_lines, shard_repeated
from data.schema import KEPT, REJECTED
from data.shards import ShardFile, file_digest, read_json, read_shard
from data.stage import RECORD, Context, Done, Phase, Stage, document_counts, one_task, shard_size, shard_tasks
from data.verify import sample_pairs

if TYPE_CHECKING:
    from data.config import CorpusConfig

INDEXED = "index"
"""Folder of this corpus's own index."""
PAIRS = "pairs"
"""Folder of the pairs on either side of the line that the report shows."""


def collection_of(context: Context) -> Collection:
    """The collection that this stage works on, its documents numbered in the order of the input's shards."""
    stage, _, part = context.reads[0].partition("/")
    files = read_json(context.workspace / stage / RECORD)["files"]
    assert isinstance(files, dict)
    # with a limit fewer documents are read than these; numbers need only be unique and in order
    counts = [files[f"{part}/{shard}"]["documents"] for shard in context.shards()]
    config = context.config.deduplicate
    indexed = [count for name in config.index for count in read_index(Path(name), config)]
    firsts = number_documents(counts + indexed)
    return Collection(work=context.work, firsts=firsts, config=config, indexed_shards=len(indexed))


def _shard(context: Context, task: str) -> tuple[int, str]:
    name = f"{task}.parquet"
    return context.shards().index(name), name


def _digest(context: Context, task: str) -> Done:
    shard, name = _shard(context, task)
    digest_shard(collection_of(context), shard, context.read(name))
    return Done()


def _take_index(context: Context, task: str) -> Done:  # noqa: ARG001
    take_index(collection_of(context))
    return Done()


def _index_tasks(context: Context) -> list[str]:
    return one_task(context) if context.config.deduplicate.index else []


def _join_exact(context: Context, task: str) -> Done:  # noqa: ARG001
    return Done(counts={"exact": join_exact(collection_of(context))})


def _sign(context: Context, task: str) -> Done:
    shard, name = _shard(context, task)
    sign_shard(collection_of(context), shard, context.read(name))
    return Done()


def _join_bands(context: Context, task: str) -> Done:  # noqa: ARG001
    shape = context.config.deduplicate.minhash
    return Done(
        counts={"candidates": join_bands(collection_of(context))}, facts={"s_curve": describe(shape.bands, shape.rows)}
    )


def _candidate_parts(context: Context) -> list[str]:
    return [path.stem for path in parts(context.work / "candidates")]


def _verify(context: Context, task: str) -> Done:
    return Done(counts={"verified": dict(verify_part(collection_of(context), int(task)))})


def _join_pairs(context: Context, task: str) -> Done:  # noqa: ARG001
    collection = collection_of(context)
    join_pairs(collection)
    pairs = sample_pairs(parts(context.work / "verified"), parts(context.work / "documents"))
    return Done(files=context.write(PAIRS, "pairs.parquet", pairs))


def _line_tasks(context: Context) -> list[str]:
    return shard_tasks(context) if context.config.deduplicate.lines.enabled else []


def _repeated_tasks(context: Context) -> list[str]:
    return one_task(context) if context.config.deduplicate.lines.enabled else []


def _count_lines(context: Context, task: str) -> Done:
    shard, name = _shard(context, task)
    table = context.read(name, ["id", "host", "text"])
    kept, _ = decide(collection_of(context), shard, table)
    count_lines(kept, context.work, shard)
    return Done()


def _join_lines(context: Context, task: str) -> Done:  # noqa: ARG001
    config = context.config.deduplicate
    return Done(counts={"repeated_lines": join_lines(context.work, config.lines, config.memory_mb)})


def _apply(context: Context, task: str) -> Done:
    shard, name = _shard(context, task)
    table = context.read(name)
    config = context.config.deduplicate
    kept, rejected = decide(collection_of(context), shard, table)
    rejected = rejected.with_columns(pl.lit(0, pl.Int32).alias("lines_removed"))
    repeated = shard_repeated(context.work, shard) if config.lines.enabled else np.zeros(0, np.uint64)
    kept = remove_lines(kept, repeated, config.lines)
    lines = int(kept["lines_removed"].sum())
    kept, refused = judge_again(context, kept)
    rejected = pl.concat([rejected, refused], how="diagonal_relaxed").select(rejected.columns)
    counts = document_counts(table, kept, rejected)
    files: dict[str, ShardFile] = {}
    files |= context.write(KEPT, name, kept)
    files |= context.write(REJECTED, name, rejected)
    sizes = kept["cluster_size"].value_counts().sort("cluster_size").rows()
    return Done(
        files=files, counts={**counts, "lines_removed": lines, "cluster_sizes": {str(size): n for size, n in sizes}}
    )


def _write_index(context: Context, task: str) -> Done:
    shard, name = _shard(context, task)
    survivors = read_shard(context.folder / KEPT / name, ["id"])["id"]
    written = write_index_shard(collection_of(context), shard, survivors, context.folder / INDEXED)
    return Done(files={str(path.relative_to(context.folder)): _described(path) for path in written})


def _describe_index(context: Context, task: str) -> Done:  # noqa: ARG001
    path = describe_index(collection_of(context), context.folder / INDEXED)
    return Done(files={str(path.relative_to(context.folder)): _described(path)})


def _described(path: Path) -> ShardFile:
    return ShardFile(documents=0, text_bytes=0, file_bytes=path.stat().st_size, digest=file_digest(path))


def _kept_index_tasks(context: Context) -> list[str]:
    return shard_tasks(context) if context.config.deduplicate.keep_index else []


def _kept_index(context: Context) -> list[str]:
    return one_task(context) if context.config.deduplicate.keep_index else []


def _fingerprint(config: CorpusConfig, tokenizer: Path | None) -> dict[str, str]:  # noqa: ARG001
    """Digests of the indexes that are compared with."""
    return {f"index {name}": index_digest(Path(name)) for name in config.deduplicate.index}


def judge_again(context: Context, table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Signals of the documents that lost lines computed again, and the documents judged by the filter again."""
    changed = pl.col("lines_removed") > 0
    again = table.filter(changed)
    if again.is_empty():
        return table, again.with_columns(
            pl.lit(None, pl.String).alias("rejected_by"), pl.lit(None, pl.String).alias("rejected_value")
        )
    order = table.columns
    kept, rejected = filter_documents(annotate(again, context.config.annotate), context.config.filter)
    numbered = table.select("id").with_row_index("place")
    whole = pl.concat([table.filter(~changed), kept.select(order)], how="vertical_relaxed")
    whole = whole.join(numbered, on="id", how="left").sort("place").drop("place")
    return whole, rejected.select(*order, "rejected_by", "rejected_value")


PHASES = (
    Phase(name="digest", tasks=shard_tasks, run=_digest, size=shard_size),
    Phase(name="index", tasks=_index_tasks, run=_take_index),
    Phase(name="exact", tasks=one_task, run=_join_exact),
    Phase(name="sign", tasks=shard_tasks, run=_sign, size=shard_size),
    Phase(name="bands", tasks=one_task, run=_join_bands),
    Phase(name="verify", tasks=_candidate_parts, run=_verify),
    Phase(name="clusters", tasks=one_task, run=_join_pairs),
    Phase(name="lines", tasks=_line_tasks, run=_count_lines, size=shard_size),
    Phase(name="repeated", tasks=_repeated_tasks, run=_join_lines),
    Phase(name="apply", tasks=shard_tasks, run=_apply, size=shard_size),
    Phase(name="write_index", tasks=_kept_index_tasks, run=_write_index),
    Phase(name="index_written", tasks=_kept_index, run=_describe_index),
)

DEDUPLICATE = Stage(
    name="deduplicate",
    version=5,
    reads=("filter/kept",),
    writes=(KEPT, REJECTED, PAIRS),
    settings=lambda config: config.deduplicate,
    phases=PHASES,
    growth=3.0,
    fingerprint=_fingerprint,
)
"""Deduplication. Between its phases it needs disk for units (about the text's size) and bands (16 bytes each)."""
