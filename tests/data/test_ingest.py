"""Ingest reads every format the same, splits large files by records, and gives ids for life."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from data.config import CorpusConfig
from data.engine import RunOptions, run_stage
from data.ingest import IngestConfig, cut_into_units
from data.pipeline import EngineConfig
from data.readers import Fields
from data.schema import DOCUMENT_COLUMNS, REJECT_COLUMNS, content_digest, document_id
from data.sources import InputFile, SourceConfig, find_inputs
from data.stages import stage_named
from tests.data.small_corpus import articles, record


def ingest(workspace: Path, *sources: SourceConfig, workers: int = 1, **settings: Any) -> pl.DataFrame:
    """The kept documents of ingest alone."""
    config = CorpusConfig(
        sources=list(sources),
        ingest=IngestConfig(**settings),
        engine=EngineConfig(disk_reserve_mb=0, spread_mb=0),
    )
    run_stage(stage_named("ingest"), config, RunOptions(workspace=workspace, workers=workers), None)
    return pl.read_parquet(sorted((workspace / "ingest" / "kept").glob("*.parquet")))


def rows(count: int = 6) -> list[dict[str, str]]:
    texts = articles()[:count]
    return [{"id": f"d{n}", "text": text, "url": f"https://Example.com:80/{n}"} for n, text in enumerate(texts)]


def as_jsonl(compress: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(compress("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows()).encode()))

    return write


def as_warc(path: Path) -> None:
    """Written by warcio, the reference for the format."""
    with open(path, "wb") as file:
        writer = WARCWriter(file, gzip=path.name.endswith(".gz"))
        writer.write_record(writer.create_warcinfo_record("a.warc", {"software": "test"}))
        for row in rows():
            paragraphs = "".join(f"<p>{part}</p>" for part in row["text"].split("\n") if part)
            page = f"<html><head><title>t</title></head><body><article>{paragraphs}</article></body></html>"
            http = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
            one = writer.create_warc_record(row["url"], "response", payload=_stream(page), http_headers=http)
            one.rec_headers.replace_header("WARC-Record-ID", f"<{row['id']}>")
            writer.write_record(one)


def as_wet(path: Path) -> None:
    with open(path, "wb") as file:
        writer = WARCWriter(file, gzip=path.name.endswith(".gz"))
        for row in rows():
            one = writer.create_warc_record(
                row["url"], "conversion", payload=_stream(row["text"]), warc_content_type="text/plain"
            )
            one.rec_headers.replace_header("WARC-Record-ID", f"<{row['id']}>")
            writer.write_record(one)


def _stream(text: str) -> Any:
    import io

    return io.BytesIO(text.encode())


def as_dataset(path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(rows()).save_to_disk(str(path))


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.jsonl": as_jsonl(bytes),
    "a.jsonl.gz": as_jsonl(gzip.compress),
    "a.jsonl.zst": as_jsonl(zstandard.compress),
    "a.jsonl.bz2": as_jsonl(bz2.compress),
    "a.jsonl.xz": as_jsonl(lzma.compress),
    "without_a_suffix": as_jsonl(bytes),
    "a.json": lambda path: path.write_text(json.dumps(rows(), ensure_ascii=False), encoding="utf-8") and None,
    "a.parquet": lambda path: pl.DataFrame(rows()).write_parquet(path),
    "a.warc": as_warc,
    "a.warc.gz": as_warc,
    "a.warc.wet.gz": as_wet,
    "saved_dataset": as_dataset,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    form = "huggingface" if name == "saved_dataset" else "auto"
    table = ingest(tmp_path / "w", SourceConfig(path=str(path), name="one", format=form))
    assert table.columns == list(DOCUMENT_COLUMNS)
    assert table.schema == pl.Schema(DOCUMENT_COLUMNS)
    assert table["source_id"].to_list() == [row["id"] for row in rows()]
    assert table["id"].to_list() == [document_id("one", row["id"]) for row in rows()]
    assert table["host"].unique().to_list() == ["example.com"]
    assert table["content_digest"].to_list() == [content_digest(text) for text in table["text"]]
    squeezed = ["".join(text.split()) for text in table["text"]]
    assert squeezed == ["".join(row["text"].split()) for row in rows()]


def test_text_and_html_files_are_documents(tmp_path: Path) -> None:
    text = articles()[0]
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "in" / "deep" / "gbk.txt").write_bytes(text.encode("gb18030"))
    paragraphs = "".join(f"<p>{part}</p>" for part in articles()[1].split("\n") if part)
    (tmp_path / "in" / "page.html").write_text(f"<html><body><article>{paragraphs}</article></body></html>")
    table = ingest(tmp_path / "w", SourceConfig(path=str(tmp_path / "in")))
    assert table["source_id"].to_list() == ["a.txt", "deep/gbk.txt", "page.html"]
    assert ["".join(one.split()) for one in table["text"][:2]] == ["".join(text.split())] * 2


def test_lines_are_documents_where_the_source_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first one\n\nthird one\n")
    table = ingest(tmp_path / "w", SourceConfig(path=str(tmp_path / "a.txt"), format="lines"))
    assert table["source_id"].to_list() == ["a.txt#0", "a.txt#2"]


def test_source_declares_fields_licence_kind_and_name(tmp_path: Path) -> None:
    lines = [{"body": "def f(): return 1", "key": 7}, {"body": "x = 2", "key": 8, "license": "MIT", "source": "own"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = SourceConfig(
        path=str(tmp_path / "*.jsonl"), name="snippets", fields=Fields(text="body", id="key"),
        license="Apache-2.0", kind="code", language="en",
    )  # fmt: skip
    table = ingest(tmp_path / "w", source)
    wanted = {
        "source": ["snippets", "own"],
        "source_id": ["7", "8"],
        "collection": ["snippets"] * 2,
        "license": ["Apache-2.0", "MIT"],
        "kind": ["code"] * 2,
        "language_hint": ["en"] * 2,
    }
    for column, values in wanted.items():
        assert table[column].to_list() == values
    assert table["id"][1] == document_id("own", "8")


def test_file_too_large_for_one_task_is_split_by_records(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{n} {articles()[n % 9]}"}, ensure_ascii=False) + "\n" for n in range(1500)]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress("".join(lines).encode()))
    source = SourceConfig(path=str(path))
    whole = ingest(tmp_path / "whole", source)
    size = path.stat().st_size / 1e6
    split = ingest(tmp_path / "split", source, split_mb=size / 3, shard_mb=0.2)
    assert len(record(tmp_path / "split", "ingest")["files"]) > 6
    assert split.height == whole.height == 1500
    assert split.sort("id").equals(whole.sort("id"))


def test_a_huge_file_is_not_read_more_often_than_max_parts() -> None:
    config = IngestConfig(split_mb=1, max_parts=5)
    sizes = {"small": 400_000, "large": 3_000_000, "huge": 900_000_000}
    for name, parts in (("small", 1), ("large", 3), ("huge", 5)):
        file = InputFile(
            path=name,
            name=name,
            format="jsonl",
            compression="none",
            size=sizes[name],
            fingerprint="",
            source=SourceConfig(path=name),
        )
        assert sum(map(len, cut_into_units([file], config, None))) == parts


def test_ids_do_not_depend_on_how_the_input_is_cut(tmp_path: Path) -> None:
    for name in ("a", "b"):
        as_jsonl(bytes)(tmp_path / f"{name}.jsonl")
    packed = ingest(tmp_path / "1", SourceConfig(path=str(tmp_path / "*.jsonl")))
    apart = ingest(tmp_path / "2", SourceConfig(path=str(tmp_path / "*.jsonl")), pack_mb=1e-6, shard_mb=1e-3)
    assert packed.sort("id").equals(apart.sort("id"))
    assert packed["id"].n_unique() == 12  # the files' names are their sources


def test_fsspec_url_is_read(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("x.jsonl", "y.jsonl"):
        lines = [json.dumps(row | {"id": name + row["id"]}) + "\n" for row in rows(3)]
        memory.pipe(f"/bucket/{name}", "".join(lines).encode())
    table = ingest(tmp_path / "w", SourceConfig(path="memory://bucket", name="remote"))
    assert table.height == 6
    table = ingest(tmp_path / "v", SourceConfig(path="memory://bucket/y*.jsonl", name="remote"))
    assert table.height == 3


def test_file_url_is_read(tmp_path: Path) -> None:
    as_jsonl(gzip.compress)(tmp_path / "a.jsonl.gz")
    table = ingest(tmp_path / "w", SourceConfig(path=(tmp_path / "*.gz").as_uri().replace("%2A", "*"), name="remote"))
    assert table["source_id"].to_list() == [row["id"] for row in rows()]


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """datasets keeps its cache in the test's folder and never asks the network."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_data_set_of_local_files_is_read(tmp_path: Path, form: str, streaming: bool) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for part, chosen in enumerate((rows()[:2], rows()[2:])):
        table = pl.DataFrame(chosen).rename({"text": "body"})
        path = folder / f"train-{part:05d}-of-00002.{form}"
        table.write_parquet(path) if form == "parquet" else table.write_ndjson(path)
    source = SourceConfig(
        path=str(folder), name="one", format="huggingface", fields=Fields(text="body"), streaming=streaming
    )
    table = ingest(tmp_path / "w", source)
    assert table["source_id"].to_list() == [row["id"] for row in rows()]
    assert table["id"].to_list() == [document_id("one", row["id"]) for row in rows()]
    before = find_inputs([source])[0][0].fingerprint
    pl.DataFrame(rows()[:1]).rename({"text": "body"}).write_parquet(folder / f"train-00000-of-00002.{form}")
    assert find_inputs([source])[0][0].fingerprint != before  # the stage is stale


