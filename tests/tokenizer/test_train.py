"""Training: the same bytes every time, the vocabulary asked for, and one clear line for what cannot be done."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import yaml

from command_line import run_commands
from tokenizer.__main__ import COMMANDS
from tokenizer.byte_level import merge_byte_levels, merges_of, train_byte_level
from tokenizer.config import Algorithm, MergeConfig, PretokenizationConfig, SampleConfig, TokenizerConfig
from tokenizer.load import load_tokenizer
from tokenizer.train import train

Rows = Callable[..., list[dict[str, str]]]
Write = Callable[[Path, list[dict[str, str]]], Path]
Configure = Callable[..., TokenizerConfig]


def test_training_twice_gives_the_same_bytes(corpus_file: Path, tmp_path: Path) -> None:
    """In two processes, since the order of a hash table may differ between them."""
    (tmp_path / "config.yaml").write_text("{vocab_size: 700, sample: {megabytes: 0.1}}", encoding="utf-8")
    for name in ("one", "two"):
        command = ["train", "--config", str(tmp_path / "config.yaml"), "--input", str(corpus_file)]
        _run([*command, "--output", str(tmp_path / name)])
    files = sorted(path.name for path in (tmp_path / "one").iterdir() if path.name != "training.json")
    assert files == ["config.yaml", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_vocabulary_is_as_asked(bbpe_folder: Path) -> None:
    tokenizer = load_tokenizer(bbpe_folder)
    assert tokenizer.token_count == 600
    assert tokenizer.vocab_size == 640
    saved = yaml.safe_load((bbpe_folder / "config.yaml").read_text(encoding="utf-8"))
    assert saved["vocab_size"] == 600
    assert saved["sample"]["megabytes"] == 1.0


def test_parquet_and_zstandard_give_the_same_tokenizer(
    corpus_file: Path, tmp_path: Path, small_config: Configure
) -> None:
    polars = pytest.importorskip("polars")
    zstandard = pytest.importorskip("zstandard")
    rows = [json.loads(line) for line in corpus_file.read_text(encoding="utf-8").splitlines()]
    (tmp_path / "shards").mkdir()
    polars.DataFrame(rows).write_parquet(tmp_path / "shards" / "00000.parquet")
    (tmp_path / "corpus.jsonl.zst").write_bytes(zstandard.compress(corpus_file.read_bytes()))
    digests = set()
    for path in (corpus_file, tmp_path / "shards", tmp_path / "corpus.jsonl.zst"):
        train(small_config(), [path], tmp_path / "out")
        digests.add(load_tokenizer(tmp_path / "out").digest)
    assert len(digests) == 1


def test_merged_vocabularies_hold_both_languages(corpus_file: Path, tmp_path: Path, small_config: Configure) -> None:
    train(small_config(algorithm="merged_bbpe", vocab_size=500), [corpus_file], tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.token_count == 500
    text = "窗户 the window, 清晨的阳光"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) < len(text.encode()) / 2


def test_merging_keeps_the_order_of_both_and_their_shares(documents: Rows, small_config: Configure) -> None:
    """The merged list holds each vocabulary's first merges in their order, so many of each as the share says."""
    config = small_config(algorithm="merged_bbpe", vocab_size=900, merge=MergeConfig(chinese_share=0.7))
    chinese, english = (
        train_byte_level([row["text"] for row in documents(name, 200)], config, 1200) for name in ("zh", "en")
    )
    merged = merges_of(merge_byte_levels(chinese, english, config, 336))
    parts = [[pair for pair in merges_of(part) if pair in set(merged)] for part in (chinese, english)]
    for part, backend in zip(parts, (chinese, english), strict=True):
        assert part == merges_of(backend)[: len(part)]
        assert part == [pair for pair in merged if pair in set(part)]
    assert len(merged) == len(set(merged)) == 336 - 256
    assert len(parts[0]) / len(merged) == pytest.approx(0.7, abs=0.02)


