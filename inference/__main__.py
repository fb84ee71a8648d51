"""Command line of inference: fill, generate, export."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from command_line import Parser, PositiveInt, print_figures, run_commands
from inference.fill import Filled, check_can_fill, fill
from inference.generate import generate
from inference.load import LoadedRun, load_run
from inference.sampling import SamplingConfig
from model.hugging_face import export_hugging_face


def _parser(command: str, description: str, max_tokens: int) -> Parser:
    parser = Parser(f"python -m inference {command}", description, config=SamplingConfig)
    parser.add_argument("--run", type=str, required=True, help="run folder of the trainer")
    parser.add_argument("--step", type=int, default=None, help="checkpoint's step (default: the last)")
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--text", type=str, action="append", default=[], help="a text; may be given more than once")
    parser.add_argument("--input", type=str, default=None, help="JSONL file with a text in each line's `text`")
    parser.add_argument("--limit", type=PositiveInt, default=None, help="lines of --input that are read")
    parser.add_argument(
        "--max_tokens", type=PositiveInt, default=max_tokens, help="longest blank or continuation, in tokens"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws when the temperature is above 0")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def read_texts(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The texts of `--text` and of `--input`, as objects with at least `text`."""
    rows: list[dict[str, Any]] = [{"text": text} for text in args.text]
    if args.input is not None:
        with Path(args.input).open("rb") as file:
            for number, line in enumerate(itertools.islice(file, args.limit), start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                    raise ValueError(f"{args.input}:{number}: expected a JSON object with the string `text`")
                rows.append(row)
    if not rows:
        raise ValueError("nothing to do: give --text TEXT or --input FILE.jsonl")
    return rows


def fill_command(argv: list[str]) -> int:
    """Fill the blanks of texts."""
    args = _parser("fill", "fill the [MASK]s of a text, with the probability of each blank", 32).read(argv)
    rows, run = read_texts(args), load_run(args.run, args.step, args.device)
    check_can_fill(run.objective)
    results = []
    for row in rows:
        filled = fill(
            run.model, run.tokenizer, run.objective, row["text"], sampling=args.config, max_tokens=args.max_tokens,
            max_positions=run.model.config.max_positions, seed=args.seed, device=run.device,
        )  # fmt: skip
        results.append(_as_dict(filled, row))
        if not args.json:
            _print_filled(filled, row)
    if args.json:
        print(json.dumps({"run": str(run.folder), "step": run.step, "fills": results}, ensure_ascii=False))
    return 0


def _as_dict(filled: Filled, row: dict[str, Any]) -> dict[str, Any]:
    blanks = [{**dataclasses.asdict(blank), "probability": blank.probability} for blank in filled.blanks]
    return {**row, "filled": filled.text, "blanks": blanks}


def _print_filled(filled: Filled, row: dict[str, Any]) -> None:
    print(filled.prompt)
    print(f"  {filled.text}")
    for blank in filled.blanks:
        tokens = " ".join(f"{token!r} {p:.3f}" for token, p in zip(blank.tokens, blank.probabilities, strict=True))
        unfinished = "" if blank.ended else "  (not ended: cut at --max_tokens or the model's positions)"
        print(f"  blank {blank.text!r}  probability {blank.probability:.3g}  = {tokens}{unfinished}")
    if "answer" in row:
        print(f"  written in the original: {row['answer']!r}")


def generate_command(argv: list[str]) -> int:
    """Continue texts."""
    args = _parser("generate", "continue a text", 64).read(argv)
    rows, run = read_texts(args), load_run(args.run, args.step, args.device)
    results = []
    for row in rows:
        result = generate(
            run.model, run.tokenizer, run.objective, row["text"], sampling=args.config, max_tokens=args.max_tokens,
            max_positions=run.model.config.max_positions, seed=args.seed, device=run.device,
        )  # fmt: skip
        results.append(dataclasses.asdict(result))
        if not args.json:
            end = "" if result.ended else " …"
            print(f"{result.prompt}{result.text}{end}")
            print(f"  {result.tokens} tokens, log probability {result.log_probability:.2f}")
    if args.json:
        print(json.dumps({"run": str(run.folder), "step": run.step, "continuations": results}, ensure_ascii=False))
    return 0


def export_command(argv: list[str]) -> int:
    """Write a run's model and tokenizer as a Hugging Face folder."""
    parser = Parser("python -m inference export", "write a model and its tokenizer as a Hugging Face folder")
    parser.add_argument("--run", type=str, required=True, help="run folder of the trainer")
    parser.add_argument("--step", type=int, default=None, help="checkpoint's step (default: the last)")
    parser.add_argument("--output", type=str, required=True, help="folder to write")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="precision on disk",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.read(argv)
    run, output = load_run(args.run, args.step), Path(args.output)
    written = export_hugging_face(
        run.model, output, dtype=args.dtype, tokenizer_folder=run.folder / "tokenizer", settings=_settings_of(run)
    )
    if args.json:
        figures = {"run": str(run.folder), "step": run.step, "output": str(output), "files": [p.name for p in written]}
        print_figures(figures, as_json=True)
    else:
        print(f"{output}: step {run.step} of {run.folder}")
    return 0


def _settings_of(run: LoadedRun) -> dict[str, object]:
    """What config.json says beside the model's own configuration."""
    special, config = run.tokenizer.special, run.model.config
    settings: dict[str, object] = {"eos_token_id": special.endoftext, "pad_token_id": special.pad}
    if config.attention.indexer.num_heads and run.model.sparse_mode != "sparse":
        # transformers always selects keys: a stage of dense attention is one whose top-k is never exceeded.
        settings["index_topk"] = config.max_positions
    return settings


if __name__ == "__main__":
    sys.exit(
        run_commands(
            "python -m inference",
            {
                "fill": (fill_command, "fill the blanks of a text, with probabilities"),
                "generate": (generate_command, "continue a text"),
                "export": (export_command, "write a Hugging Face folder"),
            },
        )
    )
