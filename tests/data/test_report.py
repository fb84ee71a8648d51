"""The report: it stands alone, its numbers are the records', and text from the web cannot run in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from data.report import ReportConfig, write_report
from data.report_data import Stage, timings
from data.report_details import signals_section
from data.report_pairs import marked
from data.shards import read_json, write_json, write_shard

HOSTILE = "<script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)> 正文"


class Links(HTMLParser):
    """Collects tags, and whatever in attributes would be fetched or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            if name in ("src", "srcset", "data") or (name == "href" and not (value or "").startswith("#")):
                self.fetched.append(f"{tag} {name}={value}")
            assert not name.startswith("on"), f"{tag} {name}={value}"


def documents(number: int, text: str, **columns: object) -> pl.DataFrame:
    table = pl.DataFrame(
        {
            "id": [f"{text[:2]}{i:030x}" for i in range(number)],
            "source_id": [f"s{i}" for i in range(number)],
            "url": [f"http://host{i % 3}.example/{i}" for i in range(number)],
            "host": [f"host{i % 3}.example" for i in range(number)],
            "text": [f"{text} {i}" for i in range(number)],
            "language": ["zh" if i % 3 else "en" for i in range(number)],
            "script": ["Hans" if i % 3 else "Latn" for i in range(number)],
        }
    )
    return table.with_columns(pl.lit(value).alias(name) for name, value in columns.items())


def save(workspace: Path, stage: str, kept: pl.DataFrame, rejected: pl.DataFrame, **more: object) -> None:
    files = {}
    for part, table in (("kept", kept), ("rejected", rejected)):
        files[f"{part}/00000.parquet"] = write_shard(workspace / stage / part / "00000.parquet", table).to_dict()
    counts = {
        "read": {"documents": kept.height + rejected.height, "bytes": 1000},
        "kept": {"documents": kept.height, "bytes": 900},
        "rejected": {"documents": rejected.height, "bytes": 100},
    }
    record = {"counts": counts, "problems": [], "facts": {}, "files": files, "config": {}, "run": {"seconds": 2.0}}
    write_json(workspace / stage / "stage.json", record | more)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "a [workspace]"
    rejected = documents(40, HOSTILE, rejected_by="filter.words", rejected_value="3 < 50")
    save(folder, "filter", documents(100, "kept"), rejected)
    copies = documents(9, "copy", rejected_by="deduplicate.near", rejected_value="0.91")
    problem = {"file": "<b>bad</b>.warc", "reason": "truncated", "detail": "at byte 3"}
    save(folder, "deduplicate", documents(91, "kept", cluster_size=2), copies, problems=[problem])
    return folder


def test_the_page_stands_alone_and_runs_nothing(workspace: Path) -> None:
    page = write_report(workspace, ReportConfig()).read_text(encoding="utf-8")
    links = Links()
    links.feed(page)
    assert links.fetched == []
    assert "script" not in links.tags
    assert "img" not in links.tags
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;bad&lt;/b&gt;.warc" in page


def test_numbers_are_those_of_the_records(workspace: Path) -> None:
    page = write_report(workspace, ReportConfig()).read_text(encoding="utf-8")
    rows = re.findall(r"<tr><td>(\w+)</td><td>([\d,]+)</td><td>[^<]*</td><td>([\d,]+)</td>", page)
    assert rows == [("filter", "100", "40"), ("deduplicate", "91", "9")]
    assert "filter.words" in page
    assert "3 &lt; 50" in page
    assert "deduplicate.near" in page


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[float], list[float], float | None]]:
    """What the histograms are given, in the order of the page: kept values, rejected values, the least that is kept."""
    given: list[tuple[list[float], list[float], float | None]] = []

    def histogram(name: str, kept: np.ndarray, rejected: np.ndarray, low: float | None, *_: object) -> str:  # noqa: ARG001
        given.append((sorted(kept.tolist()), sorted(rejected.tolist()), low))
        return ""

    monkeypatch.setattr("data.report_details.histogram", histogram)
    return given


