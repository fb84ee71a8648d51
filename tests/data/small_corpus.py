"""A small bilingual corpus for the engine's tests: pages in a WARC and documents in JSONL, some of them copies."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from data.config import CorpusConfig
from data.decontaminate import DecontaminateConfig
from data.engine import RunOptions, run_stages
from data.ingest import IngestConfig
from data.inspect import stage_digests
from data.mix import MixConfig
from data.pipeline import EngineConfig
from data.shards import read_json
from data.sources import SourceConfig
from data.stages import in_order

MANIFEST = Path(__file__).parents[2] / "samples" / "manifest.jsonl"
STAGES = ("ingest", "annotate", "filter", "deduplicate", "redact", "decontaminate", "mix")


@cache
def articles() -> list[str]:
    """The sample pages' article texts that are kept, in the order of the manifest."""
    rows = [json.loads(line) for line in MANIFEST.read_text(encoding="utf-8").splitlines()]
    return [row["body"] for row in rows if row["fate"] == "kept" and row["kind"] == "article"]


def document(number: int) -> str:
    """Document `number`: one article's first half and another's second, so that no two numbers are near copies."""
    texts = articles()
    first, second = texts[number % len(texts)], texts[(number * 7 + number // len(texts)) % len(texts)]
    return f"{first[: len(first) // 2]}\n\n{second[len(second) // 2 :]}"


def write_inputs(folder: Path, documents: int = 40) -> Path:
    """JSONL in two files and a WARC of ten pages; every eighth document is a copy of the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, first in (("a", 0), ("b", documents)):
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for number in range(first, first + documents):
                text = document(number - 1 if number % 8 == 7 else number)
                file.write(json.dumps({"id": f"d{number}", "text": text}, ensure_ascii=False) + "\n")
    with open(folder / "pages.warc.gz", "wb") as file:
        for number in range(1000, 1010):
            paragraphs = "".join(f"<p>{part}</p>" for part in document(number).split("\n\n"))
            body = f"<html><body><article><h1>{number}</h1>{paragraphs}</article></body></html>".encode()
            http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
            head = (
                f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
                f"WARC-Target-URI: https://example.com/{number}\r\nContent-Length: {len(http)}\r\n\r\n"
            )
            file.write(gzip.compress(head.encode() + http + b"\r\n\r\n", mtime=0))
    return folder


def examination(folder: Path) -> DecontaminateConfig:
    """Decontamination against a set of two items, written below `folder`, that documents of the inputs hold."""
    folder.mkdir(parents=True, exist_ok=True)
    exam = folder / "exam.jsonl"
    exam.write_text("".join(json.dumps({"q": articles()[number][40:140]}) + "\n" for number in (3, 9)))
    return DecontaminateConfig(against=(str(exam),), shortest_rest=1)


def configuration(inputs: Path, **changes: Any) -> CorpusConfig:
    """Everything small, so that there are several shards: about six of ingest, three of the mix."""
    settings: dict[str, Any] = {
        "sources": [SourceConfig(path=str(inputs))],
        "ingest": IngestConfig(shard_mb=0.03, pack_mb=0.02, split_mb=0.06),
        "mix": MixConfig(shard_mb=0.05, validation_share=0.1),
        "engine": EngineConfig(disk_reserve_mb=0, spread_mb=0),
    }
    return CorpusConfig(**(settings | changes))


def run(config: CorpusConfig, workspace: Path, *names: str, **options: Any) -> dict[str, Any]:
    """Run stages (all up to the mix, if none is named); returns the figures."""
    chosen = [stage for stage in in_order() if stage.name in (names or STAGES)]
    return run_stages(chosen, config, RunOptions(workspace=workspace, **options))


def digests(workspace: Path) -> dict[str, Any]:
    """Digest of every file of every stage."""
    return stage_digests(workspace, files=True)


def record(workspace: Path, stage: str) -> Any:
    return read_json(workspace / stage / "stage.json")
