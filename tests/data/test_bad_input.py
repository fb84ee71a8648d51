"""Every kind of broken input: what can be read is read, what cannot is named, and the counts add up."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard

from data.__main__ import COMMANDS
from data.config import CorpusConfig
from data.engine import RunOptions, run_stage
from data.ingest import IngestConfig
from data.pipeline import EngineConfig
from data.shards import read_json
from data.sources import SourceConfig
from data.stages import stage_named

TEXT = "清晨的菜市场里，卖豆腐的老人把木板擦得发亮，等着第一位客人。A short English sentence follows it."


def ingest(tmp_path: Path, *paths: Path, **settings: Any) -> tuple[dict[str, Any], pl.DataFrame, pl.DataFrame]:
    """Run ingest alone: its record, and the kept and rejected documents. Checks that the counts add up."""
    source = settings.pop("source", {})
    config = CorpusConfig(
        sources=[SourceConfig(path=str(path), **source) for path in paths],
        ingest=IngestConfig(**settings),
        engine=EngineConfig(disk_reserve_mb=0),
    )
    workspace = tmp_path / "workspace"
    run_stage(stage_named("ingest"), config, RunOptions(workspace=workspace), None)
    record: Any = read_json(workspace / "ingest" / "stage.json")
    kept = pl.read_parquet(sorted((workspace / "ingest" / "kept").glob("*.parquet")))
    rejected = pl.read_parquet(sorted((workspace / "ingest" / "rejected").glob("*.parquet")))
    counts = record["counts"]
    assert counts["kept"]["documents"] == kept.height
    assert counts["rejected"]["documents"] == rejected.height
    assert counts["read"]["documents"] == kept.height + rejected.height
    assert sum(part["documents"] for part in counts.get("rejected_by", {}).values()) == rejected.height
    return record, kept, rejected


def json_line(number: int, **more: Any) -> bytes:
    return json.dumps({"id": f"d{number}", "text": f"{number} {TEXT}"} | more, ensure_ascii=False).encode() + b"\n"


def problems(record: dict[str, Any]) -> list[str]:
    return [problem["reason"] for problem in record["problems"]]


def warc_record(number: int, body: bytes, *, length: int | None = None, kind: str = "response") -> bytes:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
        f"WARC-Target-URI: https://example.com/{number}\r\n"
        f"Content-Length: {len(http) if length is None else length}\r\n\r\n"
    )
    return head.encode() + http + b"\r\n\r\n"


def page(number: int) -> bytes:
    return f"<html><body><article><h1>{number}</h1><p>{TEXT * 5}</p></article></body></html>".encode()


def test_truncated_gzip_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(json_line(n, filler=str(n * 7919) * 40) for n in range(400)))
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    record, kept, _ = ingest(tmp_path, path)
    assert "truncated_gzip" in problems(record)
    assert 50 < kept.height < 400


def test_concatenated_gzip_members_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "members.jsonl.gz"
    path.write_bytes(b"".join(gzip.compress(json_line(n)) for n in range(7)))
    record, kept, _ = ingest(tmp_path, path)
    assert kept["source_id"].to_list() == [f"d{n}" for n in range(7)]
    assert problems(record) == []


def test_reading_goes_on_behind_a_damaged_gzip_member(tmp_path: Path) -> None:
    bad = gzip.compress(b"".join(json_line(n, filler=str(n**9)) for n in range(100, 300)))
    path = tmp_path / "damaged.jsonl.gz"
    path.write_bytes(gzip.compress(json_line(1)) + bad[: len(bad) // 2] + gzip.compress(json_line(2)))
    record, kept, _ = ingest(tmp_path, path)
    assert {"d1", "d2"} <= set(kept["source_id"])
    assert any(reason.endswith("_gzip") for reason in problems(record))


def test_truncated_zstd_is_named(tmp_path: Path) -> None:
    whole = zstandard.compress(b"".join(json_line(n, filler=str(n**9)) for n in range(5000)))
    path = tmp_path / "cut.jsonl.zst"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    record, kept, _ = ingest(tmp_path, path)
    assert "truncated_zstd" in problems(record)
    assert kept.height > 100


def test_zstd_frames_one_after_another_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "frames.jsonl.zst"
    path.write_bytes(b"".join(zstandard.compress(json_line(n)) for n in range(5)))
    _, kept, _ = ingest(tmp_path, path)
    assert kept.height == 5


@pytest.mark.parametrize("error", [-40, 40, 4_000_000, 10**13])
def test_warc_record_with_a_wrong_length_costs_no_neighbour(tmp_path: Path, error: int) -> None:
    http = len(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n") + len(page(1))
    path = tmp_path / "length.warc"
    path.write_bytes(warc_record(0, page(0)) + warc_record(1, page(1), length=http + error) + warc_record(2, page(2)))
    record, kept, _ = ingest(tmp_path, path)
    assert {"urn:uuid:0", "urn:uuid:2"} <= set(kept["source_id"])
    assert kept.filter(pl.col("source_id") == "urn:uuid:1").height == 1  # its true end was found
    assert "warc_wrong_length" in problems(record)


def test_truncated_warc_keeps_the_records_before_the_end(tmp_path: Path) -> None:
    data = b"".join(gzip.compress(warc_record(n, page(n))) for n in range(5))
    path = tmp_path / "cut.warc.gz"
    path.write_bytes(data[:-60])
    record, kept, rejected = ingest(tmp_path, path)
    assert kept["source_id"].to_list() == [f"urn:uuid:{n}" for n in range(4)]
    assert rejected["rejected_by"].to_list() == ["ingest.truncated_record"]
    assert "truncated_gzip" in problems(record)


def test_bytes_between_warc_records_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "junk.warc"
    path.write_bytes(b"\x00\x01 not a record\r\n\r\n" + warc_record(0, page(0)) + warc_record(1, page(1)))
    record, kept, _ = ingest(tmp_path, path)
    assert kept.height == 2
    assert "warc_out_of_step" in problems(record)


def test_invalid_utf8_becomes_replacement_characters(tmp_path: Path) -> None:
    path = tmp_path / "bytes.jsonl"
    path.write_bytes(json_line(0) + b'{"id": "bad", "text": "\xe5\xa5\xbd\xff\xfe and more text"}\n' + json_line(1))
    _, kept, _ = ingest(tmp_path, path)
    assert kept["source_id"].to_list() == ["d0", "bad", "d1"]
    assert kept["text"][1].startswith("好")


def test_nul_bytes_go_and_the_document_stays(tmp_path: Path) -> None:
    path = tmp_path / "nul.jsonl"
    path.write_bytes(b'{"id": "raw", "text": "a\x00b of it"}\n{"id": "escaped", "text": "a\\u0000b of it"}\n')
    _, kept, _ = ingest(tmp_path, path)
    assert kept["source_id"].to_list() == ["raw", "escaped"]
    assert not kept["text"].str.contains("\x00", literal=True).any()


def test_byte_order_marks_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + json_line(0))
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    (tmp_path / "c.txt").write_bytes(TEXT.encode("utf-16"))
    _, kept, _ = ingest(tmp_path, tmp_path / "a.jsonl", tmp_path / "b.txt", tmp_path / "c.txt")
    assert kept.height == 3
    assert all(TEXT in text for text in kept["text"])
    assert not kept["text"].str.contains("\ufeff", literal=True).any()


def test_line_of_200_mb_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(json_line(0))
        file.write(b'{"id": "long", "text": "')
        for _ in range(200):
            file.write(b"abcd efgh ijkl mnop " * 50_000)
        file.write(b'"}\n')
        file.write(json_line(1))
    record, kept, rejected = ingest(tmp_path, path, max_ratio=100_000.0)
    assert kept["source_id"].to_list() == ["d0", "d1"]
    assert rejected["rejected_by"].to_list() == ["ingest.line_too_long"]
    assert int(rejected["rejected_value"][0]) > 200_000_000
    assert problems(record) == []


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b'["a", "list"]', "not_an_object"),
        (b"42", "not_an_object"),
        (b'"a string"', "not_an_object"),
        (b'{"id": "x", "content": "elsewhere"}', "missing_text"),
        (b'{"id": "x", "text": null}', "null_text"),
        (b'{"id": "x", "text": ["a"]}', "text_not_string"),
        (b'{"id": "x", "text": "  \\n "}', "empty_text"),
        (b'{"id": "x", "text": "cut', "invalid_json"),
        (b"\x00\x01\x02", "invalid_json"),
    ],
)
def test_line_that_is_no_document_is_set_aside_with_its_reason(tmp_path: Path, line: bytes, rule: str) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(json_line(0) + line + b"\n\n" + json_line(1))
    record, kept, rejected = ingest(tmp_path, path)
    assert kept["source_id"].to_list() == ["d0", "d1"]
    assert rejected["rejected_by"].to_list() == [f"ingest.{rule}"]
    assert record["counts"]["records_passed_over"] == 1  # the blank line


def test_of_two_documents_with_one_id_the_first_stays(tmp_path: Path) -> None:
    for name, numbers in (("a.jsonl", [1, 2, 1]), ("b.jsonl", [3, 2])):
        lines = [json_line(n, version=f"{name} {i}") for i, n in enumerate(numbers)]
        (tmp_path / name).write_bytes(b"".join(lines))
    _, kept, rejected = ingest(tmp_path, tmp_path / "[ab].jsonl", source={"name": "one"}, pack_mb=1e-6)
    assert sorted(kept["source_id"]) == ["d1", "d2", "d3"]
    assert rejected["rejected_by"].to_list() == ["ingest.duplicate_id"] * 2
    assert kept["id"].n_unique() == kept.height


def test_page_nested_100000_deep_costs_itself_alone(tmp_path: Path) -> None:
    deep = b"<html><body>" + b"<div>" * 100_000 + TEXT.encode() + b"</div>" * 100_000 + b"</body></html>"
    path = tmp_path / "deep.warc"
    path.write_bytes(warc_record(0, page(0)) + warc_record(1, deep) + warc_record(2, page(2)))
    _, kept, rejected = ingest(tmp_path, path)
    assert kept["source_id"].to_list() == ["urn:uuid:0", "urn:uuid:2"]
    assert rejected["rejected_by"].to_list() == ["ingest.too_deep"]


def test_page_of_50_mb_costs_itself_alone(tmp_path: Path) -> None:
    large = b"<html><body><p>" + TEXT.encode() * (50_000_000 // len(TEXT.encode()) + 1) + b"</p></body></html>"
    path = tmp_path / "large.warc"
    path.write_bytes(warc_record(0, page(0)) + warc_record(1, large) + warc_record(2, page(2)))
    _, kept, rejected = ingest(tmp_path, path)
    assert kept["source_id"].to_list() == ["urn:uuid:0", "urn:uuid:2"]
    assert rejected["rejected_by"].to_list() == ["ingest.record_too_large"]


def test_decompression_bomb_is_given_up_and_the_rest_is_read(tmp_path: Path) -> None:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(squeeze.compress(b" " * 10_000_000) for _ in range(100)) + squeeze.flush()
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(json_line(0)) + bomb + gzip.compress(json_line(1)))
    record, kept, _ = ingest(tmp_path, path)
    assert {"d0", "d1"} <= set(kept["source_id"])
    assert "decompression_bomb" in problems(record)


def test_member_may_grow_much_while_it_is_small(tmp_path: Path) -> None:
    """A ratio alone makes no bomb: 20 MB of one line compress a thousandfold and are read."""
    path = tmp_path / "same.jsonl.gz"
    path.write_bytes(gzip.compress(json_line(0) + b" " * 20_000_000 + b"\n" + json_line(1)))
    record, kept, rejected = ingest(tmp_path, path)
    assert kept["source_id"].to_list() == ["d0", "d1"]
    assert rejected.height == 0
    assert problems(record) == []


@pytest.mark.parametrize("suffix", ["zst", "bz2", "xz"])
def test_bombs_of_other_compressions_are_given_up(tmp_path: Path, suffix: str) -> None:
    compress = {"zst": zstandard.compress, "bz2": bz2.compress, "xz": lambda data: lzma.compress(data, preset=1)}[
        suffix
    ]
    path = tmp_path / f"bomb.jsonl.{suffix}"
    path.write_bytes(compress(json_line(0)) + compress(bytes(150_000_000)) + compress(json_line(1)))
    record, kept, _ = ingest(tmp_path, path, max_record_mb=1.0)
    assert {"d0"} <= set(kept["source_id"])
    assert "decompression_bomb" in problems(record)


def test_compressed_body_that_grows_too_far_costs_itself_alone(tmp_path: Path) -> None:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n"
    http += gzip.compress(b"<p>" + b"a" * 30_000_000)
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:bomb>\r\nContent-Length: {len(http)}\r\n\r\n"
    path = tmp_path / "body.warc"
    path.write_bytes(warc_record(0, page(0)) + head.encode() + http + b"\r\n\r\n" + warc_record(2, page(2)))
    _, kept, rejected = ingest(tmp_path, path, max_record_mb=10.0)
    assert kept["source_id"].to_list() == ["urn:uuid:0", "urn:uuid:2"]
    assert rejected.select("source_id", "rejected_by").rows() == [("urn:uuid:bomb", "ingest.decompression_bomb")]


def test_page_too_large_for_the_extractor_costs_itself_alone(tmp_path: Path) -> None:
    large = b"<html><body>" + f"<p>{TEXT}</p>".encode() * 50_000 + b"</body></html>"
    path = tmp_path / "large.warc"
    path.write_bytes(warc_record(0, page(0)) + warc_record(1, large) + warc_record(2, page(2)))
    _, kept, rejected = ingest(tmp_path, path)
    assert kept["source_id"].to_list() == ["urn:uuid:0", "urn:uuid:2"]
    assert rejected.select("rejected_by", "rejected_value").rows() == [("ingest.too_large", f"{len(large)} bytes")]


def test_json_lines_in_utf16_are_read(tmp_path: Path) -> None:
    lines = b"".join(json_line(n) for n in range(3)).decode()
    (tmp_path / "le.jsonl").write_bytes(lines.encode("utf-16"))
    (tmp_path / "be.jsonl").write_bytes(b"\xfe\xff" + lines.encode("utf-16-be"))
    _, kept, rejected = ingest(tmp_path, tmp_path / "le.jsonl", tmp_path / "be.jsonl")
    assert kept["source_id"].to_list() == ["d0", "d1", "d2"] * 2
    assert all(TEXT in text for text in kept["text"])
    assert rejected.height == 0


def test_parquet_with_other_columns(tmp_path: Path) -> None:
    pl.DataFrame({"title": ["a"], "body": [TEXT]}).write_parquet(tmp_path / "none.parquet")
    pl.DataFrame({"text": [TEXT, None], "score": [1.5, 2.0], "id": [7, 8]}).write_parquet(tmp_path / "more.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but then nothing of the kind")
    record, kept, rejected = ingest(tmp_path, *(tmp_path / f"{n}.parquet" for n in ("none", "more", "broken")))
    assert kept["source_id"].to_list() == ["7"]
    assert rejected["rejected_by"].to_list() == ["ingest.null_text"]
    assert sorted(problems(record)) == ["corrupt_parquet", "missing_text_column"]


def test_source_path_that_matches_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_line(0))
    record, kept, _ = ingest(tmp_path, tmp_path / "a.jsonl", tmp_path / "absent-*.jsonl")
    assert kept.height == 1
    assert problems(record) == ["matches_nothing"]


def test_empty_file_and_unknown_format_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(json_line(0))
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    record, kept, _ = ingest(tmp_path, folder)
    assert kept.height == 1
    assert sorted(problems(record)) == ["empty_file", "unknown_format"]


def run_line(*words: str) -> tuple[int, str]:
    from command_line import run_commands

    return run_commands("python -m data", COMMANDS, list(words)), ""


@pytest.mark.parametrize("content", [None, b"", b'{"nothing": 1}\n'])
def test_input_that_gives_nothing_ends_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    if content is not None:
        (folder / "a.jsonl").write_bytes(content)
    code, _ = run_line("ingest", "--workspace", str(tmp_path / "w"), "--input", str(folder))
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == 1
    assert len(told) == 1
    assert not (tmp_path / "w" / "ingest" / "stage.json").exists()


def test_bad_files_among_good_ones_end_with_success_and_a_full_account(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.jsonl").write_bytes(b"".join(json_line(n) for n in range(4)))
    (folder / "lines.jsonl").write_bytes(json_line(4) + b'[]\n{"id": 1}\n{"text": null}\nnot json\n')
    (folder / "cut.jsonl.gz").write_bytes(
        gzip.compress(json_line(5) + json_line(6, filler="".join(str(n**7) for n in range(400))))[:-1500]
    )
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "broken.parquet").write_bytes(b"PAR1")
    deep = b"<div>" * 100_000
    (folder / "pages.warc").write_bytes(warc_record(0, page(0)) + warc_record(1, deep) + warc_record(2, b""))
    pl.DataFrame({"body": [TEXT]}).write_parquet(folder / "columns.parquet")
    workspace = tmp_path / "w"
    code, _ = run_line("ingest", "--workspace", str(workspace), "--input", str(folder), str(tmp_path / "absent.jsonl"))
    told = capsys.readouterr()
    assert code == 0
    assert "Traceback" not in told.err + told.out
    record = read_json(workspace / "ingest" / "stage.json")
    wanted = {"truncated_gzip", "empty_file", "corrupt_parquet", "missing_text_column", "matches_nothing"}
    assert wanted <= {problem["reason"] for problem in record["problems"]}
    rules = {"not_an_object", "missing_text", "null_text", "invalid_json", "too_deep", "no_text"}
    assert {f"ingest.{rule}" for rule in rules} <= set(record["counts"]["rejected_by"])
    counts = {name: record["counts"][name]["documents"] for name in ("read", "kept", "rejected")}
    assert counts["read"] == counts["kept"] + counts["rejected"]
    assert counts["kept"] == 7  # five lines, one line before the cut, one page
    assert counts["rejected"] == sum(part["documents"] for part in record["counts"]["rejected_by"].values())


def test_disk_too_small_is_said_before_the_stage_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))  # noqa: ARG005
    (tmp_path / "a.jsonl").write_bytes(json_line(0))
    code, _ = run_line("ingest", "--workspace", str(tmp_path / "w"), "--input", str(tmp_path / "a.jsonl"))
    assert code == 1
    assert "are free" in capsys.readouterr().err
    assert not list((tmp_path / "w").rglob("*.parquet"))
