"""The command line of the corpus: `python -m data run|STAGE|inspect|digest|train-quality`."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

from command_line import Command, Parser, print_figures, run_commands

STAGES = ("ingest", "annotate", "filter", "deduplicate", "redact", "decontaminate", "mix", "tokenize", "report")
SUMMARIES = {
    "ingest": "read the sources, extract text from pages, bring it to its normal form",
    "annotate": "language, script and every quality signal as columns",
    "filter": "keep or reject by the configuration's thresholds",
    "deduplicate": "exact copies, near copies, repeated lines",
    "redact": "mask personal data",
    "decontaminate": "cut out what evaluation sets hold",
    "mix": "balance, repeat, shuffle, hold out",
    "tokenize": "token shards for the trainer",
    "report": "one HTML page about the whole run",
}


def _parser(name: str, summary: str) -> Parser:
    from data.config import CorpusConfig

    parser = Parser(f"python -m data {name}", summary, config=CorpusConfig)
    parser.add_argument("--workspace", type=str, required=True, help="folder that every stage writes below")
    add = partial(parser.add_argument, default=None)
    add("--input", nargs="+", type=str, help="files, folders, globs or URLs, in the place of the YAML's sources")
    add("--tokenizer", type=str, help="folder of a trained tokenizer; without it `run` leaves tokenize out")
    add("--limit", type=int, help="documents to read at most, spread evenly over the input files")
    executors = ["local", "ray", "slurm"]
    parser.add_argument("--executor", type=str, choices=executors, default="local", help="where tasks run")
    parser.add_argument("--workers", type=int, default=1, help="tasks at a time")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    return parser


def run_command(argv: list[str]) -> int:
    """Run every stage in order."""
    args = _parser("run", "every stage in order, from raw pages to the report").read(argv)
    names = [name for name in STAGES if name != "tokenize" or args.tokenizer is not None]
    return _run(args, names)


def stage_command(name: str, argv: list[str]) -> int:
    """Run one stage."""
    return _run(_parser(name, SUMMARIES[name]).read(argv), [name])


def _run(args: Namespace, names: list[str]) -> int:
    from data.engine import RunOptions, run_stages
    from data.sources import SourceConfig
    from data.stages import in_order

    config = args.config
    if args.input is not None:
        config = replace(config, sources=[SourceConfig(path=path) for path in args.input])
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit is {args.limit}: expected at least 1")
    options = RunOptions(
        workspace=Path(args.workspace).resolve(),  # tasks may run in another folder
        executor=args.executor,
        workers=args.workers,
        limit=args.limit,
        tokenizer=Path(args.tokenizer).resolve() if args.tokenizer else None,
    )
    figures = run_stages([stage for stage in in_order() if stage.name in names], config, options)
    if args.json:
        print(json.dumps(figures, ensure_ascii=False))
    return 0


def inspect_command(argv: list[str]) -> int:
    """Print the life of one document."""
    from data.inspect import life_of, show_life

    parser = Parser("python -m data inspect", "the life of one document, stage by stage")
    parser.add_argument("--workspace", type=str, required=True, help="folder of the run")
    parser.add_argument("--source-id", type=str, required=True, help="the document's own id at its source, or our id")
    parser.add_argument("--characters", type=int, default=600, help="characters of the text to show")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.read(argv)
    life = life_of(Path(args.workspace), args.source_id)
    print(json.dumps(life, ensure_ascii=False, default=str) if args.json else show_life(life, args.characters))
    return 0


def digest_command(argv: list[str]) -> int:
    """Print a digest of each stage's files, and with `--files` of each file."""
    from data.inspect import stage_digests

    parser = Parser("python -m data digest", "digests of what each stage wrote, to compare two runs")
    parser.add_argument("--workspace", type=str, required=True, help="folder of the run")
    parser.add_argument("--files", action="store_true", help="a line for each file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.read(argv)
    print_figures(stage_digests(Path(args.workspace), args.files), args.json)
    return 0


def train_quality_command(argv: list[str]) -> int:
    """Train a language's quality model from good and bad documents."""
    from data.quality import train
    from tokenizer.corpus import Faults, read_documents

    parser = Parser("python -m data train-quality", "train a quality model of one language for annotate.quality_models")
    parser.add_argument("--good", nargs="+", type=str, required=True, help="folders of shards, JSONL or Parquet")
    parser.add_argument("--bad", nargs="+", type=str, required=True, help="the same, of documents to score low")
    parser.add_argument("--output", type=str, required=True, help="file to write the model to")
    parser.add_argument("--epochs", type=int, default=5, help="times that training reads the documents")
    parser.add_argument("--limit", type=int, default=None, help="read this many documents a side at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.read(argv)
    faults = Faults()
    good, bad = (
        [document.text for document in read_documents([Path(path) for path in paths], faults, args.limit)]
        for paths in (args.good, args.bad)
    )
    figures = train(good, bad, Path(args.output), epochs=args.epochs)
    print_figures({**figures, "unreadable": faults.count, "model": args.output}, args.json)
    return 0


COMMANDS: dict[str, tuple[Command, str]] = {
    "run": (run_command, "every stage in order"),
    **{name: (partial(stage_command, name), SUMMARIES[name]) for name in STAGES},
    "inspect": (inspect_command, "the life of one document"),
    "digest": (digest_command, "digests of what each stage wrote"),
    "train-quality": (train_quality_command, "train a quality model of one language"),
}

if __name__ == "__main__":
    sys.exit(run_commands("python -m data", COMMANDS))
