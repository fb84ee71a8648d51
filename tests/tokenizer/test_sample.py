"""The sample: its size and shares, the same whatever the order, no document above another."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenizer.config import SampleConfig
from tokenizer.corpus import Faults, read_documents
from tokenizer.sample import MOST_STRATA, cut, plan_sample

Rows = Callable[..., list[dict[str, str]]]
Write = Callable[[Path, list[dict[str, str]]], Path]


def test_size_and_balance(tmp_path: Path, documents: Rows, write_jsonl: Write) -> None:
    path = write_jsonl(tmp_path / "corpus.jsonl", documents("zh", 400) + documents("en", 900))
    sample = plan_sample([path], SampleConfig(megabytes=0.2, piece_bytes=512))
    pieces = list(sample.pieces())
    sizes: Counter[str] = Counter()
    for (language, _), tally in sample.drawn.items():
        sizes[language] += tally.text_bytes
    assert sum(sizes.values()) == sum(len(piece.encode()) for piece in pieces)
    assert sizes["zh"] == pytest.approx(1e5, rel=0.15)
    assert sizes["en"] == pytest.approx(1e5, rel=0.15)
    assert sample.expected_bytes == pytest.approx(2e5, rel=1e-3)
    assert {source for _, source in sample.drawn} == {f"{lang}-source-{i}" for lang in ("zh", "en") for i in range(3)}


def test_a_scarce_language_holds_the_others_back(tmp_path: Path, documents: Rows, write_jsonl: Write) -> None:
    path = write_jsonl(tmp_path / "corpus.jsonl", documents("zh", 30) + documents("en", 900))
    balanced = plan_sample([path], SampleConfig(megabytes=10))
    chinese = balanced.available["zh", "zh-source-0"].text_bytes * 3
    assert balanced.expected_bytes == pytest.approx(2 * chinese, rel=0.02)
    everything = plan_sample([path], SampleConfig(megabytes=10, keep_balance=False))
    assert everything.expected_bytes == sum(tally.text_bytes for tally in everything.available.values())


def test_order_and_files_change_nothing(tmp_path: Path, documents: Rows, write_jsonl: Write) -> None:
    rows = documents("zh", 200) + documents("en", 200)
    first = write_jsonl(tmp_path / "a.jsonl", rows)
    random.Random(0).shuffle(rows)
    others = [write_jsonl(tmp_path / f"b{i}.jsonl", rows[i::3]) for i in range(3)]
    config = SampleConfig(megabytes=0.1, piece_bytes=300)
    drawn = sorted(plan_sample([first], config).pieces())
    assert sorted(plan_sample(others, config).pieces()) == drawn
    other_seed = SampleConfig(megabytes=0.1, piece_bytes=300, seed=1)
    assert sorted(plan_sample([first], other_seed).pieces()) != drawn


def test_pieces_are_the_text_and_no_longer_than_said() -> None:
    rng = random.Random(0)
    for _ in range(100):
        text = "".join(rng.choice("你好ab 。\n\r") * rng.randint(1, 90) for _ in range(60))
        pieces = list(cut(text, 300))
        assert "".join(pieces) == text
        assert max(len(piece.encode()) for piece in pieces) <= 300 + 600


def test_small_sources_weigh_more_than_their_size(tmp_path: Path, documents: Rows, write_jsonl: Write) -> None:
    rows = documents("zh", 600) + documents("en", 600)
    for i, row in enumerate(rows):
        row["source"] = "small" if i % 10 == 0 else "large"
    path = write_jsonl(tmp_path / "corpus.jsonl", rows)
    as_it_lies = plan_sample([path], SampleConfig(megabytes=0.2, source_exponent=1.0)).rates
    evened = plan_sample([path], SampleConfig(megabytes=0.2, source_exponent=0.5)).rates
    assert as_it_lies["zh", "small"] == pytest.approx(as_it_lies["zh", "large"])
    assert evened["zh", "small"] == pytest.approx(3 * evened["zh", "large"], rel=0.05)


def test_counters_stay_few(tmp_path: Path, documents: Rows, write_jsonl: Write) -> None:
    rows = documents("zh", 2 * MOST_STRATA)
    for i, row in enumerate(rows):
        row["source"], row["text"] = f"source {i}", row["text"][:60]
    path = write_jsonl(tmp_path / "corpus.jsonl", rows + documents("en", 10))
    sample = plan_sample([path], SampleConfig(megabytes=0.05, piece_bytes=256))
    assert len(sample.available) <= MOST_STRATA + 2
    assert sum(1 for _ in sample.pieces()) > 10


def test_languages_are_guessed_where_no_row_says(tmp_path: Path, write_jsonl: Write) -> None:
    texts = ["清晨的阳光照进窗户", "The morning light", "他在 GitHub 上 writes Rust and Python code every single day"]
    path = write_jsonl(tmp_path / "corpus.jsonl", [{"text": text} for text in texts])
    assert [document.language for document in read_documents([path], Faults())] == ["zh", "en", "mixed"]
