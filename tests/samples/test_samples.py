"""The sample and its manifest tell the truth about each other.

Extraction, deduplication and redaction are measured against `samples/manifest.jsonl`; a wrong row there would make
their figures wrong, so each claim is checked here against the page's own bytes with outside means.
"""

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import lxml.html
import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in (SAMPLES / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
]
ARTICLE_KINDS = {"article", "gbk", "big5", "wrong_charset", "personal_data"}
COPY_KINDS = {"exact_duplicate", "near_duplicate"}
ARTICLES = [row for row in ROWS if row["kind"] in ARTICLE_KINDS]
EXAMPLE_HOST = re.compile(r"(^|\.)example\.(com|net|org)$")


def load_build_warc() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_warc", SAMPLES / "build_warc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build_warc = load_build_warc()


def page_bytes(row: dict[str, Any]) -> bytes:
    return (SAMPLES / row["file"]).read_bytes()


def squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text)


def levenshtein(left: str, right: str) -> int:
    """Edits of single characters between two texts, by the textbook recurrence."""
    previous = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        current = [i]
        for j, b in enumerate(right, start=1):
            current.append(min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (a != b)))
        previous = current
    return previous[-1]


def luhn_holds(number: str) -> bool:
    """ISO/IEC 7812-1: double every second digit from the right, the sum of digits ends in 0."""
    doubled = [int(digit) * (2 if i % 2 else 1) for i, digit in enumerate(reversed(number))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def id_card_holds(number: str) -> bool:
    """GB 11643-1999: weights 2^(17-i) modulo 11, 10 written X."""
    total = sum(int(digit) * pow(2, 17 - i, 11) for i, digit in enumerate(number[:17]))
    return number[17] == "10X98765432"[total % 11]


def test_every_page_has_one_row_and_every_row_one_page() -> None:
    files = [row["file"] for row in ROWS]
    assert len(files) == len(set(files))
    assert len({row["url"] for row in ROWS}) == len(ROWS)
    assert set(files) == {f"pages/{path.name}" for path in (SAMPLES / "pages").iterdir()}


def test_every_host_is_an_example_domain() -> None:
    for row in ROWS:
        assert EXAMPLE_HOST.search(urlsplit(row["url"]).hostname), row["url"]
        linked = re.findall(rb"https?://([^/\"'\s<]+)", page_bytes(row))
        for host in (name.decode("ascii") for name in linked):
            assert EXAMPLE_HOST.search(host) or host in {"schema.org", "www.w3.org"}, (row["file"], host)


def test_the_sample_is_as_large_and_varied_as_promised() -> None:
    scripts = Counter(row["script"] for row in ARTICLES)
    assert scripts["Hans"] >= 18
    assert scripts["Hant"] >= 10
    assert scripts["Latn"] >= 18
    assert len(ROWS) >= 52
    assert len({urlsplit(row["url"]).hostname for row in ROWS}) < len(ROWS)
    required = ARTICLE_KINDS | COPY_KINDS | {"boilerplate", "repeated_lines", "link_spam", "japanese", "french"}
    assert required == {row["kind"] for row in ROWS}
    assert {row["language"] for row in ROWS if row["kind"] == "personal_data"} == {"zh", "en"}


def test_fates_are_complete() -> None:
    for row in ROWS:
        assert row["fate"] in {"kept", "rejected"}
        assert (row["rejected_by"] is None) == (row["fate"] == "kept"), row["file"]
        if row["rejected_by"]:
            re.compile(row["rejected_by"])
    clusters = {row["cluster"] for row in ROWS} - {None}
    for cluster in clusters:
        members = [row for row in ROWS if row["cluster"] == cluster]
        assert len(members) >= 2, cluster
        assert sum(row["fate"] == "kept" for row in members) == 1, cluster


@pytest.mark.parametrize("row", ROWS, ids=lambda row: Path(row["file"]).stem)
def test_charset_is_true_and_the_declaration_is_as_stated(row: dict[str, Any]) -> None:
    payload = page_bytes(row)
    payload.decode(row["charset"])
    if row["charset"] != "utf-8":
        with pytest.raises(UnicodeDecodeError):
            payload.decode("utf-8")
    in_header = re.search(r"charset=([\w-]+)", row["content_type"])
    in_page = re.search(rb"charset=[\"']?([\w-]+)", payload)
    stated = {match.group(1) for match in [in_header] if match} | {
        match.group(1).decode("ascii") for match in [in_page] if match
    }
    assert stated == ({row["declared"]} if row["declared"] else set())
    if row["kind"] == "wrong_charset":
        assert row["declared"] != row["charset"]
        wrongly_read = payload.decode(row["declared"], errors="replace")
        assert squeeze(row["body"]) not in squeeze(wrongly_read)
    else:
        assert row["declared"] in {row["charset"], None}


@pytest.mark.parametrize("row", [row for row in ROWS if row["body"]], ids=lambda row: Path(row["file"]).stem)
def test_the_body_is_what_a_reader_sees(row: dict[str, Any]) -> None:
    page = lxml.html.document_fromstring(page_bytes(row).decode(row["charset"]))
    for hidden in page.xpath("//script | //style | //head"):
        hidden.drop_tree()
    seen = squeeze(page.text_content())
    position = 0
    for line in row["body"].split("\n"):
        found = seen.find(squeeze(line), position)
        assert found >= 0, (row["file"], line)
        position = found + len(squeeze(line))
    assert len(seen) > len(squeeze(row["body"])) + 40, "a page has more around its body than nothing"


def test_articles_are_of_the_promised_length() -> None:
    for row in ARTICLES:
        assert 300 <= len(row["body"]) <= 3000, (row["file"], len(row["body"]))


def test_no_sentence_stands_in_two_articles() -> None:
    first_seen: dict[str, str] = {}
    for row in ARTICLES:
        for sentence in re.split(r"[。！？!?\n]|\.\s", row["body"]):
            key = squeeze(sentence)
            if len(key) >= 12:
                assert first_seen.setdefault(key, row["file"]) == row["file"], key


def test_exact_copies_are_equal_and_edited_ones_differ_by_three_to_five_percent() -> None:
    originals = {row["cluster"]: row for row in ARTICLES if row["cluster"]}
    for row in ROWS:
        if row["kind"] == "exact_duplicate":
            assert row["body"] == originals[row["cluster"]]["body"]
        if row["kind"] == "near_duplicate":
            original = originals[row["cluster"]]["body"]
            rate = levenshtein(original, row["body"]) / len(original)
            assert 0.03 <= rate <= 0.05, (row["file"], rate)


def test_invented_numbers_have_valid_checksums_and_stand_in_the_text() -> None:
    kinds = Counter()
    for row in ROWS:
        assert bool(row["must_not_contain"]) == (row["kind"] == "personal_data")
        for value in row["must_not_contain"]:
            assert row["body"].count(value) == 1, value
            if re.fullmatch(r"\d{17}[\dX]", value):
                assert id_card_holds(value), value
                kinds["id card"] += 1
            elif re.fullmatch(r"\d{16}|\d{19}", value):
                assert luhn_holds(value), value
                kinds["bank card"] += 1
    assert kinds == {"id card": 1, "bank card": 2}


def test_traditional_pages_are_traditional_and_simplified_ones_simplified() -> None:
    """Characters that exist in one script only, by OpenCC, hardly occur in the other's pages."""
    opencc = pytest.importorskip("opencc")
    to_simplified, to_traditional = opencc.OpenCC("t2s"), opencc.OpenCC("s2t")
    for row in ROWS:
        if row["language"] != "zh" or not row["body"]:
            continue
        traditional = sum(a != b for a, b in zip(row["body"], to_simplified.convert(row["body"]), strict=True))
        simplified = sum(a != b for a, b in zip(row["body"], to_traditional.convert(row["body"]), strict=True))
        wrong, right = (simplified, traditional) if row["script"] == "Hant" else (traditional, simplified)
        assert right > 100, (row["file"], right)
        assert wrong < 0.08 * right, (row["file"], right, wrong)


def test_blanks_belong_to_the_articles() -> None:
    lines = (SAMPLES / "blanks.jsonl").read_text(encoding="utf-8").splitlines()
    blanks = [json.loads(line) for line in lines]
    assert Counter(blank["language"] for blank in blanks) == {"zh": 3, "en": 3}
    for blank in blanks:
        assert blank["text"].count("[MASK]") == 1
        assert blank["answer"]
        spoken = [row["body"] for row in ARTICLES if row["language"] == blank["language"]]
        assert sum(body.count(blank["answer"]) for body in spoken) >= 3, blank


def test_warc_is_the_same_every_time_and_reads_back(tmp_path: Path) -> None:
    first, second = tmp_path / "a.warc.gz", tmp_path / "elsewhere" / "b.warc.gz"
    assert build_warc.write_warc(first) == len(ROWS)
    build_warc.write_warc(second)
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.warc.gz"]

    read: dict[str, tuple[str, bytes]] = {}
    with first.open("rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response, verify_digests=True):
            content_type = record.http_headers["Content-Type"]
            read[record.headers["WARC-Target-URI"]] = (content_type, record.reader.read())
    assert read == {row["url"]: (row["content_type"], page_bytes(row)) for row in ROWS}


def test_a_manifest_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text('{"file": "a", "url": "b", "content_type": "c"}\n{oops\n')
    with pytest.raises(ValueError, match=r"manifest\.jsonl:2"):
        build_warc.read_manifest(tmp_path)
