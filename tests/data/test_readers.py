"""Readers by themselves: a record is whole or set aside, whatever lies in a file, and nothing in it raises."""

from __future__ import annotations

import decimal
import gzip
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from data.config import CorpusConfig
from data.decompress import Gap, Limits
from data.engine import RunOptions, run_stage
from data.pipeline import EngineConfig
from data.raw import ByteBuffer, Problems, RawRecord
from data.readers import _read_lines, _text_line, from_fields, read_records
from data.sources import SourceConfig, find_inputs
from data.stages import stage_named
from data.warc import read_warc

LIMITS = Limits(ratio=250)


def read(path: Path, form: str = "auto") -> tuple[list[RawRecord], Problems]:
    """The records of one file, and its problems."""
    files, missing = find_inputs([SourceConfig(path=str(path), format=form)])  # type: ignore[arg-type]
    assert missing == []
    problems = Problems(file=str(path))
    records = read_records(files[0], problems, 10_000_000, LIMITS)
    return [record for record in records if record is not None], problems


def faults(records: list[RawRecord]) -> list[str | None]:
    return [record.fault for record in records]


@given(st.lists(st.sampled_from([b"a", b"bc", b"\n", b"d\ne", Gap("lost", "")]), max_size=12))
def test_no_line_reaches_over_missing_bytes(pieces: list[bytes | Gap]) -> None:
    """However many gaps lie in what was read ahead, what comes before one and what comes behind it never meet."""
    marked = b"".join(b"|" if isinstance(piece, Gap) else piece for piece in pieces)
    whole = {part for line in marked.split(b"\n") for part in line.split(b"|")}
    item = find_inputs([SourceConfig(path=__file__, format="lines")])[0][0]
    buffer = ByteBuffer(iter(pieces), Problems(file="x"))
    given_lines = [record for record in _read_lines(buffer, item, 100, _text_line) if record is not None]
    texts = [record.text or "" for record in given_lines]
    assert {text.encode() for text in texts} <= whole
    assert sum(map(len, texts)) == len(marked.translate(None, b"|\n"))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"text": "a", "score": NaN}', "a"),
        (b'{"text": "a \\ud83d b"}', "a \ufffd b"),
        (b'{"text": "a", "title": "\\udc00"}', "a"),
        (b'{"text": "a\tb"}', "a\tb"),
        (b'{"text": "a", "n": 123456789012345678901234567890}', "a"),
    ],
)
def test_json_that_pythons_writer_makes_is_read(tmp_path: Path, line: bytes, text: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line)
    (record,) = read(path)[0]
    assert (record.fault, record.text) == (None, text)
    "".join(value for value in (record.title, record.url) if value).encode()


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": ' + b"[" * 600 + b"]" * 600 + b"}",
        b"[" * 900 + b"]" * 900,
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"\\ud800": "\\ud800"}',
        b'{"a": 1' + b"0" * 400 + b"}",
    ],
)
def test_json_that_cannot_be_written_again_is_set_aside(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b'\n{"text": "next"}\n')
    records, _ = read(path)
    assert faults(records)[0] in ("missing_text", "not_an_object", "invalid_json")
    assert records[1].text == "next"


def test_rows_of_any_type_are_set_aside_or_read() -> None:
    item = find_inputs([SourceConfig(path=__file__, format="lines")])[0][0]
    assert from_fields({1: decimal.Decimal(1)}, item, 0).fault == "missing_text"
    assert from_fields({"a": 10**30}, item, 0).fault == "missing_text"
    found = from_fields({"text": b"\xe5\xa5\xbd \xff", "id": b"d1"}, item, 0)
    assert (found.text, found.source_id, found.fault) == ("好 \ufffd", "d1", None)


def test_damaged_row_group_of_parquet_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = pl.DataFrame({"text": [f"{number} " + "字" * (number % 7) for number in range(3000)]})
    rows.write_parquet(path, row_group_size=1000, compression="zstd")
    whole, _ = read(path)
    column = pq.read_metadata(path).row_group(1).column(0)
    content = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    content[middle : middle + 50] = bytes(50)
    path.write_bytes(content)
    left, problems = read(path)
    assert "corrupt_parquet" in problems.counts
    assert [record.source_id for record in left if record.text in ("0 ", "2002 ")] == ["a.parquet#0", "a.parquet#2002"]
    assert {record.text for record in left} < {record.text for record in whole}
    assert len(left) >= 2000


