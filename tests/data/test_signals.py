"""Signals: every kernel against a plain Python reading of its definition, and against datatrove's own functions."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.annotate import AnnotateConfig, annotate, count
from data.repetition_kernels import BLOCK_COUNTS, REPETITION_COUNTS, scan_blocks, scan_repetition
from data.signals import SIGNAL_COLUMNS, SIGNALS, SUPPLIED_SIGNALS, signal_table
from data.text_kernels import measured_units, text_buffers, units

HAN = r"[\u2e80-\u2fd5\u3005-\u3007\u3021-\u3029\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
CHINESE = (
    "他在村口等了很久，天黑了才回家。第二天，雨停了，路上有许多落叶。老人说：“这样的秋天，几十年没有见过。”孩子们不信。"
)
ENGLISH = (
    "The river had fallen in the night, and by the time that we came down to it there was a road of stones across."
)

words = st.sampled_from(
    ["the", "cat", "不", "在", "of", "7", "don't", "ein", "。", "\n", "\n\n", " ", ",", "河", "a1", "…", "的"]
)
texts = st.lists(words, max_size=120).map("".join) | st.text(max_size=80)


def reference_units(text: str) -> list[str]:
    """Han characters and kana one by one, other letters and digits in runs, apostrophes inside."""
    pattern = re.compile(rf"{HAN}|[\u3041-\u30ff]|[a-zA-Z0-9]+(?:['’][a-zA-Z][a-zA-Z0-9]*)*")
    return pattern.findall(text)


def buffers(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return text_buffers(pl.Series(texts, dtype=pl.String))


@given(st.lists(st.lists(words, max_size=60).map("".join), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_units_are_han_characters_and_words(documents: list[str]) -> None:
    hashes, offsets = units(*buffers(documents))
    seen: dict[int, str] = {}
    for position, text in enumerate(documents):
        expected = reference_units(text)
        got = hashes[offsets[position] : offsets[position + 1]].tolist()
        assert len(got) == len(expected)
        for key, unit in zip(got, expected, strict=True):
            assert seen.setdefault(key, unit.replace("’", "'")) == unit.replace("’", "'")
    assert len(seen) == len(set(seen.values()))


def test_units_of_a_slice_are_those_of_its_rows() -> None:
    column = pl.Series(["一二三", "four five", "", "六 seven 八"])
    whole, offsets = units(*text_buffers(column))
    part, part_offsets = units(*text_buffers(column[1:]))
    assert part.tolist() == whole[offsets[1] :].tolist()
    assert part_offsets.tolist() == [0, 2, 2, 5]
    assert units(*text_buffers(pl.Series([None, None], dtype=pl.String)))[1].tolist() == [0, 0, 0]


@given(texts)
@settings(max_examples=80, deadline=None)
def test_classes_count_every_character_once(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    row = count(pl.Series([text], dtype=pl.String)).row(0, named=True)
    assert row["characters"] == len(text)
    names = [
        "symbols",
        "han",
        "kana",
        "hangul",
        "latin",
        "letters",
        "digits",
        "spaces",
        "newlines",
        "punctuation",
        "controls",
    ]
    assert sum(row[name] for name in names) == len(text)
    assert row["han"] == len(re.findall(HAN, text))
    assert row["newlines"] == text.count("\n")
    assert row["digits"] == sum(unicodedata.category(character) == "Nd" for character in text)
    assert row["curly_brackets"] == text.count("{")
    assert row["hashes"] == text.count("#")
    assert row["ellipses"] == text.count("...") + text.count("…")


@given(st.lists(texts, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_repetition_is_datatroves(documents: list[str]) -> None:
    gopher = pytest.importorskip("datatrove.pipeline.filters.gopher_repetition_filter")
    documents = [text.encode("utf-8", "ignore").decode() for text in documents]
    buffer, offsets = buffers(documents)
    blocks = scan_blocks(buffer, offsets)
    hashes, lengths, unit_offsets, _ = measured_units(buffer, offsets)
    repetition = scan_repetition(hashes, lengths, unit_offsets)
    for position, text in enumerate(documents):
        lines = re.split(r"\n+", text)
        paragraphs = re.split(r"\n{2,}", text.strip())
        if text.strip(" \t\n\r\v\f") == text.strip():  # Python strips more kinds of white space than pages hold
            assert blocks[position].tolist() == [
                len(lines), *gopher.find_duplicates(lines), len(paragraphs), *gopher.find_duplicates(paragraphs),
                max((n * len(line) for line, n in Counter(lines).items() if n > 2), default=0),
            ]  # fmt: skip
        # words that no other sequence of words spells, since datatrove joins them without spaces
        keys = hashes[unit_offsets[position] : unit_offsets[position + 1]].tolist()
        sizes = lengths[unit_offsets[position] : unit_offsets[position + 1]].tolist()
        names = {key: chr(0xE000 + index) for index, key in enumerate(dict.fromkeys(keys))}
        spelled = [names[key] * size for key, size in zip(keys, sizes, strict=True)]
        expected = []
        for n in (2, 3, 4):
            grams = gopher.get_n_grams(spelled, n)
            expected.append(gopher.find_top_duplicate(grams) if grams else 0)
        expected += [gopher.find_all_duplicate(spelled, n) for n in range(5, 11)]
        assert repetition[position].tolist() == expected


def test_names_of_counts_match_the_kernels() -> None:
    row = count(pl.Series([CHINESE]))
    assert set(REPETITION_COUNTS) | set(BLOCK_COUNTS) <= set(row.columns)
    assert len(set(row.columns)) == len(row.columns)


@pytest.mark.parametrize(
    ("text", "signal", "expected"),
    [
        (CHINESE, "terminal_line_share", 1.0),
        ("他说：“走吧。”", "terminal_line_share", 1.0),  # a closing quote after the mark
        ("他说：“走吧。”", "stop_line_share", 0.0),  # FineWeb's rule does not see through it
        ("See http://a.example/x.\nSee www.a.example/x", "stop_line_share", 0.5),  # the mark is read as of the address
        ("See http://a.example/x...\nSee http://a.example/x..\nwww...\nwww.x...y", "ellipsis_line_share", 0.5),
        ("第一行。\n第二行\n", "terminal_line_share", 0.5),
        ("首页 | 新闻 | 下载 | 关于", "prose_share", 0.0),
        ("首页  新闻  下载  关于  论坛  帮助  登录  注册  搜索  排行", "prose_share", 0.0),
        (CHINESE, "prose_share", 1.0),
        (ENGLISH, "prose_share", 1.0),
        ("12.5 33 81 9 7 4112\n17 9 2 5 77 12.25", "prose_share", 0.0),
        ("free casino here - http://a.example/x1", "url_share", 19 / 34),
        ("【公告】正文", "bracketed_share", 2 / 6),
        ("- 一\n• 二\n三\n四", "bullet_line_share", 0.5),
        ("1. 一\n● 二\n三\n四", "list_line_share", 0.5),
        ("等等……\n走了。", "ellipsis_line_share", 0.5),
        ("锟斤拷锟斤拷好", "damaged_share", 2 / 7),
        ("锟铻", "damaged_share", 0.0),  # a place name's character alone is no damage
        ("鐨勬槸的", "rare_han_share", 3 / 4),
        ("上一篇：甲 下一篇：乙", "boilerplate_per_word", 2 / 8),
        ("Terms of Use | PRIVACY POLICY", "policy_phrases", 2),
        ("Please enable JavaScript, javascript.", "javascript_mentions", 2),
        ("I don't know, it’s late", "alphabetic_word_share", 5 / 6),  # an apostrophe within a word is no token
        ("He said 'no'", "alphabetic_word_share", 3 / 5),
        ("很好\u2764\ufe0f", "words", 2),  # an emoji's variation selector is no word
        ("the cat and the dog", "gopher_stop_words", 2),
        ("他的书在这里", "fineweb2_stop_words", 3),
        ("好。真的？是！", "sentences", 3),
        ("It is 3.14, e.g. pi. Is it? Yes", "sentences", 3),
        ("ＡＢＣ漢字", "han_share", 2 / 5),
    ],
)
def test_signal(text: str, signal: str, expected: float) -> None:
    value = annotate(pl.DataFrame({"text": [text]}), AnnotateConfig())[signal][0]
    assert value == pytest.approx(expected, abs=1e-6)


C4_LINES = (
    "One two three. Four five six! Seven", "Two words.", "He said “stop it.” Then he left.",
    "Dr. No [12] came. And went.",
    "a {b} c", "please enable JAVASCRIPT now", "read the Terms of Use today. Now.", "He reuses cookies daily. Really?",
    "lowercase p.m. and 3.14 are fine", "x" * 1001 + " a b c", "tail\u00a0of words. End",
)  # fmt: skip


@given(st.lists(st.sampled_from(C4_LINES), max_size=8))
@settings(max_examples=40, deadline=None)
def test_c4_sentences_are_datatroves_but_for_its_sentence_splitter(lines: list[str]) -> None:
    """datatrove's filter with the sentences of each line counted as here; its own splitter (spaCy) is benchmarked."""
    c4 = pytest.importorskip("datatrove.pipeline.filters.c4_filters")
    from datatrove.data import Document

    counted: list[int] = []

    def count_sentences(line: str, _language: str) -> list[str]:
        parts = re.split(r"""(?<=[.!?])["')\]’”]*\s+""", line)
        counted.append(len(parts))
        return parts

    text = "\n".join(lines)
    row = annotate(pl.DataFrame({"text": [text]}), AnnotateConfig()).row(0, named=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(c4, "split_into_sentences", count_sentences)
        verdict = c4.C4QualityFilter(filter_no_terminal_punct=False, min_num_sentences=0).filter(Document(text, "0"))
    assert (verdict is not True) == (row["c4_curly_brackets"] > 0)
    if verdict is True:
        assert row["c4_sentences"] == sum(counted)


def test_annotate_adds_every_column_once_and_drops_nothing() -> None:
    table = pl.DataFrame({"id": ["a", "b", "c"], "text": [CHINESE, "", ENGLISH], "url": [None, "http://x.y", "bad"]})
    once = annotate(table, AnnotateConfig())
    assert once.height == 3
    assert {name: once.schema[name] for name in SIGNAL_COLUMNS} == SIGNAL_COLUMNS
    assert annotate(once, AnnotateConfig()).equals(once)  # measured again, not added again
    assert annotate(table, AnnotateConfig(batch_bytes=1)).equals(once)
    assert annotate(table.clear(), AnnotateConfig()).columns == once.columns
    shares = once.select(signal.name for signal in SIGNALS if signal.unit == "share")
    assert not any(shares.select(pl.all().is_nan().any()).row(0))


def test_a_users_lists_become_signals(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(" # comment\n赌场\nCasin\nCasino\n", encoding="utf-8")
    (tmp_path / "hosts.txt").write_text("bad.example\n", encoding="utf-8")
    config = AnnotateConfig(flagged_words=str(tmp_path / "words.txt"), flagged_hosts=str(tmp_path / "hosts.txt"))
    table = pl.DataFrame(
        {
            "text": ["去赌场赌", "a casino", "casinos, 去Casino玩"],  # a longer word is another word
            "url": ["https://www.BAD.example:8080/x", "http://notbad.example", None],
        }
    )
    found = annotate(table, config)
    assert found["flagged_word_share"].to_list() == pytest.approx([2 / 4, 6 / 8, 6 / 17])
    assert found["flagged_host"].to_list() == [True, False, False]
    (tmp_path / "words.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "gbk.words.txt").write_bytes("赌场".encode("gbk"))
    with pytest.raises(ValueError, match=r"words\.txt: not UTF-8"):
        annotate(table, AnnotateConfig(flagged_words=str(tmp_path / "gbk.words.txt")))
    with pytest.raises(ValueError, match="list is empty"):
        annotate(table, AnnotateConfig(flagged_words=str(tmp_path / "words.txt"), batch_bytes=7))


def test_the_table_of_signals_is_sound() -> None:
    names = [signal.name for signal in (*SIGNALS, *SUPPLIED_SIGNALS)]
    assert len(names) == len(set(names))
    assert all(signal.definition and signal.source for signal in SIGNALS)


def test_the_documentation_prints_the_table(project: Path) -> None:
    assert signal_table() in (project / "docs" / "signals.md").read_text(encoding="utf-8")
    chinese = (project / "docs" / "signals.zh.md").read_text(encoding="utf-8")
    units = {"count": "个", "share": "占比", "characters": "字符", "per word": "每词", "score": "分"}
    units["yes or no"] = "是否"
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| .+ \| .+ \|$", chinese, re.MULTILINE)
    expected = [(signal.name, units[signal.unit]) for signal in (*SIGNALS, *SUPPLIED_SIGNALS)]
    assert [row for row in rows if row[0] in SIGNAL_COLUMNS] == expected
