"""Sources: what the YAML or `--input` names, expanded to the files there are, each with its format and fingerprint.

The list of files is in a fixed order, whatever the file system's, so that shard numbers do not depend on the machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import IO, Any, Literal

import xxhash

from data.decompress import Compression
from data.readers import Fields, Format, detect

Kind = Literal["prose", "code"]
SAMPLE = 1 << 18
"""Bytes read at the beginning, middle and end of a file for its fingerprint."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source of documents."""

    path: str
    """A file, a folder (all files below it), a glob, an fsspec URL, or with `format: huggingface` a data set's name."""
    name: str | None = None
    """What the corpus calls it; without it, the input file's name."""
    format: Literal["auto", "warc", "wet", "jsonl", "json", "parquet", "text", "lines", "html", "huggingface"] = "auto"
    """How it is read; `auto` goes by the file's name, then by its first bytes. `lines` is a document a line."""
    fields: Fields = field(default_factory=Fields)
    """Names of the fields of JSON objects and table rows."""
    language: str | None = None
    """A hint for the language, where a row has none of its own."""
    license: str | None = None
    """The licence, where a row has none of its own."""
    kind: Kind = "prose"
    """`code` has thresholds of its own."""
    weight: float = 1.0
    """How many times as often as others its documents are taken by the mix."""
    subset: str | None = None
    """`huggingface`: the configuration of the data set."""
    split: str = "train"
    """`huggingface`: the split."""
    streaming: bool = True
    """`huggingface`: read over the network as it goes, instead of downloading first."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("sources: path is empty: expected a file, folder, glob, URL or data set name")
        if self.weight < 0:
            raise ValueError(f"sources: {self.path}: weight is {self.weight}: expected 0 or more")
        if self.weight != 1 and not self.name:
            raise ValueError(f"sources: {self.path} has a weight and no name: give it a name")


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One file of a source; `name` is its own, from the source's folder on, and stands in source ids."""

    path: str
    name: str
    source: SourceConfig
    format: Format
    compression: Compression
    size: int
    fingerprint: str

    @property
    def fields(self) -> Fields:
        return self.source.fields

    @property
    def source_name(self) -> str:
        return self.source.name or os.path.basename(self.name)

    def open(self) -> IO[bytes]:
        """The file's bytes as they lie. OSError if it cannot be opened."""
        if "://" not in self.path:
            return open(self.path, "rb")
        import fsspec

        return fsspec.open(self.path, "rb").open()

    def load_dataset(self) -> Iterable[dict[str, Any]]:
        """Rows of a Hugging Face data set: saved on disk, a folder of its files, or by name from the hub.

        ValueError if a data set saved with splits has no such split.
        """
        import datasets

        source = self.source
        if os.path.isfile(os.path.join(source.path, "dataset_dict.json")):
            splits = datasets.load_from_disk(source.path)
            if source.split not in splits:
                raise ValueError(f"{source.path} has no split '{source.split}'; it has {', '.join(splits)}")
            return splits[source.split]
        if os.path.isfile(os.path.join(source.path, "dataset_info.json")):
            return datasets.load_from_disk(source.path)
        return datasets.load_dataset(source.path, source.subset, split=source.split, streaming=source.streaming)


def find_inputs(sources: Iterable[SourceConfig]) -> tuple[list[InputFile], list[dict[str, str]]]:
    """All input files in order, and what was passed over: paths that match nothing, files of no known format."""
    files: list[InputFile] = []
    problems: list[dict[str, str]] = []
    for source in sources:
        if source.format == "huggingface":
            files.append(_data_set(source))
            continue
        found = _expand(source.path)
        if not found:
            problems.append({"file": source.path, "reason": "matches_nothing", "detail": "no file is there"})
        for path, name in found:
            item = _inspect(path, name, source)
            if isinstance(item, str):
                problems.append({"file": path, "reason": item, "detail": "passed over"})
            else:
                files.append(item)
    return _name_apart(files), problems


