"""Time and peak memory of every data stage a document, as the corpus grows: flat, or the stage does not scale.

    TIANKONG_CORPUS=... python benchmarks/growth.py [--documents 25000 50000 100000] [--workers 1]
        [--memory-mb 256] [--repeats 3] [--stages filter ...] [--save FILE --folder FOLDER] [--before COMMAND ...]
        [--json]

Documents are paragraphs of the corpus's `pretrain` (60 to 300 bytes) drawn anew into texts of about 800 bytes, a fifth
of them copies of an earlier one with a few characters changed. Every stage runs as a command of its own, so that its
peak memory is its own. Times are of the processor, user and system, from one size to the next, so that what a command
takes to start is in none of them: the first is from 5,000 documents, enough for every shard, table and lazy import to
have been needed once; the kernels are compiled before.

A command takes a second to start, and that second varies by a tenth: as much as a short stage needs for thousands of
documents; and a neighbour on the machine makes every second longer for as long as it is there. So the sizes take turns,
stage by stage, each run from nothing, `--repeats` times, every size as often as the others; its least time counts, the
one that was disturbed least. With `--save` the runs are kept as they end, and what is begun again with the same
`--folder` goes on with those that are missing.
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
    folder.mkdir(parents=True, exist_ok=True)
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


class Runs:
    """The runs so far: CPU seconds and peak memory (MB) by size and stage, kept in a file after each."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.runs: dict[str, dict[str, list[dict[str, float]]]] = {}
        if path is not None and path.exists():
            self.runs = json.loads(path.read_text(encoding="utf-8"))

    def of(self, count: int, name: str) -> list[dict[str, float]]:
        return self.runs.setdefault(str(count), {}).setdefault(name, [])

    def add(self, count: int, name: str, run: dict[str, float]) -> None:
        self.of(count, name).append(run)
        print(f"{count:>7,} {name:<14} {run}", file=sys.stderr, flush=True)
        if self.path is not None:
            self.path.write_text(json.dumps(self.runs), encoding="utf-8")

    def figures(self) -> dict[str, Figures]:
        """The least CPU seconds of each size and stage, and the median of its peaks."""
        return {
            count: {
                name: {
                    "cpu_seconds": min(run["cpu_seconds"] for run in runs),
                    "peak_mb": median(run["peak_mb"] for run in runs),
                    "runs": len(runs),
                }
                for name, runs in stages.items()
                if runs
            }
            for count, stages in self.runs.items()
        }


def measure(corpus: Path, folder: Path, counts: list[int], runs: Runs, arguments: argparse.Namespace) -> None:
    """Run every stage on every size until each has had its runs, the sizes in turn."""
    wanted = [name for name in STAGES if name in arguments.stages]
    for name in STAGES[: STAGES.index(wanted[-1]) + 1]:
        for turn in range(arguments.repeats if name in wanted else 1):
            for count in counts:
                done, workspace = runs.of(count, name), folder / f"w{count}"
                there = (workspace / name / "stage.json").exists()
                if (len(done) > turn or name not in wanted) and there:
                    continue
                source = folder / f"{count}.jsonl.zst"
                if not source.exists():
                    write_input(corpus, folder, count)
                shutil.rmtree(workspace / name, ignore_errors=True)
                runs.add(count, name, run_stage(name, source, workspace, arguments))


def growth(figures: dict[str, Figures], counts: list[int], stages: list[str]) -> Figures:
    """For each stage what every further document costs from one size to the next (us), and the peak of memory (MB).

    `time_a_document` is the dearest interval over the first, from the smallest size on: what comes before that
    size is left out, since a first shard finds memory and caches untouched. `memory` is the last over the first.
    """
    result: Figures = {}
    for name in stages:
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
    parser.add_argument("--repeats", type=int, default=3, help="runs of a stage on each size")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="stages to measure")
    parser.add_argument("--save", type=Path, default=None, help="file of the runs so far, to go on from")
    parser.add_argument("--folder", type=Path, default=None, help="where inputs and workspaces stay, to go on from")
    parser.add_argument("--before", type=str, default="", help="what each command is run under, e.g. `nice -n 5`")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    corpus = Path(os.environ.get("TIANKONG_CORPUS", ROOT.parent / "shared" / "corpus"))
    runs = Runs(arguments.save)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not runs.runs:  # compiles the kernels
            once = argparse.Namespace(**{**vars(arguments), "repeats": 1})
            measure(corpus, Path(temporary) / "first", [START], Runs(None), once)
        measure(corpus, folder, [START, *arguments.documents], runs, arguments)
    stages = [name for name in STAGES if name in arguments.stages]
    result = growth(runs.figures(), arguments.documents, stages)
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{'stage':<14}" + "".join(f"{count:>18,}" for count in arguments.documents) + "   time/document  memory")
    for name, row in result.items():
        cells = "".join(f"{row[f'us_{n}']:>9.0f} us {row[f'mb_{n}']:>4.0f} MB" for n in arguments.documents)
        print(f"{name:<14}{cells} {row['time_a_document']:>12.2f}x {row['memory']:>6.2f}x")


if __name__ == "__main__":
    main()
