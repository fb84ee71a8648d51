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
from typing import Any

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")
LONGEST_LINE = 64 << 20
"""Bytes of a line of JSON; a longer one is counted as unreadable without being held."""


@dataclass(frozen=True)
class Document:
    """One document of a corpus."""

    text: str
    language: str
    """`zh`, `en`, `mixed`, `other` or `code`."""
    script: str
    """`Hans`, `Hant` and so on; "" if unknown."""
    source: str
    """The collection that it comes from: see `collection_of`."""


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
            source = collection_of(str(row.get("source") or file.name))
            yield Document(text, _language(row, text), str(row.get("script") or ""), source)


def collection_of(source: str) -> str:
    """What a source belongs to: the host of a URL, the repository of `owner/name@commit:path`, else the name itself.

    Many corpora give every document a source of its own, and a stratum of one document balances nothing.
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
        columns = [c for c in ("text", "language", "script", "source", "kind") if c in shard.schema_arrow.names]
        if "text" not in columns:
            raise ValueError(f"{file}: no column `text` in this Parquet file")
        for batch in shard.iter_batches(batch_size=256, columns=columns):
            for row in _batch_rows(batch):
                if isinstance(row["text"], str):
                    yield row
                else:
                    faults.add(f"{file}: a row without a text of UTF-8")
    except (pyarrow.ArrowException, OSError) as error:
        faults.add(f"{file}: {error}")


def _batch_rows(batch: Any) -> list[dict[str, object]]:
    """The rows of a record batch; of one whose columns are not UTF-8, the text is None."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [{"text": None}]
        return [row for place in range(batch.num_rows) for row in _batch_rows(batch.slice(place, 1))]


def _json_rows(file: Path, faults: Faults) -> Iterator[dict[str, object]]:
    number = 0
    try:
        with _open(file) as stream:
            for number, line in enumerate(_lines(stream), 1):
                row = None if line is None else _json_row(line)
                if row is not None:
                    yield row
                elif line is None or line.strip():
                    faults.add(f"{file}, line {number}: not a JSON object with a `text` of UTF-8")
    except (OSError, EOFError, zlib.error) as error:
        faults.add(f"{file}, after line {number}: {error}")


def _lines(stream: io.BufferedIOBase) -> Iterator[bytes | None]:
    """Lines with their ends; None for each that is longer than `LONGEST_LINE`."""
    while line := stream.readline(LONGEST_LINE):
        if len(line) < LONGEST_LINE or line.endswith(b"\n"):
            yield line
            continue
        while (rest := stream.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
            pass
        yield None


def _json_row(line: bytes) -> dict[str, object] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        return None
    # JSON can spell a lone surrogate, which no encoding of text can hold.
    return {
        name: value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
        for name, value in row.items()
    }


def _open(file: Path) -> io.BufferedIOBase:
    if file.suffix == ".gz":
        return gzip.open(file, "rb")
    if file.suffix == ".zst":
        return io.BufferedReader(_ZstdStream(file), 1 << 20)
    return file.open("rb")


class _ZstdStream(io.RawIOBase):
    """The plain bytes of a file of zstandard frames; damage is an OSError and a cut an EOFError, as gzip has them."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("rb")
        self._pieces = self._decompressed()
        self._left = memoryview(b"")

    def close(self) -> None:
        self._file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = memoryview(next(self._pieces, b""))
        given, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)

    def _decompressed(self) -> Iterator[bytes]:
        import zstandard

        frame = None
        while piece := self._file.read(1 << 11):  # what 2 kB of frames can grow to is all that is held
            while piece:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                try:
                    plain = frame.decompress(piece)
                except zstandard.ZstdError as error:
                    raise OSError(str(error)) from error
                piece = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
                if plain:
                    yield plain
        if frame is not None:
            raise EOFError("the file ends inside a frame")
