"""Read the texts of a corpus, one document at a time: folders of shards, Parquet, JSONL plain or compressed.

What cannot be read is counted and named, and the rest is read. pyarrow and zstandard are imported where a file of
theirs is opened, so that a machine which only encodes needs neither.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")


@dataclass(frozen=True)
class Document:
    """One document: its text, its language (`zh`, `en`, `mixed`, `other` or `code`), script ("" if unknown), and the
    collection that it comes from."""

    text: str
    language: str
    script: str
    source: str


@dataclass
class Faults:
    """What could not be read: how many records, and the first few by name."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        """Count one, and keep its description if it is among the first ten."""
        self.count += 1
        if len(self.examples) < 10:
            self.examples.append(what)


def find_files(paths: list[Path]) -> list[Path]:
    """The corpus files that the paths name, those of a folder in order of name, at any depth.

    Raises FileNotFoundError for a path that is not there or a folder without a corpus file, ValueError for a file of
    another kind.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())
            if not found:
                raise FileNotFoundError(f"{path}: no {' '.join(SUFFIXES)} file in this folder")
            files += found
        elif not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
        elif not path.name.endswith(SUFFIXES):
            raise ValueError(f"{path}: not one of {' '.join(SUFFIXES)}")
        else:
            files.append(path)
    return files


def read_documents(paths: list[Path], faults: Faults, limit: int | None = None) -> Iterator[Document]:
    """Every document with a text that is not empty, in order, the first `limit` if given; see `find_files`."""
    count = 0
    for file in find_files(paths):
        rows = _parquet_rows(file, faults) if file.suffix == ".parquet" else _json_rows(file, faults)
        for row in rows:
            text = row["text"]
            assert isinstance(text, str)
            if not text:
                continue
            if limit is not None and count >= limit:
                return
            count += 1
            yield Document(
                text, _language(row, text), str(row.get("script") or ""), str(row.get("source") or file.name)
            )


def collection_of(source: str) -> str:
    """What a source belongs to: the host of a URL, the repository of `owner/name@commit:path`, else the name itself.

    Many corpora give every document a source of its own, and a share for each document would be no stratum.
    """
    if "://" in source:
        return source.split("://", 1)[1].split("/", 1)[0]
    return re.split("[@:]", source, maxsplit=1)[0] or source


def han_share(text: str) -> float:
    """Share of Han characters among Han characters and Latin letters; 0 where there are neither."""
    han = sum("\u4e00" <= c <= "\u9fff" or "\u3400" <= c <= "\u4dbf" or "\U00020000" <= c <= "\U0003ffff" for c in text)
    latin = sum("a" <= c <= "z" or "A" <= c <= "Z" for c in text)
    return han / (han + latin) if han + latin else 0.0


def _language(row: dict[str, object], text: str) -> str:
    """The stratum of a row: `code` where its kind says so, its language, or else what the script says."""
    if row.get("kind") == "code":
        return "code"
    if row.get("language"):
        return str(row["language"])
    share = han_share(text[:4000])
    return "zh" if share >= 0.3 else "mixed" if share >= 0.05 else "en"


def _parquet_rows(file: Path, faults: Faults) -> Iterator[dict[str, object]]:
    import pyarrow
    import pyarrow.parquet

    try:
        shard = pyarrow.parquet.ParquetFile(file)
        columns = [
            c for c in ("text", "language", "script", "source", "collection", "kind") if c in shard.schema_arrow.names
        ]
        if "text" not in columns:
            raise ValueError(f"{file}: no column `text` in this Parquet file")
        for batch in shard.iter_batches(batch_size=256, columns=columns):
            for row in batch.to_pylist():
                if isinstance(row["text"], str):
                    yield row
                else:
                    faults.add(f"{file}: a row without text")
    except (pyarrow.ArrowException, OSError) as error:
        faults.add(f"{file}: {error}")


def _json_rows(file: Path, faults: Faults) -> Iterator[dict[str, object]]:
    number = 0
    try:
        with _open(file) as stream:
            for number, line in enumerate(stream, 1):
                row = _json_row(line)
                if row is not None:
                    yield row
                elif line.strip():
                    faults.add(f"{file}, line {number}: not a JSON object with a `text` of UTF-8")
    except (OSError, EOFError, zlib.error) as error:
        faults.add(f"{file}, after line {number}: {error}")


def _json_row(line: bytes) -> dict[str, object] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        return None
    # JSON can spell a lone surrogate, which no encoding of text can hold.
    row["text"] = row["text"].encode("utf-8", "replace").decode("utf-8")
    return row


def _open(file: Path) -> io.BufferedIOBase:
    if file.suffix == ".gz":
        return gzip.open(file, "rb")
    if file.suffix == ".zst":
        import zstandard

        try:
            reader = zstandard.ZstdDecompressor().stream_reader(file.open("rb"), read_across_frames=True, closefd=True)
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from error
        return io.BufferedReader(_ZstdStream(reader), 1 << 20)
    return file.open("rb")


class _ZstdStream(io.RawIOBase):
    """A zstandard reader whose errors are OSError, as those of gzip are."""

    def __init__(self, reader: object) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        import zstandard

        try:
            return self._reader.readinto(buffer)  # type: ignore[attr-defined]
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from error
