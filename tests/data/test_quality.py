"""The quality model: it orders documents, its score is a column, and the pipeline runs without it."""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import pytest

from data.annotate import AnnotateConfig, annotate
from data.quality import train, words_of

GOOD = ["河水在夜里退了下去", "我们走到岸边的时候", "看见一条石头铺成的路", "没有人说得清水到哪里去了"]
BAD = [
    "免费",
    "送",
    "彩金",
    "官网",
    "注册",
    "开户",
    "返利",
    "优惠",
    "包邮",
    "正品",
    "代理",
    "加盟",
    "招商",
    "秒批",
    "贷款",
    "直播",
]


def documents(parts: list[str], count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return ["，".join(generator.choices(parts, k=12)) + "。" for _ in range(count)]


def test_han_characters_are_words() -> None:
    assert words_of(pl.Series(["今天 Hello, 世界\n3.5！"])).to_list() == ["今 天 hello 世 界 3 5"]


def test_a_trained_model_scores_its_language_alone(tmp_path: Path) -> None:
    pytest.importorskip("fasttext")
    path = tmp_path / "zh.bin"
    figures = train(documents(GOOD, 100, 1), documents(BAD, 100, 2), path)
    assert figures["accuracy"] > 0.9
    assert [file.name for file in tmp_path.iterdir()] == ["zh.bin"]
    english = "The river had fallen in the night, and there was a road of stones across it."
    texts = [documents(GOOD, 1, 3)[0], documents(BAD, 1, 4)[0], english]
    scores = annotate(pl.DataFrame({"text": texts}), AnnotateConfig(quality_models={"zh": str(path)}))["quality_score"]
    assert scores[0] > 0.5 > scores[1]
    assert scores[2] is None
    assert annotate(pl.DataFrame({"text": texts}), AnnotateConfig())["quality_score"].is_null().all()


def test_mistakes_are_named(tmp_path: Path) -> None:
    pytest.importorskip("fasttext")
    with pytest.raises(ValueError, match="20 documents a side: found 3 good, 0 bad"):
        train(documents(GOOD, 3, 1), [], tmp_path / "zh.bin")
    config = AnnotateConfig(quality_models={"zh": str(tmp_path / "none.bin")})
    with pytest.raises(ValueError, match="no model at"):
        annotate(pl.DataFrame({"text": GOOD}), config)


def test_model_of_a_language_that_does_not_exist_is_refused() -> None:
    """It would score no document, and the bounds and buckets of its language would hold nothing back."""
    with pytest.raises(ValueError, match=r"annotate\.quality_models: 'chinese' is none of zh, en, mixed, other"):
        AnnotateConfig(quality_models={"chinese": "zh.bin"})
