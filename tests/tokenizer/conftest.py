"""A small corpus written on the spot, and tokenizers trained on it once a session."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenizer.config import SampleConfig, SentencePieceConfig, TokenizerConfig
from tokenizer.load import Tokenizer, load_tokenizer
from tokenizer.train import train

ZH = "清晨的阳光照进窗户街上传来卖豆浆的声音他打开书读了一页又合上想起昨天老师说过的话学习不是为了考试而是为了看得更远"
EN = "the morning light came through the window and the street was full of voices he opened his book read a page"


def sentence(rng: random.Random, language: str) -> str:
    """An invented sentence in Chinese or English."""
    if language == "zh":
        clauses = ["".join(rng.choice(ZH) for _ in range(rng.randint(4, 9))) for _ in range(3)]
        return "，".join(clauses) + "。"
    words = " ".join(rng.choice(EN.split()) for _ in range(rng.randint(6, 14)))
    return words.capitalize() + ", isn't it? " + str(rng.randint(0, 9999)) + "."


def _documents(language: str, count: int = 60, seed: int = 0) -> list[dict[str, str]]:
    """Rows of an invented corpus in one language."""
    rng = random.Random(f"{language}{seed}")
    return [
        {
            "text": "\n".join(sentence(rng, language) for _ in range(12)),
            "language": language,
            "source": f"{language}-source-{i % 3}",
        }
        for i in range(count)
    ]


def _write_jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def _small_config(**changes: object) -> TokenizerConfig:
    """A configuration that trains within a second."""
    fields: dict[str, object] = {"vocab_size": 600, "sample": SampleConfig(megabytes=1.0)}
    return TokenizerConfig(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file with both languages."""
    rows = _documents("zh") + _documents("en")
    return _write_jsonl(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", rows)


@pytest.fixture(scope="session")
def bbpe_folder(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE's folder."""
    folder = tmp_path_factory.mktemp("bbpe")
    train(_small_config(), [corpus_file], folder)
    return folder


@pytest.fixture(scope="session")
def bbpe(bbpe_folder: Path) -> Tokenizer:
    """The byte-level BPE, loaded."""
    return load_tokenizer(bbpe_folder)


@pytest.fixture(scope="session", params=["bbpe", "merged_bbpe", "sentencepiece_bpe", "sentencepiece_unigram"])
def any_folder(request: pytest.FixtureRequest, corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each algorithm."""
    folder = tmp_path_factory.mktemp(request.param)
    sentencepiece = SentencePieceConfig(threads=1, character_coverage=1.0)
    train(_small_config(algorithm=request.param, vocab_size=900, sentencepiece=sentencepiece), [corpus_file], folder)
    return folder


@pytest.fixture(scope="session")
def any_tokenizer(any_folder: Path) -> Tokenizer:
    """A tokenizer of each algorithm."""
    return load_tokenizer(any_folder)


@pytest.fixture(scope="session")
def documents() -> Callable[..., list[dict[str, str]]]:
    """Makes rows of an invented corpus: `documents(language, count, seed)`."""
    return _documents


@pytest.fixture(scope="session")
def write_jsonl() -> Callable[[Path, list[dict[str, str]]], Path]:
    """Writes rows as JSON lines."""
    return _write_jsonl


@pytest.fixture(scope="session")
def small_config() -> Callable[..., TokenizerConfig]:
    """Makes a configuration that trains within a second."""
    return _small_config
