"""The strings of evaluation sets: what decontamination looks for.

A set is a file (JSON, JSONL, Parquet, CSV or plain text, also .gz and .zst) or a data set of the `datasets` library.
Nothing is known of any format: every string in a record counts, in the order in which it stands there. An item is a
line, a row, or an element of the outermost list of objects in a JSON file.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet
import zstandard

HUGGING_FACE = "hf:"
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".csv", ".tsv", ".txt")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One evaluation item."""

    set: str
    """File name (with folders, where files of one name are told apart by them) or data set name."""
    item: str
    """The item's own `id` where it has one, else its number in the set."""
    strings: tuple[str, ...]


def read_items(against: tuple[str, ...]) -> Iterator[Item]:
    """All items of the sets named in `decontaminate.against`.

    FileNotFoundError for a path or glob that matches nothing, ValueError naming the file for one that cannot be read.
    """
    for name, path in set_files(against).items():
        yield from _file_items(path, name)
    for name in against:
        if name.startswith(HUGGING_FACE):
            yield from _hugging_face(name.removeprefix(HUGGING_FACE))


def set_files(against: tuple[str, ...]) -> dict[str, Path]:
    """The files among the sets of `decontaminate.against`, each once, by the names that their sets go by.

    A name is as much of the end of the path as no other file has.
    """
    names = [name for name in against if not name.startswith(HUGGING_FACE)]
    left = list(dict.fromkeys(path.absolute() for name in names for path in find_files(name)))
    named: dict[Path, str] = {}
    order = list(left)
    for length in range(1, max((len(path.parts) for path in left), default=0) + 1):
        ends = {path: "/".join(path.parts[-length:]) for path in left}
        count = Counter(ends.values())
        named |= {path: end for path, end in ends.items() if count[end] == 1}
        left = [path for path in left if path not in named]
    return {named[path]: path for path in order}


def find_files(name: str) -> list[Path]:
    """The files that a path, folder or glob stands for, in order."""
    path = Path(name).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and _kind(p))
    elif path.is_file():
        found = [path]
    else:
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
    if not found:
        raise FileNotFoundError(f"decontaminate.against: '{name}' matches no file (data set names begin with 'hf:')")
    return found


def _kind(path: Path) -> str:
    suffixes = [s for s in path.suffixes[-2:] if s not in (".gz", ".zst")]
    return suffixes[-1] if suffixes and suffixes[-1] in _SUFFIXES else ""


def _text(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        data = b"".join(_frames(data))
    return data.decode("utf-8-sig")


def _frames(data: bytes) -> Iterator[bytes]:
    """The content of each frame of a zstd file. EOFError if the last is cut short."""
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        yield frame.decompress(data)
        if not frame.eof:
            raise EOFError("it ends within a frame")
        data = frame.unused_data


def _file_items(path: Path, name: str) -> Iterator[Item]:
    kind = _kind(path)
    if not kind:
        raise ValueError(f"{path}: decontaminate.against reads {', '.join(_SUFFIXES)} and their .gz or .zst")
    try:
        records = list(_records(path, kind))
    except (ValueError, OSError, EOFError, zlib.error, zstandard.ZstdError, csv.Error) as error:
        raise ValueError(f"{path}: not readable as {kind.removeprefix('.')} ({error})") from None
    for number, record in enumerate(records):
        strings = tuple(_strings(record))
        if strings:
            yield Item(set=name, item=_name(record, number), strings=strings)


def _records(path: Path, kind: str) -> Iterator[object]:
    if kind == ".parquet":
        yield from pyarrow.parquet.read_table(path).to_pylist()
    elif kind == ".json":
        text = _text(path)
        try:
            yield from _elements(json.loads(text))
        except json.JSONDecodeError:
            # many files called .json hold a line an object
            yield from (json.loads(line) for line in text.split("\n") if line.strip())
    elif kind in (".jsonl", ".ndjson"):
        yield from (json.loads(line) for line in _text(path).split("\n") if line.strip())
    elif kind in (".csv", ".tsv"):
        csv.field_size_limit(sys.maxsize)  # a passage may be longer than the library's 128 kB
        yield from csv.reader(io.StringIO(_text(path)), delimiter="\t" if kind == ".tsv" else ",")
    else:
        yield from (line for line in _text(path).splitlines() if line.strip())


def _elements(value: object) -> Iterator[object]:
    """The elements of the outermost lists of objects; what stands beside them is an item of its own."""
    if isinstance(value, list):
        yield from value
    elif isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and len(v) > 1 and isinstance(v[0], dict | list)]
        deeper = [v for v in value.values() if isinstance(v, dict)]
        rest = {k: v for k, v in value.items() if not any(v is x for x in lists + deeper)}
        if lists or deeper:
            if rest:
                yield rest
            for inner in lists + deeper:
                yield from _elements(inner)
        else:
            yield value
    else:
        yield value


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _name(record: object, number: int) -> str:
    if isinstance(record, dict):
        own = record.get("id")
        if isinstance(own, str | int):
            return str(own)
    return str(number)


def _hugging_face(name: str) -> Iterator[Item]:
    from datasets import load_dataset

    dataset, _, configuration = name.partition(":")
    for split, rows in load_dataset(dataset, configuration or None).items():
        for number, row in enumerate(rows):
            strings = tuple(_strings(row))
            if strings:
                yield Item(set=f"{dataset}/{split}", item=_name(row, number), strings=strings)
