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
    assert sum(ours) / len(ours) > 0.95
    assert sum(ours) / len(ours) > sum(theirs) / len(theirs) - 0.01


def test_pages_of_the_corpus_are_read_by_their_true_charset(corpus: Path) -> None:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    index = [json.loads(line) for line in (corpus / "web" / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    true = {row["url"]: row["charset"].lower() for row in index if row["file"] == "open-zh.warc.gz"}
    same = {"gbk": "gb18030", "gb2312": "gb18030", "big5": "big5hkscs"}
    with (corpus / "web" / "open-zh.warc.gz").open("rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response):
            url = record.headers["WARC-Target-URI"]
            text, charset = decode(record.reader.read(), record.http_headers.get("Content-Type"))
            assert charset == same.get(true[url], true[url])
            assert "\ufffd" not in text
