"""Time and peak memory of every data stage a document, as the corpus grows: flat, or the stage does not scale.

    TIANKONG_CORPUS=... python benchmarks/growth.py [--documents 25000 50000 100000] [--workers 1]
        [--memory-mb 256] [--repeats 5] [--seconds 12] [--save FILE] [--before COMMAND ...] [--json]

Documents are paragraphs of the corpus's `pretrain` (60 to 300 bytes) drawn anew into texts of about 800 bytes, a fifth
of them copies of an earlier one with a few characters changed. Every stage runs as a command of its own, so that its
peak memory is its own. Times are of the processor, user and system, from one size to the next, so that what a command
takes to start is in none of them: the first is from 5,000 documents, enough for every shard, table and lazy import to
have been needed once; the kernels are compiled before.

A command takes a second to start, and that second varies by a tenth: as much as a short stage needs for thousands of
documents. So a stage is run again, from nothing, until it has run `--repeats` times or taken `--seconds`, and its
median counts. With `--save` each size's figures are kept as it ends, and a run that is begun again goes on
with the sizes that are not in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import zstandard

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("ingest", "annotate", "filter", "deduplicate", "redact", "decontaminate", "mix", "report")
COPIES = 0.2
SIZE = 800
START = 5_000
"""Documents of the run whose time is taken for starting."""

Figures = dict[str, dict[str, float]]


def paragraphs(corpus: Path, language: str) -> list[str]:
    """The different paragraphs of 60 to 300 bytes of a language's texts: short ones, so that two documents that share
    one are still far from being copies."""
    found: dict[str, None] = {}
    with zstandard.open(corpus / "pretrain" / f"{language}.jsonl.zst", "rt", encoding="utf-8") as file:
        for line in file:
            for paragraph in json.loads(line)["text"].split("\n"):
                if 60 <= len(paragraph.encode()) <= 300:
                    found[paragraph] = None
    return list(found)


def documents(corpus: Path, count: int) -> Iterator[str]:
    """`count` texts, Chinese and English in turn; the same every time, and a smaller count is a beginning of them."""
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
        text_drawn = "\n\n".join(parts)
        recent = [*recent[-999:], text_drawn]
        yield text_drawn


def write_input(corpus: Path, folder: Path, count: int) -> Path:
    path = folder / f"{count}.jsonl.zst"
    with zstandard.open(path, "wt", encoding="utf-8") as file:
        for number, text in enumerate(documents(corpus, count)):
            file.write(json.dumps({"id": f"d{number}", "text": text}, ensure_ascii=False) + "\n")
    return path


def run_stage(name: str, source: Path, workspace: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """CPU seconds of one stage's command with its workers, and the peak memory (MB) of the largest process."""
    words = [sys.executable, "-m", "data", name, "--workspace", str(workspace)]
    if name != "report":
        words += ["--workers", str(arguments.workers), "--deduplicate.memory_mb", str(arguments.memory_mb)]
    if name == "ingest":
        words += ["--input", str(source)]
    # a script that writes the resources of what it ran: what comes before it (nice, a queue) is not counted in
    meter = (
        "import json,resource,subprocess,sys; r=subprocess.run(sys.argv[2:]).returncode; "
        "u=resource.getrusage(resource.RUSAGE_CHILDREN); "
        "json.dump([r,u.ru_utime+u.ru_stime,u.ru_maxrss/1000],open(sys.argv[1],'w'))"
    )
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "usage.json"
        command = [*shlex.split(arguments.before), sys.executable, "-c", meter, str(told), *words]
        subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
        status, seconds, megabytes = json.loads(told.read_text(encoding="utf-8"))
    if status != 0:
        raise RuntimeError(f"{' '.join(words)} ended with {status}")
    return {"cpu_seconds": seconds, "peak_mb": megabytes}