@pytest.mark.usefixtures("offline")
def test_split_of_a_saved_data_set_is_read(tmp_path: Path) -> None:
    import datasets

    parts = {"train": datasets.Dataset.from_list(rows()[:4]), "test": datasets.Dataset.from_list(rows()[4:])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    source = SourceConfig(path=str(tmp_path / "set"), format="huggingface", split="test")
    assert ingest(tmp_path / "w", source)["source_id"].to_list() == [row["id"] for row in rows()[4:]]
    with pytest.raises(ValueError, match="gave no document at all"):
        ingest(tmp_path / "v", replace(source, split="validation"))


@pytest.mark.usefixtures("offline")
def test_data_set_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    as_jsonl(bytes)(tmp_path / "a.jsonl")
    absent = SourceConfig(path="nobody/there-is-no-such-set", format="huggingface")
    table = ingest(tmp_path / "w", SourceConfig(path=str(tmp_path / "a.jsonl")), absent)
    assert table.height == len(rows())
    problems = record(tmp_path / "w", "ingest")["problems"]
    assert [problem["reason"] for problem in problems] == ["unreadable"]
    assert "there-is-no-such-set" in problems[0]["file"]


def test_archived_responses_that_are_no_pages_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    with open(path, "wb") as file:
        writer = WARCWriter(file)
        answers = [("404 Not Found", "text/html"), ("200 OK", "image/png"), ("200 OK", "text/plain"), ("200 OK", None)]
        for number, (status, kind) in enumerate(answers):
            http = StatusAndHeaders(status, [("Content-Type", kind)] if kind else [], protocol="HTTP/1.1")
            page = f"<html><body><p>{articles()[1]}</p></body></html>"
            body = _stream(articles()[0] if kind == "text/plain" else page)
            writer.write_record(writer.create_warc_record(f"http://a.b/{number}", "response", body, http_headers=http))
    table = ingest(tmp_path / "w", SourceConfig(path=str(path)))
    assert table["url"].to_list() == ["http://a.b/2", "http://a.b/3"]
    rejected = pl.read_parquet(tmp_path / "w" / "ingest" / "rejected" / "*.parquet")
    assert rejected.schema == pl.Schema({**DOCUMENT_COLUMNS, **REJECT_COLUMNS})
    assert rejected["rejected_by"].to_list() == ["ingest.http_status", "ingest.content_type"]


def test_chunked_and_compressed_bodies_are_undone(tmp_path: Path) -> None:
    page = f"<html><body><article><p>{articles()[0]}</p></article></body></html>".encode()
    packed = gzip.compress(page)
    pieces = [packed[at : at + 99] for at in range(0, len(packed), 99)]
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    headers = [("Content-Type", "text/html"), ("Transfer-Encoding", "chunked"), ("Content-Encoding", "gzip")]
    path = tmp_path / "a.warc"
    with open(path, "wb") as file:
        import io

        http = StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1")
        writer = WARCWriter(file, gzip=False)
        writer.write_record(
            writer.create_warc_record("http://a.b/", "response", io.BytesIO(chunked + b"0\r\n\r\n"), http_headers=http)
        )
    (text,) = ingest(tmp_path / "w", SourceConfig(path=str(path)))["text"]
    assert "".join(articles()[0].split()) in "".join(text.split())


def test_real_pages_all_arrive(corpus: Path, tmp_path: Path) -> None:
    """Each page of the archive is kept or set aside, and named by its own record id."""
    listed = [json.loads(line) for line in (corpus / "web" / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    table = ingest(tmp_path / "w", SourceConfig(path=str(corpus / "web" / "open-zh.wet.gz")))
    read = record(tmp_path / "w", "ingest")["counts"]["read"]["documents"]
    urls = {row["url"] for row in listed}
    assert read == 162
    assert set(table["url"]) <= urls


def test_inputs_are_found_in_one_order(tmp_path: Path) -> None:
    for name in ("b/1.jsonl", "a/1.jsonl", "a/2.jsonl.gz", "a/.hidden.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'{"text": "x"}\n')
    files, problems = find_inputs([SourceConfig(path=str(tmp_path))])
    assert [file.name for file in files] == ["a/1.jsonl", "a/2.jsonl.gz", "b/1.jsonl"]
    assert files[1].compression == "none"  # the name says gzip, the bytes do not
    assert problems == []
