"""Held-out bits per byte of one small model behind several tokenizers, trained for equal compute on the same text.

Each tokenizer encodes the same documents; `configs/pretrain/glm130b-tiny.yaml` is trained on the ids with the same seed
and the same number of steps of the same rows. Tokenizers of one size then cost the same operations a step, and one that
writes the text in fewer tokens sees more of it. Bits are divided by the bytes of the scored text, so all compare.

    python benchmarks/tokenizer_bits_per_byte.py --tokenizer DIR DIR ... [--megabytes 6] [--steps 300] [--json]

Training text and held-out text are `pretrain/` of the corpus, so many megabytes of each language and a tenth of that.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Read the arguments, train behind each tokenizer in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    corpus = Path(os.environ.get("TIANKONG_CORPUS", ROOT.parent / "shared" / "corpus"))
    parser.add_argument("--tokenizer", type=Path, nargs="+", required=True, help="trained folders")
    parser.add_argument("--corpus", type=Path, default=corpus / "pretrain")
    parser.add_argument("--megabytes", type=float, default=6.0, help="training text of each language")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "pretrain" / "glm130b-tiny.yaml")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_text(arguments.corpus, arguments.megabytes, work)
        for folder in arguments.tokenizer:
            figures[str(folder)] = bits_behind(folder, arguments.config, arguments.steps, work)
            print(f"{folder}: {_line(figures[str(folder)])}", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps(figures))
        return
    for folder, languages in figures.items():
        print(f"{folder:<50}{_line(languages)}")


def write_text(corpus: Path, megabytes: float, work: Path) -> None:
    """`work/{train,validation}/{zh,en}.parquet`: the same documents for every tokenizer."""
    import polars as pl

    from tokenizer.corpus import Faults
    from tokenizer.evaluate import read_groups

    for part, prefix, size in (("train", "", megabytes), ("validation", "heldout-", megabytes / 10)):
        (work / part).mkdir()
        for language in ("zh", "en"):
            texts = read_groups([corpus / f"{prefix}{language}.jsonl.zst"], size, Faults())[language]
            table = pl.DataFrame({"text": texts, "language": language, "kind": "prose"})
            table.write_parquet(work / part / f"{language}.parquet")


def bits_behind(folder: Path, config: Path, steps: int, work: Path) -> dict[str, dict[str, float]]:
    """Encode, train, score; figures by language: `model`, `unigram`, `untrained` in bits a byte, and more."""
    from data.tokenize import TokenizeConfig, encode_shard
    from tokenizer.load import load_tokenizer

    tokenizer = load_tokenizer(folder)
    out = work / tokenizer.digest
    for part in ("train", "validation"):
        for shard in sorted((work / part).glob("*.parquet")):
            encode_shard(shard, tokenizer, out / "tokenize" / part, TokenizeConfig())
    record = {"facts": {"tokenizer_digest": tokenizer.digest, "vocab_size": tokenizer.vocab_size}}
    (out / "tokenize" / "stage.json").write_text(json.dumps(record), encoding="utf-8")
    data, run = ["--data", str(out / "tokenize")], ["--run", str(out / "run")]
    trained = ["--config", str(config), *data, "--tokenizer", str(folder), *run, "--steps", str(steps)]
    _command(["trainer", "pretrain", *trained])
    printed = json.loads(_command(["evaluation", "bits-per-byte", *run, *data, "--json"]))
    scored: dict[str, dict[str, float]] = printed["bits_per_byte"]
    return scored


def _command(words: list[str]) -> str:
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout


def _line(languages: dict[str, dict[str, float]]) -> str:
    return "   ".join(
        f"{language} {values['model']:.3f} (unigram {values['unigram']:.3f}, {values['rows']:.0f} rows)"
        for language, values in sorted(languages.items())
    )


if __name__ == "__main__":
    main()
