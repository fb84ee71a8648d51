"""Time and peak memory of every data stage a document, as the corpus grows: flat, or the stage does not scale.

    TIANKONG_CORPUS=... python benchmarks/growth.py [--documents 25000 50000 100000] [--workers 1] [--json]

Documents are paragraphs of the corpus's `pretrain` drawn anew into texts of about 2 kB, a fifth of them copies of an
earlier one with a few characters changed. Every stage runs as a command of its own, so that its peak memory is its own;
kernels are compiled in a first run that is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import zstandard

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("ingest", "annotate", "filter", "deduplicate", "redact", "decontaminate", "mix")
COPIES = 0.2
SIZE = 2000


def paragraphs(corpus: Path, language: str) -> list[str]:
    """Paragraphs of 40 characters and more, from the first 20 MB of a language's texts."""
    found, size = [], 0
    with zstandard.open(corpus / "pretrain" / f"{language}.jsonl.zst", "rt", encoding="utf-8") as file:
        for line in file:
            text = json.loads(line)["text"]
            found += [part for part in text.split("\n") if len(part) >= 40]
            size += len(text.encode())
            if size > 20_000_000:
                break
    return found


def documents(corpus: Path, count: int) -> Iterator[str]:
    """`count` texts, Chinese and English in turn; the same every time."""
    draw = random.Random(0)
    sources = [paragraphs(corpus, language) for language in ("zh", "en")]
    recent: list[str] = []
    for number in range(count):
        if recent and draw.random() < COPIES:
            text = list(draw.choice(recent))
            for _ in range(len(text) // 100):
                text[draw.randrange(len(text))] = draw.choice(text)
            yield "".join(text)
            continue
        parts: list[str] = []
        while sum(len(part.encode()) for part in parts) < SIZE:
            parts.append(draw.choice(sources[number % 2]))
        recent = [*recent[-999:], "\n\n".join(parts)]
        yield recent[-1]


def write_input(corpus: Path, folder: Path, count: int) -> Path:
    path = folder / f"{count}.jsonl.zst"
    with zstandard.open(path, "wt", encoding="utf-8") as file:
        for number, text in enumerate(documents(corpus, count)):
            file.write(json.dumps({"id": f"d{number}", "text": text}, ensure_ascii=False) + "\n")
    return path


def run_stage(name: str, source: Path, workspace: Path, workers: int) -> tuple[float, float]:
    """(seconds, peak MB of the largest process) of one stage; seconds are the stage's own record's."""
    words = [sys.executable, "-m", "data", name, "--workspace", str(workspace), "--workers", str(workers)]
    if name == "ingest":
        words += ["--input", str(source)]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"{' '.join(words)} ended with {status}")
    record = json.loads((workspace / name / "stage.json").read_text(encoding="utf-8"))
    return float(record["run"]["seconds"]), usage.ru_maxrss / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, nargs="+", default=[25_000, 50_000, 100_000])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    corpus = Path(os.environ.get("TIANKONG_CORPUS", ROOT.parent / "shared" / "corpus"))
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in [200, *arguments.documents]:
            source, workspace = write_input(corpus, Path(folder), count), Path(folder) / f"w{count}"
            for name in STAGES:
                started = time.perf_counter()
                seconds, memory = run_stage(name, source, workspace, arguments.workers)
                if count == 200:
                    continue  # compiles the kernels
                figures.setdefault(name, {})[str(count)] = {
                    "microseconds_a_document": round(1e6 * seconds / count, 1),
                    "peak_mb": round(memory, 1),
                }
                print(
                    f"{count:>7,} {name:<14} {1e6 * seconds / count:8.1f} us a document, peak {memory:7.1f} MB "
                    f"({time.perf_counter() - started:.1f} s with starting)",
                    file=sys.stderr,
                )
    for by_count in figures.values():
        first, last = by_count[str(arguments.documents[0])], by_count[str(arguments.documents[-1])]
        ratio = last["microseconds_a_document"] / max(first["microseconds_a_document"], 0.1)
        memory = last["peak_mb"] / first["peak_mb"]
        by_count["growth"] = {"time_a_document": round(ratio, 3), "memory": round(memory, 3)}
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, by_count in figures.items():
        print(f"{name:<14} {by_count['growth']}")


if __name__ == "__main__":
    main()
