"""Deduplication beside the peers, on one core, in one run: speed, and exactness against brute force.

    TIANKONG_CORPUS=... python benchmarks/dedup.py [--only signatures|whole|exactness] [--documents N] [--json]

    signatures  documents a second from text to signature, beside datatrove's signature stage with its own word
                tokenizers and rensa with shingling in Python at our number of hashes
    whole       all of deduplication, Parquet to Parquet, beside datatrove's four stages
    exactness   MinHash's estimates against true Jaccard, the catch rate against the S-curve, and all pairs found by
                comparing every document with every other

Documents are paragraphs of the corpus's `pretrain` drawn anew into texts of about 4 kB of UTF-8, a fifth of them edited
copies of others. Kernels are compiled before the clock starts. Rates are of this process's CPU time where it does all
the work, medians over repeats that alternate between the contenders.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

# One core: read where the libraries below are imported, which is why they stand behind it.
for variable in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
import zstandard  # noqa: E402
from dedup_peers import datatrove_deduplicate, datatrove_signatures, rensa_sketches  # noqa: E402

from data.copies import (  # noqa: E402
    Collection,
    decide,
    digest_shard,
    join_bands,
    join_exact,
    join_pairs,
    judge,
    number_documents,
    sign_shard,
    verify_part,
)
from data.deduplicate import DeduplicateConfig  # noqa: E402
from data.minhash import catch_probability, signatures  # noqa: E402
from data.partitions import parts  # noqa: E402
from data.shingles import folded_units  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"zh": 1300, "en": 4000}
"""Characters of a document: about 4 kB of UTF-8 in either language."""
SHARD = 2000


def paragraphs(language: str, megabytes: float) -> list[str]:
    """Paragraphs from the beginning of `pretrain`, about so many megabytes."""
    folder = Path(os.environ.get("TIANKONG_CORPUS", ROOT.parent / "shared" / "corpus"))
    path = folder / "pretrain" / f"{language}.jsonl.zst"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: set TIANKONG_CORPUS to a folder with pretrain/")
    found: list[str] = []
    size = 0
    with open(path, "rb") as file:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
            for paragraph in json.loads(line)["text"].split("\n"):
                if len(paragraph) > 30:
                    found.append(paragraph)
                    size += len(paragraph.encode())
            if size > megabytes * 1e6:
                break
    return found


def make_documents(language: str, number: int, seed: int = 0) -> pl.DataFrame:
    """`number` documents with ids: four fifths recombined paragraphs, a fifth copies with 0 to 10 % of units edited."""
    generator = np.random.default_rng(seed)
    source = paragraphs(language, min(60.0, max(8.0, number * 0.004)))
    texts: list[str] = []
    for i in range(number):
        if i % 5 == 4:
            texts.append(edit(texts[int(generator.integers(0, len(texts)))], language, 0.01 * (i % 11), generator))
            continue
        pieces: list[str] = []
        while sum(map(len, pieces)) < SIZES[language]:
            pieces.append(source[int(generator.integers(0, len(source)))])
        texts.append("\n".join(pieces)[: SIZES[language]])
    return pl.DataFrame({"id": [f"{i:032x}" for i in range(number)], "text": texts})


def edit(text: str, language: str, rate: float, generator: np.random.Generator) -> str:
    """A copy with units replaced, left out or doubled at random."""
    units = list(text) if language == "zh" else text.split(" ")
    for place in np.flatnonzero(generator.random(len(units)) < rate):
        kind = generator.integers(0, 3)
        other = units[int(generator.integers(0, len(units)))]
        units[place] = other if kind == 0 else "" if kind == 1 else units[place] + other
    return ("" if language == "zh" else " ").join(units)


def clocked(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def alternate(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each contender, taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            seconds[name].append(clocked(work))
    return {name: statistics.median(values) for name, values in seconds.items()}


def sign(texts: pl.Series, config: DeduplicateConfig) -> np.ndarray:
    """Signatures of texts, from the text on."""
    shape = config.minhash
    return signatures(
        *folded_units(texts),
        han_shingle=shape.han_shingle,
        word_shingle=shape.word_shingle,
        number=shape.bands * shape.rows,
        seed=shape.seed,
    )[0]


def benchmark_signatures(documents: int, repeats: int) -> dict[str, object]:
    """Documents a second from text to signature. datatrove gets a twentieth of them, for its rate is so much less."""
    config = DeduplicateConfig()
    number = config.minhash.bands * config.minhash.rows
    result: dict[str, object] = {"hashes": number}
    for language in SIZES:
        texts = make_documents(language, documents)["text"]
        few, some = texts[: max(40, documents // 20)].to_list(), texts[: max(100, documents // 4)].to_list()
        sign(texts[:10], config)
        with tempfile.TemporaryDirectory() as folder:
            datatrove_signatures(few[:3], language, Path(folder))  # loads its tokenizer
            seconds = alternate(
                {
                    "ours": partial(sign, texts, config),
                    "rensa": partial(rensa_sketches, some, number),
                    "datatrove": partial(datatrove_signatures, few, language, Path(folder)),
                },
                repeats,
            )
        sizes = {"ours": len(texts), "rensa": len(some), "datatrove": len(few)}
        rates = {name: sizes[name] / seconds[name] for name in seconds}
        result[language] = {
            "documents_per_second": {name: round(rate) for name, rate in rates.items()},
            "ours_over": {name: round(rates["ours"] / rates[name], 1) for name in ("rensa", "datatrove")},
        }
    return result


def deduplicate_files(inputs: list[Path], output: Path, config: DeduplicateConfig) -> int:
    """All of copy deduplication over Parquet files without the engine; returns the documents that are left."""
    counts = [pl.scan_parquet(path).select(pl.len()).collect().item() for path in inputs]
    collection = Collection(work=output / "work", firsts=number_documents(counts), config=config)
    for number, path in enumerate(inputs):
        digest_shard(collection, number, pl.read_parquet(path))
    join_exact(collection)
    for number, path in enumerate(inputs):
        sign_shard(collection, number, pl.read_parquet(path, columns=["text"]))
    join_bands(collection)
    for part in parts(collection.work / "candidates"):
        verify_part(collection, int(part.stem))
    join_pairs(collection)
    left = 0
    (output / "kept").mkdir(parents=True)
    (output / "rejected").mkdir(parents=True)
    for number, path in enumerate(inputs):
        kept, rejected = decide(collection, number, pl.read_parquet(path))
        kept.write_parquet(output / "kept" / path.name)
        rejected.write_parquet(output / "rejected" / path.name)
        left += kept.height
    return left


def benchmark_whole(documents: int) -> dict[str, object]:
    """Wall seconds of the whole of deduplication, Parquet to Parquet, half of the documents in each language."""
    result: dict[str, object] = {}
    totals = {"ours": 0.0, "datatrove": 0.0}
    for language in SIZES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "input").mkdir()
            table = make_documents(language, documents // 2)
            inputs = []
            for number, piece in enumerate(table.iter_slices(SHARD)):
                inputs.append(folder / "input" / f"{number:05d}.parquet")
                piece.write_parquet(inputs[-1])
            deduplicate_files(inputs[:1], folder / "warm", DeduplicateConfig())
            wall: dict[str, list[float]] = {"ours": [], "datatrove": []}
            left: dict[str, int] = {}
            for turn in range(3):  # ours before, between and after: the machine's noise shows in the spread
                started = time.perf_counter()
                left["ours"] = deduplicate_files(inputs, folder / f"ours-{turn}", DeduplicateConfig())
                wall["ours"].append(time.perf_counter() - started)
                shutil.rmtree(folder / f"ours-{turn}")
                if turn == 0:
                    started = time.perf_counter()
                    with contextlib.redirect_stdout(io.StringIO()):
                        left["datatrove"] = datatrove_deduplicate(folder / "input", folder / "peer", language)
                    wall["datatrove"].append(time.perf_counter() - started)
        seconds = {name: statistics.median(values) for name, values in wall.items()}
        for name in totals:
            totals[name] += seconds[name]
        result[language] = {
            "documents": table.height,
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
            "left": left,
            "ours_over_datatrove": round(seconds["datatrove"] / seconds["ours"], 1),
        }
    result["ours_over_datatrove"] = round(totals["datatrove"] / totals["ours"], 1)
    return result


def benchmark_exactness(documents: int) -> dict[str, object]:
    """MinHash against the truth, over `documents` documents, half in each language."""
    config = DeduplicateConfig()
    shape = config.minhash
    number = shape.bands * shape.rows
    table = pl.concat([make_documents(language, documents // 2) for language in SIZES])
    table = table.with_columns(pl.Series("id", [f"{i:032x}" for i in range(table.height)]))
    with tempfile.TemporaryDirectory() as folder:
        collection = Collection(work=Path(folder), firsts=number_documents([table.height]), config=config)
        digest_shard(collection, 0, table)
        join_exact(collection)
        sign_shard(collection, 0, table)
        join_bands(collection)
        for part in parts(collection.work / "candidates"):
            verify_part(collection, int(part.stem))
        followers = pl.read_parquet(parts(collection.work / "followers"))["document"]
        found = pl.read_parquet(parts(collection.work / "verified"))
        candidates = pl.read_parquet(parts(collection.work / "candidates"))
        truth = _all_pairs(collection, np.setdiff1d(np.arange(table.height, dtype=np.uint64), followers.to_numpy()))
    signed = sign(table["text"], config)
    left, right = truth["left"].to_numpy(), truth["right"].to_numpy()
    jaccard = truth["jaccard"].to_numpy()
    estimate = (signed[left] == signed[right]).mean(1)
    spread = np.sqrt(jaccard * (1 - jaccard) / number)
    caught = truth.join(candidates.with_columns(pl.lit(True).alias("caught")), on=["left", "right"], how="left")
    caught_here = caught["caught"].fill_null(False).to_numpy()
    expected = catch_probability(jaccard, shape.bands, shape.rows)
    joined = truth.filter(pl.col("clause") > 0).select("left", "right")
    ours = found.filter(pl.col("clause") > 0).select("left", "right")
    high = jaccard >= config.verify.jaccard
    return {
        "documents": table.height,
        "pairs_compared": (table.height - len(followers)) * (table.height - len(followers) - 1) // 2,
        "pairs_with_jaccard_over_0.1": len(jaccard),
        "estimate_mean_error": float(np.mean(estimate - jaccard)),
        "estimate_standard_deviation": float(np.std(estimate - jaccard)),
        "standard_deviation_by_theory": float(np.sqrt(np.mean(spread**2))),
        "caught": int(caught_here.sum()),
        "caught_by_the_s_curve": float(np.sum(expected)),
        "catch_rate_by_jaccard": {
            f"{low / 10:.1f}-{low / 10 + 0.1:.1f}": [
                int(here.sum()), float(caught_here[here].mean()), float(np.mean(np.array(expected)[here])),
            ]
            for low in range(1, 10)
            if (here := (jaccard >= low / 10) & (jaccard < low / 10 + 0.1)).any()
        },
        "pairs_to_join": joined.height,
        "recall": joined.join(ours, on=["left", "right"], how="semi").height / max(1, joined.height),
        "precision": ours.join(joined, on=["left", "right"], how="semi").height / max(1, ours.height),
        "recall_at_jaccard_threshold": float(caught_here[high].mean()) if high.any() else 1.0,
    }  # fmt: skip


def _all_pairs(collection: Collection, documents: np.ndarray) -> pl.DataFrame:
    """Every pair of documents judged on whole texts, those under a Jaccard of 0.1 left out."""
    kept = []
    for start in range(0, len(documents), 50):
        block = documents[start : start + 50]
        left = np.repeat(block, len(documents))
        right = np.tile(documents, len(block))
        pairs = pl.DataFrame({"left": left, "right": right}).filter(pl.col("left") < pl.col("right"))
        kept.append(judge(collection, pairs).filter(pl.col("jaccard") >= 0.1))
    return pl.concat(kept)


def main() -> None:
    """Run the parts asked for and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["signatures", "whole", "exactness"], default=None)
    parser.add_argument("--documents", type=int, default=None, help="4000 for signatures, 20000 whole, 5000 exactness")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    work: dict[str, Callable[[], dict[str, object]]] = {
        "signatures": lambda: benchmark_signatures(args.documents or 4000, args.repeats),
        "whole": lambda: benchmark_whole(args.documents or 20_000),
        "exactness": lambda: benchmark_exactness(args.documents or 5000),
    }
    wanted = args.only or list(work)
    if len(wanted) == 1:
        figures = work[wanted[0]]()
        if args.json:
            print(json.dumps({wanted[0]: figures}, ensure_ascii=False))
            return
        print(wanted[0])
        for key, value in figures.items():
            print(f"  {key:32s} {json.dumps(value, ensure_ascii=False)}")
        return
    options = ["--repeats", str(args.repeats), *(["--documents", str(args.documents)] if args.documents else [])]
    options += ["--json"] if args.json else []
    for name in wanted:  # a process each: datatrove's stages cannot be copied once its tokenizers were used beside them
        subprocess.run([sys.executable, __file__, "--only", name, *options], check=True)


if __name__ == "__main__":
    main()