def _data_set(source: SourceConfig) -> InputFile:
    """A Hugging Face data set as one input; one that lies here is told by its files, one of the hub by its name."""
    digest = xxhash.xxh3_128(f"{source.path} {source.subset} {source.split}")
    size = 0
    for path, name in _expand(source.path) if os.path.isdir(source.path) else ():
        item = _inspect(path, name, source)
        digest.update(f"{name} {item if isinstance(item, str) else item.fingerprint}")
        size += 0 if isinstance(item, str) else item.size
    return InputFile(
        path=source.path, name=source.path, source=source, format="huggingface", compression="none", size=size,
        fingerprint=digest.hexdigest(),
    )  # fmt: skip


def _expand(path: str) -> list[tuple[str, str]]:
    """(path, name) of every file that a source's path means, in the order of their names."""
    if "://" in path:
        return _expand_url(path)
    if os.path.isdir(path):
        return sorted((os.path.abspath(one), os.path.relpath(one, path)) for one in _files_below(path))
    if os.path.isfile(path):
        return [(os.path.abspath(path), os.path.basename(path))]
    import glob

    matched = sorted(one for one in glob.glob(path, recursive=True) if os.path.isfile(one))
    base = os.path.dirname(path.split("*", 1)[0].split("?", 1)[0].split("[", 1)[0])
    return [(os.path.abspath(one), os.path.relpath(one, base or ".")) for one in matched]


def _files_below(folder: str) -> Iterator[str]:
    """The files of a folder at any depth, through links to folders too; hidden files and folders are passed over."""
    seen = {os.path.realpath(folder)}
    for below, folders, names in os.walk(folder, followlinks=True):
        places = {name: os.path.realpath(os.path.join(below, name)) for name in sorted(folders)}
        folders[:] = []
        for name, place in places.items():
            if place not in seen and not name.startswith("."):  # a link may lead to where we are, or were already
                folders.append(name)
                seen.add(place)
        yield from (os.path.join(below, name) for name in names if not name.startswith("."))


def _expand_url(url: str) -> list[tuple[str, str]]:
    """The same for a URL. ValueError if fsspec does not know its protocol, or lacks a package for it."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url}: {error}") from None
    if system.isfile(path):
        return [(url, os.path.basename(path))]
    found = sorted(system.find(path)) if system.isdir(path) else sorted(system.glob(path))
    base = path if system.isdir(path) else os.path.dirname(path.split("*", 1)[0])
    return [(system.unstrip_protocol(one), os.path.relpath(one, base)) for one in found]


def _inspect(path: str, name: str, source: SourceConfig) -> InputFile | str:
    """A file with its format and fingerprint, or the reason why it is passed over."""
    item = InputFile(path=path, name=name, source=source, format="text", compression="none", size=0, fingerprint="")
    try:
        with item.open() as file:
            head = file.read(SAMPLE)
            size = file.seek(0, os.SEEK_END)
            digest = xxhash.xxh3_128(f"{size}".encode() + head)
            for start in (size // 2, max(0, size - SAMPLE)):
                file.seek(start)
                digest.update(file.read(SAMPLE))
    except OSError as error:
        return f"unreadable: {error.strerror or error}"
    form, compression = detect(path, head)
    if source.format != "auto":
        form = source.format
    if form is None:
        return "unknown_format"
    return replace(item, format=form, compression=compression, size=size, fingerprint=digest.hexdigest())


def _name_apart(files: list[InputFile]) -> list[InputFile]:
    """Give files of one name and source more of their path, so that `file#record` names one record."""
    seen: dict[tuple[str, str], int] = {}
    for item in files:
        key = (item.source.name or "", item.name)
        seen[key] = seen.get(key, 0) + 1
    return [replace(item, name=item.path) if seen[(item.source.name or "", item.name)] > 1 else item for item in files]
