"""Extraction: charsets by every road, the shape of a page, hostile pages, the sample's own bodies."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from data.charset import decode
from data.extract import ExtractConfig, extract_html, nesting

CHINESE = (
    "他在村口等了很久，天黑了才回家。第二天，雨停了，路上有许多落叶。"
    "老人说：“这样的秋天，几十年没有见过。”孩子们不信，跑到河边去看。"
)
TRADITIONAL = "他在村口等了很久，天黑了才回家。第二天，雨停了，路上有許多落葉。老人說：「這樣的秋天，幾十年沒有見過。」"
JAPANESE = "むかしむかし、あるところに、おじいさんとおばあさんが住んでいました。おじいさんは山へしばかりに行きました。"
KOREAN = "옛날 옛적에 어느 마을에 할아버지와 할머니가 살았습니다."
WESTERN = "The café’s owner, señor Núñez, said “it’s over” and went home to the house by the river. " * 3


def page(body: str, head: str = "", title: str = "Title") -> str:
    return (
        f"<!DOCTYPE html><html><head>{head}<title>{title}</title></head><body><article>{body}</article></body></html>"
    )


@pytest.mark.parametrize(
    ("text", "charset", "expected"),
    [
        (CHINESE, "utf-8", "utf-8"),
        (CHINESE, "gb2312", "gb18030"),
        (CHINESE, "gb18030", "gb18030"),
        (TRADITIONAL, "big5", "big5hkscs"),
        (JAPANESE, "shift_jis", "shift_jis"),
        (JAPANESE, "euc_jp", "euc_jp"),
        (KOREAN, "euc_kr", "euc_kr"),
        (WESTERN, "cp1252", "cp1252"),
    ],
)
@pytest.mark.parametrize("declared", ["none", "header", "meta", "wrong header", "wrong meta"])
def test_charset_is_found(text: str, charset: str, expected: str, declared: str) -> None:
    wrong = "gbk" if charset != "gb2312" and charset != "gb18030" else "big5"
    name = {"none": "", "header": charset, "meta": charset}.get(declared, wrong)
    head = f'<meta charset="{name}">' if "meta" in declared else ""
    content_type = f"text/html; charset={name}" if "header" in declared else "text/html"
    payload = page(f"<p>{text}</p>", head).encode(charset)
    found, used = decode(payload, content_type)
    assert text in found
    assert used == expected or found == payload.decode(expected)


def test_marks_labels_and_damage() -> None:
    assert decode(b"\xef\xbb\xbf" + CHINESE.encode())[0] == CHINESE
    assert decode(CHINESE.encode("utf-16"))[0] == CHINESE
    assert decode(CHINESE.encode() + b"\xe4\xb8", "text/html; charset=utf-8")[1] == "utf-8"  # cut within a character
    assert decode(b"plain", "text/html; charset=no-such-charset") == ("plain", "utf-8")


@pytest.mark.parametrize(
    "label", ["hex", "rot13", "undefined", "idna", "unicode_escape", "utf-7", "cp037", "utf-32", "mbcs", "no-such"]
)
@pytest.mark.parametrize("place", ["header", "meta"])
def test_label_that_is_no_charset_of_the_web_is_not_believed(label: str, place: str) -> None:
    """Python has codecs of those names; some read any bytes, others raise."""
    head = f'<meta charset="{label}">' if place == "meta" else ""
    payload = page(f"<p>{CHINESE}</p>", head).encode("gb18030")
    text, charset = decode(payload, f"text/html; charset={label if place == 'header' else ''}")
    assert CHINESE in text
    assert charset == "gb18030"


def test_meta_tag_is_never_in_utf16() -> None:
    payload = page(f"<p>{CHINESE}</p>", '<meta charset="utf-16">').encode("gb18030")
    assert decode(payload)[1] == "gb18030"
    assert decode(CHINESE.encode("utf-16-le"), "text/html; charset=utf-16le") == (CHINESE, "utf-16-le")
    assert decode(b"") == ("", "utf-8")


def test_the_shape_of_a_page_survives() -> None:
    body = (
        f"<h1>标题</h1><p>{CHINESE}</p><h2>小节</h2><p>第二段\n换行写的，仍然是一段。{CHINESE}</p>"
        f"<ul><li>第一项，说得长一点</li><li>第二项，也说得长一点</li></ul><p>{CHINESE}</p>"
        "<pre><code>def f(x):\n    return x + 1\n</code></pre>"
        f"<table><tr><th>名称</th><th>数量</th></tr><tr><td>苹果</td><td>3</td></tr></table><p>{CHINESE}</p>"
    )
    found = extract_html(page(body, title="题目").encode())
    assert found.status == "ok"
    assert found.title == "题目"
    blocks = found.text.split("\n\n")
    assert "## 小节" in blocks
    assert f"第二段换行写的，仍然是一段。{CHINESE}" in blocks  # neither glued nor spaced
    assert "- 第一项，说得长一点\n- 第二项，也说得长一点" in blocks
    assert "```\ndef f(x):\n    return x + 1\n```" in blocks
    assert "名称 | 数量\n苹果 | 3" in blocks
    assert blocks.count(CHINESE) == 3


PARAGRAPHS = [
    "清晨的菜市场里，卖豆腐的老人把木板擦得发亮，等着第一位客人。",
    "他在村口等了很久，天黑了才回家。",
    "第二天，雨停了，路上有许多落叶，孩子们不信，跑到河边去看。",
    "桥头上挤满了人，谁也没有说话。",
]
SHARE = "<div class='share-bar'>分享到微博，微信。</div>"
MENU = "<div><a href=/1>首页</a> | <a href=/2>新闻</a> | <a href=/3>关于我们</a></div>"


def each(template: str, between: str = "") -> str:
    return between.join(template.format(part) for part in PARAGRAPHS)


@pytest.mark.parametrize(
    "body",
    [
        each("<p>{}</p>"),
        each("<p>{}"),
        each("<div>{}</div>"),
        each("{}", "<br><br>"),
        each("{}", "<br/>\n<br/>\n"),
        each("<section style='x'><section><span><strong></strong>{}</span></section></section><section><br></section>"),
        f"<div id=js_content style='visibility:hidden'>{each('<section><span>{}</span></section>')}</div><p>阅读 3</p>",
        f"<form id='aspnetForm'>{each('<p><font size=3>　　{}</font></p>')}</form>",
        f"<table width=900><tr><td>{MENU}</td></tr><tr><td>{each('<p>{}</p>')}</td></tr></table>",
        f"<table><tr><td><ul><li><a href=/4>通知</a></li></ul></td><td>{each('{}', '<br><br>')}</td></tr></table>",
        f"<table role=presentation><tr><td><table>{each('<tr><td><p>{}</p></td></tr>')}</table></td></tr></table>",
        f"<div class='has-sidebar no-footer'>{each('<p>{}</p>')}</div>",
        f"<noscript>请打开脚本，再看本页。</noscript><div class=post>{each('<p>{}</p>')}</div>{SHARE}",
        f"<div>{each('<p>{}</p>')}</div><div class=comments><h3>评论</h3><p>写得很好，我也去过那里。</p></div>",
        f"<div>{each('<p>{}</p>')}</div><div id=comments>{'<div><p>写得很好，我也去过那里。</p></div>' * 20}</div>",
        f"<div hidden>看不见的一句话。</div>{each('<p>{}</p>')}<p style='display: none'>也看不见，真的。</p>",
        each("\n\n{}"),
    ],
)
@pytest.mark.parametrize("around", ["{}", f"{MENU}<h1>题目</h1>{{}}<div>版权所有 2020 某某网</div>"])
def test_paragraphs_are_read_whatever_they_are_made_of(body: str, around: str) -> None:
    head = "<head><title>题目 - 某某网</title></head>"
    found = extract_html(f"<html>{head}<body>{around.format(body)}</body></html>".encode())
    assert found.text == "\n\n".join(PARAGRAPHS)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("他在<b>村口</b>\n等了很久，<i>天黑</i>\n  才<a href=/1>回家</a>。", "他在村口等了很久，天黑才回家。"),
        ("He waited <b>at\nthe gate</b>\nuntil dark.", "He waited at the gate until dark."),
        ("按<span class='menuitem'>文件</span>里的<span class='menu'>保存</span>。", "按文件里的保存。"),
        (
            "设 <math><mi>x</mi><annotation encoding='application/x-tex'>x^2</annotation></math> 为正数。",
            "设 $x^2$ 为正数。",
        ),
        ("第一行，<br>第二行。", "第一行，\n第二行。"),
    ],
)
def test_text_within_a_line(body: str, text: str) -> None:
    assert extract_html(page(f"<p>{body}</p>{each('<p>{}</p>')}").encode()).text.split("\n\n")[0] == text


def test_headings_of_which_nothing_is_left_go_and_commands_that_look_like_headings_stay() -> None:
    body = (
        "<h2>目录</h2><ul><li><a href=#1>一</a></li><li><a href=#2>二</a></li></ul>"
        f"<h2>一[编辑]</h2><h3>甲</h3><p>{CHINESE}</p><p># apt update</p><p># apt upgrade</p>"
        f"<h2>二</h2><p>{CHINESE}</p><h2>相关阅读</h2><div><a href=/1>别的</a></div>"
    )
    blocks = extract_html(page(body).encode()).text.split("\n\n")
    assert blocks == ["## 一", "### 甲", CHINESE, "# apt update", "# apt upgrade", "## 二", CHINESE]


def test_lists_tables_and_code_within_layout_tables_and_lists() -> None:
    body = (
        f"<p>{CHINESE}</p><ul><li>一<ul><li>一之一</li><li><a href=/1>一之二</a></li></ul></li><li>二</li></ul>"
        "<table><tr><th>名</th><th>值</th></tr><tr><td><a href=/2>甲</a></td><td>1</td></tr></table>"
        "<table><tr><td class=linenos><pre>1\n2</pre></td><td><div class=highlight><pre><span class=lineno>1 </span>"
        "def f():\n    <span class='c1 comment'># note</span></pre></div></td></tr></table>"
        f"<pre>{CHINESE[:20]}\n    {CHINESE[20:40]}</pre>"
    )
    blocks = extract_html(f"<table><tr><td>{body}</td></tr></table>".encode()).text.split("\n\n")
    assert blocks == [
        CHINESE,
        "- 一\n  - 一之一\n  - 一之二\n- 二",
        "名 | 值\n甲 | 1",
        "```\ndef f():\n    # note\n```",
        f"{CHINESE[:20]}\n    {CHINESE[20:40]}",
    ]


@pytest.mark.parametrize("method", ["accurate", "fast"])
@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (b"", "no_text"),
        (b"   \n", "no_text"),
        (b"\x00\x01\x02" * 50, None),
        (b"<html><body></body></html>", "no_text"),
        (b"<div>" * 100_000 + b"text" + b"</div>" * 100_000, "too_deep"),
        (b"<p>" + b"x" * 6_000_000, "too_large"),
        (bytes(range(256)) * 200, None),
        (b"<a href='" * 20_000, None),
        (b"<!--" * 50_000, None),
        (b"&" * 100_000, None),
    ],
)
def test_a_hostile_page_costs_one_page(payload: bytes, status: str | None, method: str) -> None:
    start = time.perf_counter()
    found = extract_html(payload, config=ExtractConfig(method=method))
    assert time.perf_counter() - start < 8
    assert found.status == status or status is None
    assert found.status == "ok" or found.detail


def test_a_slow_page_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(_page: str) -> tuple[None, str]:
        start = time.process_time()
        while time.process_time() - start < 5:
            pass
        return None, ""

    monkeypatch.setattr("data.extract._accurate", slow)
    start = time.process_time()
    found = extract_html(b"<p>x</p>", config=ExtractConfig(max_seconds=0.2))
    assert found.status == "too_slow"
    assert time.process_time() - start < 2


def test_nesting() -> None:
    assert nesting(b"") == 0
    assert nesting(b"<div><p>a<p>b<br><span>c</span></div><div></div>") == 2
    assert nesting(b"</div></div><div>") == 1
    assert nesting(b"<div>" * 300) == 300


def overlap(text: str, body: str) -> float:
    """F1 over the 4-grams of characters, white space apart."""
    grams = []
    for string in (text, body):
        solid = "".join(string.split())
        grams.append(Counter(solid[i : i + 4] for i in range(len(solid) - 3)))
    common = sum((grams[0] & grams[1]).values())
    return 2 * common / max(1, sum(grams[0].values()) + sum(grams[1].values()))


def test_the_sample_is_read_as_well_as_trafilatura_reads_it(project: Path) -> None:
    import trafilatura

    ours, theirs = [], []
    for line in (project / "samples" / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if not row["body"]:
            continue
        payload = (project / "samples" / row["file"]).read_bytes()
        found = extract_html(payload, content_type=row.get("content_type"))
        assert "\ufffd" not in (found.text or "")
        ours.append(overlap(found.text or "", row["body"]))
        theirs.append(overlap(trafilatura.extract(payload.decode(row["charset"])) or "", row["body"]))
    assert min(ours) > 0.85
    assert sum(ours) / len(ours) > 0.98
    assert sum(ours) / len(ours) > sum(theirs) / len(theirs) + 0.01


@pytest.mark.parametrize("name", ["open-zh", "open-en"])
def test_pages_of_the_corpus_are_read_by_their_true_charset(corpus: Path, name: str) -> None:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    index = [json.loads(line) for line in (corpus / "web" / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    true = {row["url"]: row["charset"].lower() for row in index if row["file"] == f"{name}.warc.gz"}
    same = {"gbk": "gb18030", "gb2312": "gb18030", "big5": "big5hkscs"}
    with (corpus / "web" / f"{name}.warc.gz").open("rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response):
            url = record.headers["WARC-Target-URI"]
            payload, content_type = record.reader.read(), record.http_headers.get("Content-Type")
            text, charset = decode(payload, content_type)
            expected = same.get(true[url], true[url])
            assert charset == expected or text == payload.decode(expected)
            assert text.count("\ufffd") == payload.decode(expected).count("\ufffd")  # one page shows what it looks like
            found = extract_html(payload, content_type=content_type)
            assert found.status == "ok"
            assert found.text.count("\ufffd") <= text.count("\ufffd")
