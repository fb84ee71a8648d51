"""Repeated lines: navigation goes, headings stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from data.deduplicate import RepeatedLinesConfig
from data.repeated_lines import count_lines, join_lines, remove_lines, shard_repeated, split_lines

NOTICE = "We use cookies on this site so that it works well, and to learn how our readers use every page of it."
CONFIG = RepeatedLinesConfig(documents=4)


def pages(host: str | None, number: int) -> pl.DataFrame:
    texts = [
        f"Home\n首页\n\n第{i}篇文章 number {i}\n\nExamples\n\nBody {i} 正文{i * 7}。\n{NOTICE}\nMore of body {i}\n"
        f"Share\nPrint\nTop\nlast words {i}\n\nContact us\n聯絡我們"
        for i in range(number)
    ]
    return pl.DataFrame({"text": texts, "host": [host] * number}, schema={"text": pl.String, "host": pl.String})


def run(shards: list[pl.DataFrame], work: Path, config: RepeatedLinesConfig = CONFIG) -> list[pl.DataFrame]:
    for number, table in enumerate(shards):
        count_lines(table, work, number)
    join_lines(work, config, memory_mb=64)
    return [remove_lines(table, shard_repeated(work, number), config) for number, table in enumerate(shards)]


def test_navigation_goes_and_headings_stay(tmp_path: Path) -> None:
    first, second = run([pages("a.org", 2), pages("a.org", 3)], tmp_path)
    text = second["text"][1]
    assert text == "第1篇文章 number 1\n\nExamples\n\nBody 1 正文7。\nMore of body 1\nlast words 1"
    assert second["lines_removed"].to_list() == [8, 8, 8]
    assert first["lines_removed"].to_list() == [8, 8]


def test_what_is_not_repeated_enough_stays(tmp_path: Path) -> None:
    for name, shards in {
        "few": [pages("a.org", 3)],
        "two hosts": [pages("a.org", 3), pages("b.org", 3)],
        "no host": [pages(None, 9)],
    }.items():
        for before, after in zip(shards, run(shards, tmp_path / name), strict=True):
            assert after["text"].to_list() == before["text"].to_list()
            assert after["lines_removed"].sum() == 0


def test_a_line_counts_once_a_document(tmp_path: Path) -> None:
    table = pl.DataFrame({"text": ["same\n" * 20, "other text"], "host": ["a.org", "a.org"]})
    assert run([table], tmp_path)[0]["lines_removed"].sum() == 0


def test_a_share_of_the_host_is_asked_for(tmp_path: Path) -> None:
    rest = pl.DataFrame({"text": [f"only {i}" for i in range(95)], "host": ["a.org"] * 95})
    config = RepeatedLinesConfig(documents=4, share=0.1)
    assert run([pages("a.org", 5), rest], tmp_path, config)[0]["lines_removed"].sum() == 0


def test_lines_are_known_by_their_folded_units() -> None:
    lines = split_lines(pl.Series("text", ["聯絡我們\n联络 我们！\n\n***", "", None]))
    assert lines.keys[0] == lines.keys[1] != 0
    assert lines.keys[2:].tolist() == [0, 0, 0, 0]
    assert lines.offsets.tolist() == [0, 4, 5, 6]
    assert lines.units.tolist() == [4, 4, 0, 0, 0, 0]


def test_no_text_is_made_up(tmp_path: Path) -> None:
    """What is left of a text is a subsequence of its lines."""
    generator = np.random.default_rng(0)
    texts = ["\n".join(generator.choice(["a", "b", "", "nav", f"own {i}"], 12)) for i in range(60)]
    table = pl.DataFrame({"text": texts, "host": ["h"] * 60})
    after = run([table], tmp_path)[0]
    assert after["lines_removed"].sum() > 0
    for old, new in zip(texts, after["text"], strict=True):
        rest = iter(old.split("\n"))
        assert all(line in rest for line in new.split("\n") if line)
