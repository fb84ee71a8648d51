"""Encoding beside its peers on the same documents in one run: the stage tokenize, the bare library, datatrove.

    bare         tokenizers' encode_batch over texts in memory, 1,000 at a time; nothing is read or written
    stage        data.tokenize.encode_shard: a Parquet shard read, encoded by the kernel, written as token shards
    stage, cold      the same as the first shard of a process: the kernel's tables are made first (from 2 MB on)
    stage, library   the same with `tokenize.encoder: library`, as it is for less than 2 MB
    datatrove    DocumentTokenizer over documents in memory, written to its own files, without shuffling

All use the same tokenizer.json, loaded anew by each side before each round (untimed: one loaded object of the library
is up to 1.6x as fast as the next on the same text, as its hash tables fall) and warmed by a tenth of the text. Runs
alternate, the figures are medians over the rounds, a ratio is the median of the rounds' ratios, and `best` the ratio of
each side's fastest round, which a crowded machine disturbs least. Rates are by processor time, which other programs on
the machine disturb less, and by the clock.

    python benchmarks/tokenizer.py [--tokenizer DIR] [--documents PATH] [--megabytes 6] [--rounds 5] [--json]

Without --tokenizer one of 32,000 tokens is trained on the documents first.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    corpus = Path(os.environ.get("TIANKONG_CORPUS", Path(__file__).resolve().parents[2] / "shared" / "corpus"))
    parser.add_argument("--tokenizer", type=Path, help="a trained folder")
    parser.add_argument("--documents", type=Path, nargs="+", default=[corpus / "documents"])
    parser.add_argument("--megabytes", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)  # before the library starts its threads
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    with tempfile.TemporaryDirectory() as name:
        figures = benchmark(arguments, Path(name))
    if arguments.json:
        print(json.dumps(figures, ensure_ascii=False))
        return
    for group, values in figures.items():
        print(group)
        for key, value in values.items():
            print(f"  {key:<40}{value:>10.2f}")


def benchmark(arguments: argparse.Namespace, work: Path) -> dict[str, dict[str, float]]:
    """Figures by language: MB/s of each contender, and the stage's ratios to its peers."""
    from tokenizer.config import SampleConfig, TokenizerConfig
    from tokenizer.train import train

    texts = _texts(arguments.documents, arguments.megabytes)
    folder = arguments.tokenizer
    if folder is None:
        folder = work / "tokenizer"
        config = TokenizerConfig(vocab_size=32_000, sample=SampleConfig(megabytes=2 * arguments.megabytes))
        train(config, arguments.documents, folder)
    figures: dict[str, dict[str, float]] = {}
    for language in ("zh", "en"):
        contenders = _contenders(texts[language], language, folder, work)
        clock: dict[str, list[float]] = {name: [] for name in contenders}
        processor: dict[str, list[float]] = {name: [] for name in contenders}
        for round_ in range(arguments.rounds + 1):  # the first is not counted: files in the cache, threads started
            for name, load in contenders.items():
                run = load()
                started = time.perf_counter(), time.process_time()
                run()
                if round_:
                    clock[name].append(time.perf_counter() - started[0])
                    processor[name].append(time.process_time() - started[1])
        megabytes = sum(len(text.encode()) for text in texts[language]) / 1e6
        figures[language] = {}
        for kind, seconds in (("processor", processor), ("clock", clock)):
            for name in contenders:
                figures[language][f"{name} MB/s, {kind}"] = megabytes / statistics.median(seconds[name])
            for ours in (name for name in contenders if name.startswith("stage")):
                for name in ("bare", "datatrove"):
                    ratios = (peer / own for peer, own in zip(seconds[name], seconds[ours], strict=True))
                    figures[language][f"{ours} / {name}, {kind}"] = statistics.median(ratios)
                    figures[language][f"{ours} / {name}, {kind}, best"] = min(seconds[name]) / min(seconds[ours])
    return figures


def _texts(paths: list[Path], megabytes: float) -> dict[str, list[str]]:
    from tokenizer.corpus import Faults, read_documents

    texts: dict[str, list[str]] = {"zh": [], "en": []}
    sizes = {"zh": 0, "en": 0}
    for document in read_documents(paths, Faults()):
        if document.language in texts and sizes[document.language] < megabytes * 1e6:
            texts[document.language].append(document.text)
            sizes[document.language] += len(document.text.encode())
    return texts


def _contenders(
    texts: list[str], language: str, folder: Path, work: Path
) -> dict[str, Callable[[], Callable[[], object]]]:
    """Of each contender, what loads its tokenizer and returns the work to time."""
    import polars as pl
    import tokenizers
    from datatrove.data import Document
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.utils.logging import logger

    import data.tokenize
    from data.encode_kernels import character_classes
    from data.tokenize import TokenizeConfig, encode_shard
    from tokenizer.load import load_tokenizer

    logger.remove()
    logging.disable(logging.INFO)
    shard, small = work / f"{language}.parquet", work / f"{language}-small.parquet"
    for path, part in ((shard, texts), (small, texts[: len(texts) // 10 + 1])):
        pl.DataFrame({"text": part, "language": language, "kind": "prose"}).write_parquet(path)
    documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]

    def bare() -> Callable[[], object]:
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.encode_batch(texts[: len(texts) // 10 + 1])
        return lambda: [tokenizer.encode_batch(texts[start : start + 1000]) for start in range(0, len(texts), 1000)]

    def stage(config: TokenizeConfig, *, cold: bool = False) -> Callable[[], object]:
        data.tokenize._encoders.clear()
        tokenizer = load_tokenizer(folder)
        if cold:
            character_classes.cache_clear()
        else:
            encode_shard(small, tokenizer, work / "stage", config)
        return lambda: encode_shard(shard, tokenizer, work / "stage", config)

    def datatrove() -> Callable[[], object]:
        step = DocumentTokenizer(
            output_folder=str(work / "datatrove"),
            tokenizer_name_or_path=str(folder / "tokenizer.json"),
            eos_token="<|endoftext|>",
            shuffle_documents=False,
            batch_size=1000,
        )
        step.tokenizer.encode_batch(texts[: len(texts) // 10 + 1])  # which also loads it
        return lambda: step.run(iter(documents), rank=0, world_size=1)

    contenders = {
        "bare": bare,
        "stage": lambda: stage(TokenizeConfig(encoder="kernel")),
        "stage, library": lambda: stage(TokenizeConfig(encoder="library")),
        "datatrove": datatrove,
    }
    if sum(len(text.encode()) for text in texts) >= data.tokenize.KERNEL_PAYS_FROM:
        contenders["stage, cold"] = lambda: stage(TokenizeConfig(), cold=True)
    return contenders


if __name__ == "__main__":
    main()
