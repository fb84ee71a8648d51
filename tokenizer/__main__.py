"""`python -m tokenizer train|evaluate|encode|decode`."""

import io
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from command_line import Parser, print_figures, run_commands
from tokenizer.config import TokenizerConfig

_INPUT_HELP = "folders of shards, JSONL (plain, .gz, .zst) or Parquet files"


def train_command(argv: list[str]) -> None:
    """Train a tokenizer and write its folder."""
    from tokenizer.train import train

    parser = Parser("python -m tokenizer train", "Train a tokenizer on a corpus.", config=TokenizerConfig)
    parser.add_argument("--input", nargs="+", type=str, required=True, help=_INPUT_HELP)
    parser.add_argument("--output", type=str, required=True, help="folder to write the tokenizer to")
    parser.add_argument("--limit", type=int, default=None, help="read the first N documents alone")
    parser.add_argument("--json", action="store_true", help="print the record of the training as one JSON object")
    args = parser.read(argv)
    record = train(args.config, [Path(path) for path in args.input], Path(args.output), args.limit)
    run = record["run"]
    assert isinstance(run, dict)
    if args.json:
        print_figures(record, as_json=True)
    else:
        print(f"{args.output}: {record['tokens']} tokens, trained in {run['seconds_training']} s")


def evaluate_command(argv: list[str]) -> None:
    """Measure tokenizers side by side."""
    from tokenizer.evaluate import evaluate, picture, table

    parser = Parser("python -m tokenizer evaluate", "Measure tokenizers side by side on the same text.")
    tokenizer_help = "folders, tokenizer.json or SentencePiece .model files"
    parser.add_argument("--tokenizer", nargs="+", type=str, required=True, help=tokenizer_help)
    parser.add_argument("--input", nargs="+", type=str, required=True, help=_INPUT_HELP)
    parser.add_argument("--megabytes", type=float, default=4.0, help="text of each language, at most (default 4)")
    parser.add_argument("--sizes", nargs="*", type=int, default=[], help="cut each byte-level BPE to these sizes too")
    parser.add_argument("--picture", type=str, default=None, help="write the curve to this .png or .svg")
    parser.add_argument("--limit", type=int, default=None, help="read the first N documents alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.read(argv)
    paths = [Path(path) for path in args.input]
    figures = evaluate(args.tokenizer, paths, args.megabytes, args.sizes or [], args.limit)
    text = figures["text"]
    assert isinstance(text, dict)
    if text["unreadable"]:
        print(f"{text['unreadable']} records could not be read, the first: {text['examples'][0]}", file=sys.stderr)
    if args.picture:
        picture(figures, Path(args.picture))
    if args.json:
        print_figures(figures, as_json=True)
    else:
        print(table(figures))


def encode_command(argv: list[str]) -> None:
    """Lines of text to lines of ids."""
    from tokenizer.filters import encode_lines
    from tokenizer.load import load_tokenizer

    parser = _filter_parser("encode", "Encode lines of text from standard input.")
    parser.add_argument("--prompt", action="store_true", help="parse special tokens such as [MASK]")
    parser.add_argument("--pieces", action="store_true", help="print the tokens, in colours on a terminal")
    parser.add_argument("--json", action="store_true", help="print an object with ids and tokens for each line")
    args = parser.read(argv)
    tokenizer = load_tokenizer(args.tokenizer)
    form = "json" if args.json else "pieces" if args.pieces else "ids"
    lines = encode_lines(
        _lines(args.input, args.limit), tokenizer, prompt=args.prompt, form=form, colour=sys.stdout.isatty()
    )
    _print(lines)


def decode_command(argv: list[str]) -> None:
    """Lines of ids to lines of text."""
    from tokenizer.filters import decode_lines
    from tokenizer.load import load_tokenizer

    parser = _filter_parser("decode", "Decode lines of ids from standard input.")
    parser.add_argument("--skip-special", action="store_true", help="leave special tokens out")
    args = parser.read(argv)
    tokenizer = load_tokenizer(args.tokenizer)
    _print(decode_lines(_lines(args.input, args.limit), tokenizer, args.skip_special))


def _filter_parser(name: str, description: str) -> Parser:
    parser = Parser(f"python -m tokenizer {name}", description)
    parser.add_argument("--tokenizer", type=str, required=True, help="a tokenizer's folder")
    parser.add_argument("--input", nargs="*", type=str, default=[], help="text files in place of standard input")
    parser.add_argument("--limit", type=int, default=None, help="the first N lines alone")
    return parser


def _lines(files: list[str] | None, limit: int | None) -> Iterator[str]:
    """Lines of UTF-8; what is not UTF-8 becomes U+FFFD. Only a line feed ends a line."""

    def all_lines() -> Iterator[str]:
        if not files:
            yield from io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace", newline="\n")
        for name in files or []:
            with open(name, encoding="utf-8", errors="replace", newline="\n") as stream:
                yield from stream

    return islice(all_lines(), limit)


def _print(lines: Iterable[str]) -> None:
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    for line in lines:
        print(line)


COMMANDS = {
    "train": (train_command, "train a tokenizer on a corpus"),
    "evaluate": (evaluate_command, "measure tokenizers side by side"),
    "encode": (encode_command, "lines of text to lines of ids"),
    "decode": (decode_command, "lines of ids to lines of text"),
}

if __name__ == "__main__":
    sys.exit(run_commands("python -m tokenizer", COMMANDS))