def signals_stage(workspace: Path, kept: list[pl.DataFrame], rejected: pl.DataFrame) -> Stage:
    """A filter of the signal `words`, whose kept documents lie in several shards."""
    bound = {table: {"words": {"min": low, "max": None}} for table, low in (("zh", 50.0), ("en", 60.0), ("code", 3.0))}
    save(workspace, "filter", kept[0], rejected, config={"thresholds": bound})
    record = read_json(workspace / "filter" / "stage.json")
    for number, table in enumerate(kept[1:], 1):
        name = f"kept/{number:05d}.parquet"
        record["files"][name] = write_shard(workspace / "filter" / name, table).to_dict()  # type: ignore[index]
    return Stage(name="filter", record=record, folder=workspace / "filter")


def test_code_is_drawn_apart_with_its_own_bounds(tmp_path: Path, drawn: list[Any]) -> None:
    kept = [documents(30, "page", kind="prose", words=100.0), documents(30, "code", kind="code", words=7.0)]
    rejected = documents(9, "code", kind="code", words=1.0, rejected_by="filter.words", rejected_value="1 < 3")
    section = signals_section(signals_stage(tmp_path, kept, rejected), 0)
    assert drawn == [([100.0] * 20, [], 50.0), ([100.0] * 10, [], 60.0), ([7.0] * 30, [1.0] * 9, 3.0)]
    assert "code 代码" in section.body


def test_signals_are_drawn_from_each_shard_in_turn(
    tmp_path: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many of each shard as it holds of all, without all being held at once."""
    kept = [documents(number, "page", words=float(number)) for number in (300, 3000, 3, 900)]
    stage = signals_stage(tmp_path, kept, documents(3, "page", words=1.0, rejected_by="x", rejected_value="x"))
    monkeypatch.setattr(Stage, "scan", lambda *_: pytest.fail("reads all shards at once"))
    signals_section(stage, 1000)
    (chinese, _, _), *_ = drawn
    assert len(chinese) == 1000
    assert chinese.count(3000.0) == pytest.approx(1000 * 3000 / 4203, abs=60)
    assert chinese.count(300.0) == pytest.approx(1000 * 300 / 4203, abs=30)
    signals_section(stage, 1000)
    assert drawn[len(drawn) // 2][0] == chinese


def test_alarms_stand_at_the_head(workspace: Path) -> None:
    calm = write_report(workspace, ReportConfig()).read_text(encoding="utf-8")
    assert 'role="alert"' not in calm
    record = read_json(workspace / "filter" / "stage.json")
    line = "filter.<words> rejected 40 of 140 zh documents (28.6 %)"
    write_json(workspace / "filter" / "stage.json", record | {"facts": {"alarms": [line]}})
    page = write_report(workspace, ReportConfig()).read_text(encoding="utf-8")
    told = "filter.&lt;words&gt; rejected 40 of 140 zh documents (28.6 %)"
    assert page.index('role="alert"') < page.index(told) < page.index("<nav>")


def test_differences_are_marked_and_escaped() -> None:
    left, right = marked(
        "the <b>long</b> page " + "same words here " * 9, "the <b>short</b> page " + "same words here " * 9
    )
    assert "<del>long</del>" in left
    assert "<ins>short</ins>" in right
    assert "&lt;b&gt;" in left
    assert " … " in left
    assert re.sub("<ins>.*?</ins>", "", right) == re.sub("<del>.*?</del>", "", left)


def test_the_same_workspace_gives_the_same_examples(workspace: Path) -> None:
    config = ReportConfig(examples=2)
    pages = [write_report(workspace, config).read_text(encoding="utf-8").rsplit("<footer", 1)[0] for _ in range(2)]
    assert pages[0] == pages[1]
    assert pages[0].count("value 3 &lt; 50") == 2


def test_an_empty_workspace_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="data run"):
        write_report(tmp_path, ReportConfig())
    with pytest.raises(ValueError, match=r"report\.examples"):
        ReportConfig(examples=-1)


def test_the_rate_of_tokenize_counts_what_it_read() -> None:
    sides = {side: {"documents": 30, "bytes": 4_000_000, "tokens": 9} for side in ("train", "validation")}
    record: dict[str, object] = {"counts": {"tokens": {"all": sides}}, "run": {"seconds": 2.0}}
    (row,) = timings({"tokenize": Stage(name="tokenize", record=record, folder=Path())})
    assert (row["documents_per_second"], row["megabytes_per_second"]) == (30.0, 4.0)
