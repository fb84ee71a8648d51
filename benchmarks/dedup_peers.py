"""What `benchmarks/dedup.py` sets beside this project: datatrove's four MinHash stages, and rensa."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_UNITS = re.compile(r"[\u3400-\u9fff]|[^\W_]+")
LANGUAGES = {"zh": "cmn", "en": "eng"}
"""datatrove's codes, under which it takes its own word tokenizers (jieba, spaCy)."""


def datatrove_signatures(texts: Sequence[str], language: str, folder: Path) -> None:
    """datatrove's signature stage over texts in memory: 14 x 8 hashes of word 5-grams, its defaults."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    step = MinhashDedupSignature(output_folder=str(folder), language=LANGUAGES[language])
    step.run(iter(Document(text=text, id=str(i)) for i, text in enumerate(texts)), 0, 1)


def rensa_sketches(texts: Sequence[str], number: int) -> list[Any]:
    """rensa's sketches of the same units and shingles as ours, shingled in Python as its README does."""
    from rensa import RMinHash  # type: ignore[import-untyped]

    sketches = []
    for text in texts:
        units = _UNITS.findall(text.lower())
        sketch = RMinHash(num_perm=number, seed=42)
        sketch.update([" ".join(units[i : i + 3]) for i in range(max(1, len(units) - 2))])
        sketches.append(sketch)
    return sketches


def datatrove_deduplicate(folder: Path, output: Path, language: str) -> int:
    """datatrove's four stages, Parquet to Parquet, one process; returns the documents that are left."""
    import polars as pl
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter
    from loguru import logger

    logger.disable("datatrove")
    config = MinhashConfig()
    signatures, buckets, remove = output / "signatures", output / "buckets", output / "remove"

    def run(steps: list[Any], tasks: int, name: str) -> None:
        LocalPipelineExecutor(
            pipeline=steps, tasks=tasks, workers=1, logging_dir=str(output / "logs" / name), skip_completed=False
        ).run()

    reader = ParquetReader(str(folder), text_key="text", id_key="id")
    code = LANGUAGES[language]
    run([reader, MinhashDedupSignature(output_folder=str(signatures), config=config, language=code)], 1, "signatures")
    run(
        [MinhashDedupBuckets(input_folder=str(signatures), output_folder=str(buckets), config=config)],
        config.num_buckets,
        "buckets",
    )
    run([MinhashDedupCluster(input_folder=str(buckets), output_folder=str(remove), config=config)], 1, "cluster")
    run([reader, MinhashDedupFilter(input_folder=str(remove)), ParquetWriter(str(output / "kept"))], 1, "filter")
    return pl.scan_parquet(str(output / "kept" / "*.parquet")).select(pl.len()).collect().item()
