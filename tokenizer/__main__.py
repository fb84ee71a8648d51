"""`python -m tokenizer train|evaluate|encode|decode`."""

import sys
from pathlib import Path

from command_line import Parser, print_figures, run_commands
from tokenizer.config import TokenizerConfig


def train_command(argv: list[str]) -> None:
    """Train a tokenizer and write its folder."""
    from tokenizer.train import train

    parser = Parser("python -m tokenizer train", "Train a tokenizer on a corpus.", config=TokenizerConfig)
    parser.add_argument("--input", nargs="+", type=str, required=True, help="folders of shards, JSONL or Parquet files")
    parser.add_argument("--output", type=str, required=True, help="folder to write the tokenizer to")
    parser.add_argument("--limit", type=int, default=None, help="read the first N documents alone")
    parser.add_argument("--json", action="store_true", help="print the record of the training as one JSON object")
    args = parser.read(argv)
    record = train(args.config, [Path(path) for path in args.input], Path(args.output), args.limit)
    if args.json:
        print_figures(record, as_json=True)
    else:
        run = record["run"]
        assert isinstance(run, dict)
        print(f"{args.output}: {record['tokens']} tokens in {run['seconds_training']} s", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_commands("python -m tokenizer", {"train": (train_command, "train a tokenizer on a corpus")}))
