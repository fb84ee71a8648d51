"""The presets `fineweb` and `fineweb2-zh` beside datatrove's own filters, a document and a rule at a time.

    TIANKONG_CORPUS=... python benchmarks/presets.py [--documents N] [--longest CHARACTERS] [--json]

For each published rule, datatrove's filter runs with that rule alone switched on. Shares of documents on which it
and ours say the same:

    counting     datatrove is handed our words, both have the published bound: nothing but the counting can differ
    published    datatrove has its own words (spaCy's, jieba's), both the published bound: what segmentation changes
    preset       datatrove has its own words, ours the bound of the preset: what a user of the preset gets

and for rules of n-grams `punctuation`: datatrove beside itself with punctuation taken out of its words.

Documents are of `documents/` and, evenly spaced, of `pretrain/`; longer ones than `--longest` are left out, since the
peer takes seconds for each. The last lines are of all rules together, and of datatrove's four filters one after the
other as its example runs them, where C4's filter hands on the lines that it keeps.
"""

from __future__ import annotations

import os

os.environ["POLARS_MAX_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import zstandard

PROJECT = Path(__file__).resolve().parent.parent
CORPUS = Path(os.environ.get("TIANKONG_CORPUS", PROJECT.parent / "shared" / "corpus"))
PRESETS = {"en": "fineweb", "zh": "fineweb2-zh"}


def _texts(path: Path) -> Iterator[str]:
    with path.open("rb") as raw:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), encoding="utf-8"):
            yield json.loads(line)["text"]


def chosen_texts(language: str, documents: int, longest: int) -> list[str]:
    """Distinct texts of at most `longest` characters: those of `documents/`, then `pretrain/` evenly, so that all of
    its sources are met."""
    first, rest = (
        [text for text in dict.fromkeys(_texts(CORPUS / f"{name}.jsonl.zst")) if len(text) <= longest]
        for name in (f"documents/{language}-00000", f"pretrain/{language}")
    )
    wanted = min(len(rest), documents - len(first))
    return first[:documents] + [rest[number * len(rest) // wanted] for number in range(wanted)]


def show(figures: dict[str, dict[str, object]]) -> None:
    for preset, table in figures.items():
        print(f"\n{preset}: {table['documents']} documents")
        heads = f"{'counting':>9s} {'published':>9s} {'preset':>9s} {'punctuation':>11s}"
        print(f"  {'rule':38s} {heads}   rejected by datatrove, by the preset")
        for rule, row in table.items():
            if isinstance(row, dict):
                cells = ((name, max(9, len(name))) for name in ("counting", "published", "preset", "punctuation"))
                shares = [f"{row[name]:{width}.1%}" if name in row else " " * width for name, width in cells]
                print(
                    f"  {rule:38s} {' '.join(shares)}   {row['rejected by datatrove']}, {row['rejected by the preset']}"
                )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--documents", type=int, default=2000, help="documents a language")
    parser.add_argument("--longest", type=int, default=8000, help="characters of the longest document")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not CORPUS.is_dir():
        print(f"error: no corpus at {CORPUS}; set TIANKONG_CORPUS", file=sys.stderr)
        return 1
    from preset_agreement import agreement_by_rule

    figures = {
        PRESETS[language]: agreement_by_rule(chosen_texts(language, args.documents, args.longest), language)
        for language in args.languages
    }
    if args.json:
        print(json.dumps(figures, ensure_ascii=False, indent=1))
    else:
        show(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
