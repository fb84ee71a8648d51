"""The fold: what compares equal, and what does not."""

from __future__ import annotations

import unicodedata

import numpy as np
import opencc
import polars as pl
import pytest

from data.exact import folded_digests
from data.folding import FOLD_SIZE, fold, fold_table
from data.shingles import folded_units, is_code, placed_units, titled_units


def folded(text: str) -> str:
    return str(fold(pl.Series("text", [text]))[0])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("臺灣與香港，裡面著名的乾隆", "台湾与香港,里面着名的干隆"),
        ("ＡＢＣ　１２３", "abc 123"),
        ("Hello,   World!\r\n\tAgain", "hello, world! again"),
        ("漢 字 之 間", "汉字之间"),
        ("“quoted” ‘words’", "\"quoted\" 'words'"),
        ("soft\u00adhyphen\u200b", "softhyphen"),
        ("ｶﾀｶﾅ", "カタカナ"),
    ],
)
def test_these_are_the_same_text(one: str, other: str) -> None:
    assert folded(one) == folded(other)


@pytest.mark.parametrize(("one", "other"), [("ab c", "a bc"), ("天津", "大津"), ("3.14", "314"), ("not", "now")])
def test_these_are_not(one: str, other: str) -> None:
    assert folded(one) != folded(other)


@pytest.mark.parametrize("name", ["s2t", "s2tw", "s2hk"])
def test_a_traditional_copy_folds_to_its_simplified_page(name: str) -> None:
    """Against OpenCC's phrase conversion, over every Han character that it knows to convert, one at a time."""
    characters = [chr(c) for c in range(0x4E00, 0xA000) if unicodedata.category(chr(c)) == "Lo"]
    converted = opencc.OpenCC(name).convert("\n".join(characters)).split("\n")
    table = fold_table() & 0xFFFFFF
    assert sum(a != b for a, b in zip(characters, converted, strict=True)) > 2000
    assert all(table[ord(a)] == table[ord(b)] for a, b in zip(characters, converted, strict=True) if len(b) == 1)


def test_fold_is_idempotent() -> None:
    table = fold_table() & 0xFFFFFF
    targets = table[table != 0]
    assert (table[targets] == targets).all()
    assert len(table) == FOLD_SIZE
    text = pl.Series("text", ["臺灣 TAIWAN «1»，Ⅳ ﬁ", "", None])
    assert fold(fold(text)).to_list() == fold(text).to_list()


def test_digests_follow_the_fold() -> None:
    digests = folded_digests(pl.Series("text", ["臺灣 大學", "台湾大学", "台湾大雪"]))
    assert (digests[0] == digests[1]).all()
    assert (digests[0] != digests[2]).any()


def test_units_are_characters_and_words_in_their_places() -> None:
    text = "第1章 GLM-130B：填空！ don't 𠀀"
    units, offsets, starts, stops = placed_units(pl.Series("text", ["", text]))
    data = text.encode()
    words = [data[a:b].decode() for a, b in zip(starts, stops, strict=True)]
    assert words == ["第", "1", "章", "GLM", "130B", "填", "空", "don", "t", "𠀀"]
    assert (units & 1).tolist() == [int(len(w) == 1 and ord(w) > 0x3400) for w in words]
    assert offsets.tolist() == [0, 0, len(words)]
    again, _ = folded_units(pl.Series("text", ["第１章　glm 130b 填空 DON T 𠀀"]))
    assert again.tolist() == units.tolist()


def test_units_of_the_first_line_and_codes() -> None:
    texts = ["", "\n \n# 标题 two\nBody", "one line alone", "word\n", "第一 1\n\n二"]
    units, _, titles = titled_units(pl.Series(texts))
    assert titles.tolist() == [0, 3, 3, 1, 3]
    assert np.array_equal(units, folded_units(pl.Series(texts))[0])
    units, _ = folded_units(pl.Series(["BC30107 14164 1416 x1y2z3 bc301 mssql 30107x 填 2"]))
    assert [bool(is_code(unit)) for unit in units] == [True, True, False, True, True, False, True, False, False]
