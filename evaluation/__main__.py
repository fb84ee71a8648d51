"""Command line of the evaluation: bits-per-byte, fill-accuracy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from command_line import Parser, PositiveInt, print_figures, run_commands
from data.token_shards import TokenShard, check_tokenizer, documents_of, find_shards
from evaluation.bits_per_byte import bits_per_byte, build_heldout_set
from evaluation.fill_accuracy import build_blanks, score_blanks
from evaluation.kneser_ney import kneser_ney_bits_per_byte
from evaluation.unigram import unigram_bits_per_byte
from evaluation.xz import xz_bits_per_byte
from inference.load import LoadedRun, load_run, load_untrained
from objectives.config import ObjectiveConfig


def tokens_of(folder: Path) -> dict[str, Iterator[NDArray[np.integer]]]:
    """All ids of each source, a shard at a time."""
    return {
        source: (TokenShard(prefix).tokens for prefix in prefixes) for source, prefixes in find_shards(folder).items()
    }


def _parser(command: str, description: str, limit_help: str) -> Parser:
    parser = Parser(f"python -m evaluation {command}", description)
    parser.add_argument("--run", type=str, required=True, help="run folder of the trainer")
    parser.add_argument(
        "--data", type=str, required=True, help="folder of the stage tokenize, with train/ and validation/"
    )
    parser.add_argument("--step", type=int, default=None, help="checkpoint's step (default: the last)")
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--limit", type=PositiveInt, default=None, help=limit_help)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _open(args: argparse.Namespace) -> tuple[LoadedRun, Path]:
    """The run and the folder of token shards, which must be of one tokenizer."""
    run, data = load_run(args.run, args.step, args.device), Path(args.data)
    check_tokenizer(data, run.tokenizer.digest)
    return run, data


def _describe(run: LoadedRun) -> dict[str, Any]:
    return {"run": str(run.folder), "step": run.step, "objective": run.objective.kind, "window": run.window}


def bits_per_byte_command(argv: list[str]) -> int:
    """Held-out bits per byte of a run's model, of the model before training, and of a unigram model."""
    parser = _parser(
        "bits-per-byte",
        "held-out bits per byte a language: the model, the same model untrained, and a unigram of the training tokens",
        "rows of held-out text a language (default: all)",
    )
    parser.add_argument(
        "--ngram_tokens", type=PositiveInt, default=None,
        help="also a Kneser-Ney 5-gram model of so many training tokens a language (default: none)",
    )  # fmt: skip
    parser.add_argument("--xz", action="store_true", help="also xz -9 on the whole validation text of each language")
    args = parser.read(argv)
    run, data = _open(args)
    heldout = build_heldout_set(
        documents_of(data / "validation"), run.objective, run.window, run.tokenizer.special,
        run.tokenizer.byte_lengths, rows_per_language=args.limit,
    )  # fmt: skip
    model = bits_per_byte(run.model, heldout, run.device)
    untrained = bits_per_byte(load_untrained(run), heldout, run.device)
    unigram = unigram_bits_per_byte(tokens_of(data / "train"), heldout, run.tokenizer.byte_lengths)
    languages = {
        language: {
            "model": model[language],
            "untrained": untrained[language],
            "unigram": unigram[language],
            "below_untrained_percent": 100 * (1 - model[language] / untrained[language]),
            "rows": heldout.rows(language),
        }
        for language in heldout.languages
    }
    for name, values in _other_baselines(run, data, args.limit, args.ngram_tokens, args.xz).items():
        for language, figures in languages.items():
            if language in values:
                figures[name] = values[language]
    if args.json:
        print_figures({**_describe(run), "bits_per_byte": languages}, as_json=True)
        return 0
    print(f"{run.folder}, step {run.step}, {run.objective.kind}: held-out bits per byte")
    print(f"  {'language':<10}{'model':>8}{'untrained':>11}{'unigram':>9}{'below untrained':>17}{'rows':>7}")
    for language, figures in languages.items():
        print(
            f"  {language:<10}{figures['model']:>8.3f}{figures['untrained']:>11.3f}{figures['unigram']:>9.3f}"
            f"{figures['below_untrained_percent']:>16.1f}%{figures['rows']:>7}"
            + "".join(f"   {name} {figures[name]:.3f}" for name in ("five_gram", "xz") if name in figures)
        )
    return 0


def _other_baselines(
    run: LoadedRun, data: Path, limit: int | None, ngram_tokens: int | None, xz: bool
) -> dict[str, dict[str, float]]:
    """The dearer models that were asked for, by name and language; the 5-gram scores what the model scores."""
    found: dict[str, dict[str, float]] = {}
    if ngram_tokens:
        rows = build_heldout_set(
            documents_of(data / "validation"), ObjectiveConfig(kind="causal"), run.window, run.tokenizer.special,
            run.tokenizer.byte_lengths, rows_per_language=limit,
        )  # fmt: skip
        found["five_gram"] = kneser_ney_bits_per_byte(
            documents_of(data / "train"), rows, run.tokenizer.byte_lengths, most_tokens=ngram_tokens
        )
    if xz:
        found["xz"] = xz_bits_per_byte(documents_of(data / "validation"), run.tokenizer)
    return found


def fill_accuracy_command(argv: list[str]) -> int:
    """How often the tokens of held-out blanks are the model's first choice."""
    parser = _parser(
        "fill-accuracy",
        "share of held-out blanks' tokens, and of whole blanks, that the model would fill in as written",
        "rows of blanks a language (default: 64)",
    )
    args = parser.read(argv)
    run, data = _open(args)
    blanks = build_blanks(
        documents_of(data / "validation"), run.objective, run.window, run.tokenizer,
        rows_per_language=args.limit or 64,
    )  # fmt: skip
    figures = score_blanks(run.model, blanks, run.device)
    print_figures({**_describe(run), "fill_accuracy": figures}, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(
        run_commands(
            "python -m evaluation",
            {
                "bits-per-byte": (
                    bits_per_byte_command,
                    "held-out bits per byte, beside an untrained model and a unigram",
                ),
                "fill-accuracy": (fill_accuracy_command, "how often held-out blanks are filled in as written"),
            },
        )
    )