def test_parquet_text_that_is_not_utf8_costs_no_row(tmp_path: Path) -> None:
    raw = pa.array([b"one", b"\xe5\xa5\xbd\xff", b"three"], pa.binary())
    declared = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])  # as careless writers store it
    for name, column in (("declared", declared), ("bytes", raw)):
        pq.write_table(pa.table({"text": column}), tmp_path / f"{name}.parquet")
        records, problems = read(tmp_path / f"{name}.parquet")
        assert [record.text for record in records] == ["one", "好\ufffd", "three"]
        assert problems.counts == {}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_bytes_tell_the_compression_where_the_name_is_wrong(tmp_path: Path, name: str) -> None:
    for compress in (gzip.compress, zstandard.compress, bytes):
        (tmp_path / name).write_bytes(compress(b'{"text": "a"}\n'))
        assert [record.text for record in read(tmp_path / name)[0]] == ["a"]


def warc(body: bytes, *headers: str, length: str | None = None) -> Iterator[bytes]:
    http = "\r\n".join(["HTTP/1.1 200 OK", *headers]).encode() + b"\r\n\r\n" + body
    yield f"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: {length or len(http)}\r\n\r\n".encode()
    yield http + b"\r\n\r\n"


@pytest.mark.parametrize("length", ["²", "9" * 5000, "-1", "", "1e3"])
def test_length_that_is_no_number_is_not_believed(length: str) -> None:
    problems = Problems(file="x")
    (record,) = read_warc(ByteBuffer(warc(b"<p>page</p>", length=length or " "), problems), problems, "x", 1000)
    assert record is not None
    assert record.payload == b"<p>page</p>\r\n\r\n"
    assert list(problems.counts) == ["warc_wrong_length"]


PAGE = b"<html><body><p>" + "清晨的菜市场里，卖豆腐的老人把木板擦得发亮。".encode() * 20 + b"</p></body></html>"


@pytest.mark.parametrize(
    ("body", "encoding", "fault"),
    [
        (gzip.compress(PAGE), "gzip", None),
        (zstandard.compress(PAGE), "zstd", None),
        (PAGE, "br", None),  # the crawler undid it and left the header
        (PAGE, "gzip", None),
        (PAGE.decode().encode("gb18030"), "br", None),
        (bytes(range(256)) * 9, "br", "content_encoding"),
        (b"\x1f\x8b" + bytes(range(256)) * 9, "gzip", "content_encoding"),
    ],
)
def test_body_is_decompressed_or_set_aside(body: bytes, encoding: str, fault: str | None) -> None:
    problems = Problems(file="x")
    pieces = warc(body, "Content-Type: text/html", f"Content-Encoding: {encoding}")
    (record,) = read_warc(ByteBuffer(pieces, problems), problems, "x", 100_000)
    assert record is not None
    assert record.fault == fault
    assert fault is not None or record.payload in (PAGE, PAGE.decode().encode("gb18030"))


def test_media_type_has_no_letter_case(tmp_path: Path) -> None:
    """A plain text that calls itself Text/Plain keeps its lines."""
    text = "清晨的菜市场里\n卖豆腐的老人把木板擦得发亮\n" * 3
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(warc(text.encode(), "Content-Type: Text/Plain; charset=utf-8")))
    config = CorpusConfig(sources=[SourceConfig(path=str(path))], engine=EngineConfig(disk_reserve_mb=0))
    run_stage(stage_named("ingest"), config, RunOptions(workspace=tmp_path / "w"), None)
    kept = pl.read_parquet(tmp_path / "w" / "ingest" / "kept" / "*.parquet")
    assert kept["text"].to_list() == [text.strip()]
    assert kept["extraction"].to_list() == [None]


def test_many_short_documents_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard ends at its number of documents where their text would not fill it in memory's reach."""
    monkeypatch.setattr("data.ingest.SHARD_ROWS", 4)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{}\n' * 6)
    config = CorpusConfig(sources=[SourceConfig(path=str(path))], engine=EngineConfig(disk_reserve_mb=0))
    run_stage(stage_named("ingest"), config, RunOptions(workspace=tmp_path / "w"), None)
    shards = [pl.read_parquet(one) for one in sorted((tmp_path / "w" / "ingest").glob("*/*.parquet"))]
    assert [shard.height for shard in shards] == [2] * 6


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.jsonl").write_bytes(b"{}")
    inputs = tmp_path / "in"
    (inputs / ".cache").mkdir(parents=True)
    (inputs / "a.jsonl").write_bytes(b"{}")
    (inputs / ".cache" / "c.jsonl").write_bytes(b"{}")
    (inputs / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(inputs)
    files, _ = find_inputs([SourceConfig(path=str(inputs))])
    assert [file.name for file in files] == ["a.jsonl", "link/b.jsonl"]
