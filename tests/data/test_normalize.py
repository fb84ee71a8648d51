"""Normalisation: what is undone comes back exactly, what must stay stays, and every change is named."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import ftfy
import opencc
import polars as pl
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data.annotate import AnnotateConfig, annotate
from data.mojibake import is_beyond_repair, repair
from data.normalize import NormalizeConfig, _without_hidden, normalize, strip_markup

CHINESE = "他在村口等了很久，天黑了才回家。\n第二天，雨停了，路上有许多落叶。老人说：“这样的秋天，几十年没有见过。”"
TRADITIONAL = (
    "他在村口等了很久，天黑了纔回家。\n第二天，雨停了，路上有許多落葉。老人說：「這樣的秋天，幾十年沒有見過。」"
)
ENGLISH = "“It’s over,” she said – and the café’s lights went out. Nobody moved; the naïve ones laughed…"


def cp1252_or_latin1(raw: bytes) -> str:
    """How browsers read a page that they take for Latin-1: cp1252, and Latin-1 where that has no character."""
    return "".join(
        bytes([byte]).decode("cp1252") if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else chr(byte) for byte in raw
    )


def one(text: str, **settings_: Any) -> tuple[str, str]:
    table = normalize(pl.DataFrame({"text": [text]}), NormalizeConfig(**settings_))
    return table["text"][0], table["normalize_changes"][0]


@pytest.mark.parametrize("text", [CHINESE, TRADITIONAL, ENGLISH])
@pytest.mark.parametrize("read", [lambda raw: raw.decode("latin-1"), cp1252_or_latin1])
def test_utf8_read_as_latin_comes_back(text: str, read) -> None:
    wrong = read(text.encode("utf-8"))
    assert repair(wrong) == text
    assert one(wrong) == (text, "mojibake")


@pytest.mark.parametrize("text", [CHINESE, TRADITIONAL])
@pytest.mark.parametrize("read", [lambda raw: raw.decode("latin-1"), cp1252_or_latin1])
def test_gbk_read_as_latin_comes_back(text: str, read) -> None:
    assert repair(read(text.encode("gb18030"))) == text


def test_utf8_read_as_gbk_comes_back_where_its_bytes_are_there() -> None:
    back = 0
    for start in range(len(CHINESE) - 12):
        piece = CHINESE[start : start + 12].replace("\n", "")
        try:
            wrong = piece.encode("utf-8").decode("gb18030")
        except UnicodeDecodeError:
            continue
        back += 1
        assert repair(f"好的。\n{wrong}") in (f"好的。\n{piece}", f"好的。\n{wrong}")
        assert not is_beyond_repair(wrong) or repair(wrong) == piece
    assert back >= 5


def test_a_paragraph_gone_wrong_within_good_text_comes_back() -> None:
    wrong = "这一段没有问题。\n\n" + cp1252_or_latin1(ENGLISH.encode("utf-8"))
    assert repair(wrong) == "这一段没有问题。\n\n" + ENGLISH


@pytest.mark.parametrize(
    "lost",
    [
        CHINESE.encode("gb18030").decode("utf-8", "replace"),
        CHINESE.encode("gb18030").decode("utf-8", "replace").encode("utf-8").decode("gb18030", "replace"),
        CHINESE.encode("utf-8").decode("gb18030", "replace"),
        CHINESE.encode("utf-8").decode("cp1252", "replace"),
    ],
)
def test_what_is_lost_is_flagged(lost: str) -> None:
    text, changes = one(lost)
    assert "mojibake_lost" in changes.split(",")
    assert is_beyond_repair(text)


@pytest.mark.parametrize(
    "text",
    [
        CHINESE,
        TRADITIONAL,
        ENGLISH,
        "Größe, Übermaß, façade, Ångström, señor, « très bien », 25 °C ± 0,5 µm, ½ of £3",
        "鐨勬槸这几个字不常见，但是在讲编码的文章里会有。",
        "Tiếng Việt có dấu: Đường, phở, ẩm thực.",
        "Все счастливые семьи похожи друг на друга.",
        "日本語の文章です。",
    ],
)
def test_good_text_is_let_be(text: str) -> None:
    assert repair(text) == text
    assert one(text)[0] == text


@given(st.text(alphabet="他在村口等了很久，天黑回家。abc é’“”\n—ñ", max_size=60))
@settings(max_examples=150, deadline=None)
def test_normalisation_is_idempotent(text: str) -> None:
    once, _ = one(text)
    assert one(once) == (once, "")


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_goes_through(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    once, _ = one(text)
    assert not any(character in once for character in "\r\x00\x07\u200b\ufeff\xa0\u3000")
    assert ftfy.fixes.remove_control_chars(once) == once
    assert "\n\n\n" not in once
    assert once == once.strip()


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ("ＡＢＣ１２３，（全角）！", "ABC123，（全角）！", "width"),
        ("e\u0301te\u0301", "été", "nfc"),
        ("a\r\nb\rc", "a\nb\nc", "line_ends"),
        ("零\u200b宽\ufeff", "零宽", "controls"),
        ("前　　后\u00a0x  \n\n\n\n尾", "前  后 x\n\n尾", "white_space"),
        ("<div><p class=\"c\">第一段。&nbsp;</p><p>第二段 &lt;3&gt;</p></div>", "第一段。\n第二段 <3>", "markup"),
    ],
)  # fmt: skip
def test_each_change_is_named(before: str, after: str, change: str) -> None:
    text, changes = one(before)
    assert text == after
    assert change in changes.split(",")


def test_markup_that_a_text_is_about_stays() -> None:
    tutorial = (
        '用 `<div>` 包住内容，再写 `&nbsp;`。\n\n```html\n<p class="a">你好</p>\n```\n\n' + "这里讲的是标签。" * 30
    )
    assert one(tutorial)[0] == tutorial
    sentence = "In HTML the <b> element draws attention, and <i> an alternate voice. " * 5
    assert one(sentence)[0] == sentence.strip()
    table = pl.DataFrame({"text": ['<p class="x">a</p>'] * 2, "kind": ["code", "prose"]})
    assert normalize(table, NormalizeConfig())["text"].to_list() == ['<p class="x">a</p>', "a"]


@pytest.mark.parametrize(
    ("conversion", "before", "after"),
    [
        ("t2s", TRADITIONAL, CHINESE.replace("“", "「").replace("”", "」")),
        ("t2s", "乾隆年間，頭髮乾燥，皇后在後面。", "乾隆年间，头发干燥，皇后在后面。"),
        ("tw2sp", "這個軟體的程式碼在記憶體裡。", "这个软件的代码在内存里。"),
        ("hk2s", "他喺裏面食嘢，着住衫。", "他喺里面食嘢，着住衫。"),
        ("t2s", "人民日報：中国经济发展，這是第一句。", "人民日报：中国经济发展，这是第一句。"),
    ],
)
def test_traditional_text_is_converted_where_that_is_asked(conversion: str, before: str, after: str) -> None:
    assert one(before) == (before, "")
    assert one(before, chinese=conversion) == (after, conversion)


@pytest.mark.parametrize(
    "text",
    [
        CHINESE,
        ENGLISH,
        "乾隆皇帝瞭望著作之地。中国经济发展很快，后来又说了一些话。",
        "東京都は日本の首都である。會議は明日だ。",
    ],
)
def test_conversion_lets_other_text_be(text: str) -> None:
    assert one(text, chinese="t2s") == (text, "")
    code = normalize(pl.DataFrame({"text": [TRADITIONAL], "kind": ["code"]}), NormalizeConfig(chinese="t2s"))
    assert code["text"].to_list() == [TRADITIONAL]


def test_converted_text_is_judged_as_what_it_has_become(corpus: Path) -> None:
    with zstandard.open(corpus / "documents" / "zh-00000.jsonl.zst", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(60), strict=False)]
    simplified = normalize(pl.DataFrame({"text": texts}), NormalizeConfig())
    simplified = simplified.filter(annotate(simplified, AnnotateConfig())["script"] == "Hans").head(40)
    traditional = simplified.with_columns(
        pl.Series("text", [opencc.OpenCC("s2t").convert(text) for text in simplified["text"]])
    )
    converted = normalize(traditional, NormalizeConfig(chinese="t2s"))
    assert set(converted["normalize_changes"]) == {"t2s"}
    judged = annotate(converted, AnnotateConfig())
    assert set(judged["script"]) == {"Hans"}
    wanted = annotate(simplified, AnnotateConfig())
    same = sum(a == b for a, b in zip(judged["text"], wanted["text"], strict=True))
    assert same >= 0.8 * simplified.height  # 後 and 后 become one
    for signal in ("han_share", "function_character_share", "rare_han_share", "duplicate_5gram_share"):
        assert judged[signal].to_list() == pytest.approx(wanted[signal].to_list(), abs=0.01)


def test_what_is_switched_off_is_not_done() -> None:
    text = "ＡＢ <p class='x'>&nbsp;</p> â€™"
    assert one(text, width=False, markup=False, mojibake=False)[0] == text


def test_rows_do_not_touch_each_other() -> None:
    rows = ["ＡＢ", cp1252_or_latin1(ENGLISH.encode()), None, "plain"]
    table = normalize(pl.DataFrame({"text": rows}), NormalizeConfig())
    assert table["text"].to_list() == ["AB", ENGLISH, "", "plain"]
    assert table["normalize_changes"].to_list() == ["width", "mojibake", "", ""]
    assert normalize(table.clear(), NormalizeConfig()).height == 0


MARKUP = ["<script>", "<SCRIPT a='b'>", "</script >", "<style>", "</Style>", "<!--", "-->", "text ", "<", ">", "\n"]


@given(st.lists(st.sampled_from(MARKUP), max_size=14))
def test_what_a_page_hides_is_what_one_expression_finds(parts: list[str]) -> None:
    """The plain expression is the reference; it takes quadratic time where nothing closes."""
    hidden = re.compile(r"<(script|style)\b[^>]*>.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
    text = "".join(parts)
    assert _without_hidden(text) == hidden.sub("", text)


@pytest.mark.parametrize("part", ["<script>a ", "<style>", "<!-- ", "<script ", "``` a\n", "~~~ ```", "<div ", "&amp;"])
def test_markup_that_nothing_closes_takes_no_longer(part: str) -> None:
    text = "<p>x</p><p>y</p>" + part * 100_000
    started = time.process_time()
    strip_markup(text)
    assert time.process_time() - started < 20  # where each opening is searched to the end it takes minutes
