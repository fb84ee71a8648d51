"""Reading a corpus: everything that can be read is, everything else is counted, whatever the files hold."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tokenizer.corpus import Faults, collection_of, read_documents
from tokenizer.sample import SampleConfig, plan_sample


def read(path: Path) -> tuple[list[str], Faults]:
    faults = Faults()
    return [document.text for document in read_documents([path], faults)], faults


def rows(count: int) -> bytes:
    return b"".join(json.dumps({"text": f"text {n}" * 50}).encode() + b"\n" for n in range(count))


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"text": "\xff"}',
        b'{"text": 1}',
        b"[]",
        b'{"text": "' + b"a" * 5000 + b'"}',  # longer than a line may be
    ],
)
def test_line_that_is_no_document_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    if len(line) < 10_000:
        monkeypatch.setattr("tokenizer.corpus.LONGEST_LINE", 1000)
    (tmp_path / "a.jsonl").write_bytes(rows(1) + line + b"\n" + rows(1))
    texts, faults = read(tmp_path / "a.jsonl")
    assert len(texts) == 2
    assert faults.count == 1
    assert "line 2" in faults.examples[0]


def test_lone_surrogates_of_any_field_can_be_written_again(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800", "source": "\\ud800", "language": "z\\udfff"}')
    (document,) = read_documents([tmp_path / "a.jsonl"], Faults())
    (document.text + document.source + document.language).encode()


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_cut_file_is_read_to_the_cut_and_counted(tmp_path: Path, suffix: str) -> None:
    compress = {"gz": gzip.compress, "zst": zstandard.compress}[suffix]
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(compress(rows(3)) + compress(rows(4)))
    texts, faults = read(path)
    assert (len(texts), faults.count) == (7, 0)
    for cut in (3, len(compress(rows(4))) - 3):  # the first ends on a line
        path.write_bytes((compress(rows(3)) + compress(rows(4)))[:-cut])
        texts, faults = read(path)
        assert 3 <= len(texts) < 8
        assert "after line" in faults.examples[-1]
    path.write_bytes(compress(rows(3)) + b"junk that is no member")
    texts, faults = read(path)
    assert (len(texts), faults.count) == (3, 1)


def test_parquet_text_that_is_not_utf8_costs_its_own_row(tmp_path: Path) -> None:
    raw = pa.array([b"one", b"\xff", b"three"], pa.binary())
    column = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    texts, faults = read(tmp_path / "a.parquet")
    assert (texts, faults.count) == (["one", "three"], 1)


def test_a_document_belongs_to_a_collection() -> None:
    assert collection_of("owner/name@a2e592a8fc39:docs/index.md") == "owner/name"
    assert collection_of("https://example.org/a/b") == "example.org"
    assert collection_of("wiki") == "wiki"


def test_a_stratum_is_a_collection_and_no_single_document(tmp_path: Path) -> None:
    sources = [f"owner/{'large' if n % 10 else 'small'}@abc:docs/{n}.md" for n in range(3000)]
    lines = [json.dumps({"text": f"文字{n}" * 20, "source": source}) for n, source in enumerate(sources)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    sample = plan_sample([tmp_path / "a.jsonl"], SampleConfig(language_weights={"zh": 1}))
    assert set(sample.available) == {("zh", "owner/large"), ("zh", "owner/small")}