def test_han_is_never_merged_beyond_its_rule(corpus_file: Path, tmp_path: Path, small_config: Configure) -> None:
    pretokenization = PretokenizationConfig(han="runs_of_2")
    train(small_config(pretokenization=pretokenization, vocab_size=1500), [corpus_file], tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    texts = [tokenizer.token_bytes(i).decode(errors="replace") for i in range(tokenizer.token_count)]
    assert max(sum("\u4e00" <= c <= "\u9fff" for c in text) for text in texts) == 2


def test_a_vocabulary_too_small_for_the_special_tokens() -> None:
    with pytest.raises(ValueError, match=r"vocab_size 290 is too small: 256 bytes, 37 special tokens"):
        TokenizerConfig(vocab_size=290)


def test_an_absent_language(tmp_path: Path, documents: Rows, write_jsonl: Write, small_config: Configure) -> None:
    path = write_jsonl(tmp_path / "zh.jsonl", documents("zh"))
    with pytest.raises(ValueError, match=r"no document of language en \(found zh 0\.\d MB\)"):
        train(small_config(), [path], tmp_path / "out")


def test_an_input_without_text(tmp_path: Path, small_config: Configure) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.jsonl: no text at all"):
        train(small_config(), [tmp_path / "empty.jsonl"], tmp_path / "out")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder: no .*parquet"):
        train(small_config(), [tmp_path / "folder"], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such file"):
        train(small_config(), [tmp_path / "nowhere"], tmp_path / "out")


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
def test_a_memory_limit_too_low(
    corpus_file: Path, tmp_path: Path, small_config: Configure, algorithm: Algorithm
) -> None:
    """Said before a token is learned: nothing is trained and nothing written."""
    config = small_config(algorithm=algorithm, memory_limit_gigabytes=0.1)
    with pytest.raises(ValueError, match=rf"{algorithm} on 0 MB needs about 0\.\d GB of memory, 0\.1 GB are allowed"):
        train(config, [corpus_file], tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("algorithm", ["bbpe", "sentencepiece_bpe"])
def test_the_estimate_of_memory_is_held(
    tmp_path: Path, documents: Rows, write_jsonl: Write, algorithm: Algorithm
) -> None:
    path = write_jsonl(tmp_path / "more.jsonl", documents("zh", 900, seed=1) + documents("en", 900, seed=1))
    run = _memory_of_training(algorithm, 3, [path], tmp_path)
    assert run["peak_memory_gigabytes"] < run["estimated_memory_gigabytes"]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["bbpe", "sentencepiece_bpe", "sentencepiece_unigram"])
@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_estimate_of_memory_is_held_on_real_text(
    tmp_path: Path, corpus: Path, algorithm: Algorithm, language: str
) -> None:
    """On each language alone, since each has a rate of its own; and the estimate is no more than thrice too high."""
    megabytes = 3 if algorithm == "sentencepiece_unigram" else 12  # unigram takes a minute for this much
    run = _memory_of_training(algorithm, megabytes, [corpus / "pretrain" / f"{language}.jsonl.zst"], tmp_path, language)
    assert run["peak_memory_gigabytes"] < run["estimated_memory_gigabytes"] < 3 * run["peak_memory_gigabytes"] + 0.4


def test_broken_records_are_counted_and_named(corpus_file: Path, tmp_path: Path, small_config: Configure) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(corpus_file.read_bytes() + b'{"no": "text"}\n\xff\xfe\n{"text": "cut')
    record = train(small_config(sample=SampleConfig(megabytes=0.05)), [broken], tmp_path / "out")
    unreadable = record["sample"]["unreadable"]  # type: ignore[index]
    assert unreadable["count"] == 3
    assert "broken.jsonl, line 121" in unreadable["examples"][0]


def test_a_wrong_command_line_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{vocab_sise: 600}", encoding="utf-8")
    command = ["train", "--config", str(tmp_path / "config.yaml"), "--input", "x", "--output", "y"]
    result = subprocess.run([sys.executable, "-m", "tokenizer", *command], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "vocab_sise" in result.stderr


def test_every_mistake_is_one_line(
    tmp_path: Path, corpus_file: Path, documents: Rows, write_jsonl: Write, capfd: pytest.CaptureFixture[str]
) -> None:
    """On the command line: what is wrong, in which file or key, and nothing else but progress."""
    chinese = write_jsonl(tmp_path / "zh.jsonl", documents("zh"))
    empty = write_jsonl(tmp_path / "empty.jsonl", [])
    mistakes: list[tuple[list[str], Path, str]] = [
        (["--vocab_size", "200"], corpus_file, "vocab_size 200 is too small: 256 bytes, 37 special tokens"),
        (["--vocab_size", "350", "--algorithm", "sentencepiece_bpe"], corpus_file, "82 for white space"),
        ([], chinese, "no document of language en"),
        (["--algorithm", "sentencepiece_unigram"], chinese, "no document of language en"),
        (
            ["--algorithm", "merged_bbpe", "--sample.language_weights", "{zh: 1.0}"],
            corpus_file,
            "the sample holds only zh",
        ),
        (
            ["--algorithm", "merged_bbpe", "--sample.language_weights", "{en: 1.0}"],
            corpus_file,
            "the sample holds only en",
        ),
        ([], empty, "no text at all to train a tokenizer on"),
        (["--memory_limit_gigabytes", "0.1"], corpus_file, "0.1 GB are allowed"),
        (["--memory_limit_gigabytes", "0.1", "--algorithm", "sentencepiece_bpe"], corpus_file, "0.1 GB are allowed"),
        (["--vocab_size", "400", "--algorithm", "sentencepiece_bpe"], corpus_file, "SentencePiece cannot make"),
    ]
    for arguments, path, line in mistakes:
        command = ["train", *arguments, "--input", str(path), "--output", str(tmp_path / "out")]
        try:
            status = run_commands("python -m tokenizer", COMMANDS, command)
        except SystemExit as stop:  # the parser's own way out, for what a configuration alone shows
            status = int(str(stop.code))
        lines = capfd.readouterr().err.splitlines()
        errors = [text for text in lines if not text.startswith(("counting", "training"))]
        assert status in (1, 2)
        assert len(errors) == 1, errors
        assert errors[0].startswith("error: ")
        assert line in errors[0]
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def _memory_of_training(
    algorithm: str, megabytes: float, paths: list[Path], tmp_path: Path, language: str = ""
) -> dict[str, float]:
    """The run's record of a training in a process of its own."""
    weights = f", language_weights: {{{language}: 1.0}}" if language else ""
    text = f"{{algorithm: {algorithm}, vocab_size: 8000, sample: {{megabytes: {megabytes}{weights}}}}}"
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    command = ["train", "--config", str(tmp_path / "config.yaml"), "--input", *map(str, paths)]
    record = json.loads(_run([*command, "--output", str(tmp_path / "out"), "--json"]))
    run: dict[str, float] = record["run"]
    return run


def _run(arguments: list[str]) -> str:
    command = [sys.executable, "-m", "tokenizer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