def repeat_stage(name: str, source: Path, workspace: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """The median of a stage's runs, each from nothing; `spread` is the widest distance from it in CPU seconds."""
    runs: list[dict[str, float]] = []
    while len(runs) < arguments.repeats and sum(run["cpu_seconds"] for run in runs) < arguments.seconds:
        shutil.rmtree(workspace / name, ignore_errors=True)
        runs.append(run_stage(name, source, workspace, arguments))
    seconds = [run["cpu_seconds"] for run in runs]
    middle = median(seconds)
    return {
        "cpu_seconds": middle,
        "peak_mb": median(run["peak_mb"] for run in runs),
        "runs": len(runs),
        "spread": max(abs(value - middle) for value in seconds),
    }


def measure(corpus: Path, folder: Path, count: int, arguments: argparse.Namespace) -> Figures:
    """Every stage on a corpus of `count` documents."""
    source, workspace = write_input(corpus, folder, count), folder / f"w{count}"
    figures: Figures = {}
    for name in STAGES:
        figures[name] = repeat_stage(name, source, workspace, arguments)
        print(f"{count:>7,} {name:<14} {figures[name]}", file=sys.stderr, flush=True)
    kept = json.loads((workspace / "deduplicate" / "stage.json").read_text(encoding="utf-8"))["counts"]
    figures["counts"] = {
        "candidates": kept["candidates"], "dropped": kept["rejected"]["documents"], "read": kept["read"]["documents"],
    }  # fmt: skip
    shutil.rmtree(workspace)
    source.unlink()
    return figures


def growth(figures: dict[str, Figures], counts: list[int]) -> Figures:
    """For each stage what every further document costs from one size to the next (us), and the peak of memory (MB).

    `time_a_document` is the dearest interval over the first, from the smallest size on: what comes before that
    size is left out, since a first shard finds memory and caches untouched. `memory` is the last over the first.
    """
    result: Figures = {}
    for name in STAGES:
        row: dict[str, float] = {}
        for before, count in zip([START, *counts[:-1]], counts, strict=True):
            spent = figures[str(count)][name]["cpu_seconds"] - figures[str(before)][name]["cpu_seconds"]
            row[f"us_{count}"] = round(1e6 * spent / (count - before), 1)
            row[f"mb_{count}"] = round(figures[str(count)][name]["peak_mb"], 0)
        intervals = [row[f"us_{count}"] for count in (counts[1:] if len(counts) > 2 else counts)]
        row["time_a_document"] = round(max(intervals) / max(intervals[0], 0.1), 3)
        row["memory"] = round(row[f"mb_{counts[-1]}"] / row[f"mb_{counts[0]}"], 3)
        result[name] = row
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, nargs="+", default=[25_000, 50_000, 100_000])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--memory-mb", type=int, default=256, help="deduplicate.memory_mb")
    parser.add_argument("--repeats", type=int, default=5, help="runs of a stage at most")
    parser.add_argument("--seconds", type=float, default=12.0, help="CPU seconds after which a stage is not run again")
    parser.add_argument("--save", type=Path, default=None, help="file of the figures so far, to go on from")
    parser.add_argument("--before", type=str, default="", help="what each command is run under, e.g. `nice -n 5`")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    corpus = Path(os.environ.get("TIANKONG_CORPUS", ROOT.parent / "shared" / "corpus"))
    figures: dict[str, Figures] = {}
    if arguments.save is not None and arguments.save.exists():
        figures = json.loads(arguments.save.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        if str(START) not in figures:
            once = argparse.Namespace(**{**vars(arguments), "repeats": 1})
            measure(corpus, Path(folder), START, once)  # compiles the kernels
        for count in [START, *arguments.documents]:
            if str(count) in figures:
                continue
            figures[str(count)] = measure(corpus, Path(folder), count, arguments)
            if arguments.save is not None:
                arguments.save.write_text(json.dumps(figures), encoding="utf-8")
    result = growth(figures, arguments.documents)
    if arguments.json:
        print(json.dumps({"stages": result, "counts": {count: figures[count]["counts"] for count in figures}}))
        return
    print(f"{'stage':<14}" + "".join(f"{count:>18,}" for count in arguments.documents) + "   time/document  memory")
    for name, row in result.items():
        cells = "".join(f"{row[f'us_{n}']:>9.0f} us {row[f'mb_{n}']:>4.0f} MB" for n in arguments.documents)
        print(f"{name:<14}{cells} {row['time_a_document']:>12.2f}x {row['memory']:>6.2f}x")


if __name__ == "__main__":
    main()
