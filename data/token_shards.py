"""Token shards: documents as token ids in Megatron's `.bin/.idx` pair, written once and read as memory maps.

`.bin` holds the ids of all documents end to end, little-endian, each document closed by `<|endoftext|>`.
`.idx`, little-endian as well, holds

    9 bytes      MMIDIDX\\0\\0
    uint64       version, 1
    uint8        type of an id: 4 int32, 8 uint16 (vocabularies below 65,500)
    uint64       n, the number of sequences; here one sequence is one document
    uint64       n + 1, the length of the document index
    int32[n]     length of each sequence in tokens
    int64[n]     where each begins in `.bin`, in bytes
    int64[n+1]   document index: 0 ... n

Layout from Megatron-LM, megatron/core/datasets/indexed_dataset.py (`_IndexWriter`, `_IndexReader`), so Megatron-LM
and NeMo read these files as they are. A shard is there when its `.idx` is there: `.bin` is renamed into place first.
"""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPE_OF_CODE: dict[int, np.dtype[Any]] = {4: np.dtype("<i4"), 8: np.dtype("<u2")}
_SMALL_VOCABULARY = 65_500
"""Megatron's bound for 16-bit ids; the same here, so that both choose the same type."""

Ids = npt.NDArray[np.int32] | npt.NDArray[np.uint16]


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The type that holds the ids of a vocabulary: uint16 below 65,500 ids, else int32."""
    return _DTYPE_OF_CODE[8 if vocab_size < _SMALL_VOCABULARY else 4]


def _with_suffix(path_prefix: Path, suffix: str) -> Path:
    return path_prefix.parent / (path_prefix.name + suffix)


class TokenShardWriter:
    """Write one shard, `path_prefix` + `.bin` and `.idx`; it appears whole when the `with` block ends without an error.

    After an error nothing is left but files named `*.partial`, which the next attempt overwrites.
    """

    def __init__(self, path_prefix: Path | str, vocab_size: int) -> None:
        """`vocab_size` bounds the ids and chooses their type. Makes the folder where it is missing."""
        if vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, not {vocab_size}")
        self.path_prefix = Path(path_prefix)
        self.vocab_size = vocab_size
        self.dtype = token_dtype(vocab_size)
        self.token_count = 0
        self._lengths: list[int] = []
        self._bin_partial = _with_suffix(self.path_prefix, ".bin.partial")
        self._idx_partial = _with_suffix(self.path_prefix, ".idx.partial")
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self.path_prefix.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._bin_partial.open("wb")
        return self

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, ids: npt.ArrayLike) -> None:
        """Append one document, (n,) ids with its closing `<|endoftext|>`. Raises ValueError for an id out of range."""
        self.add_many(np.asarray(ids), np.array([np.size(ids)]))

    def add_many(self, ids: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> None:
        """Append documents that lie end to end in `ids` (n,), of `lengths` (m,) tokens each."""
        if self._file is None:
            raise ValueError(f"{self.path_prefix}: the shard is not open for writing")
        if ids.ndim != 1 or int(lengths.sum()) != ids.size or (lengths < 1).any():
            raise ValueError(f"{self.path_prefix}: a document has at least one token and ids are one row")
        if ids.size == 0:
            return
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            raise ValueError(
                f"{self.path_prefix}: ids reach from {ids.min()} to {ids.max()}, "
                f"the vocabulary has {self.vocab_size}; do the tokenizer and vocab_size belong together?"
            )
        self._file.write(ids.astype(self.dtype, copy=False).tobytes())
        self._lengths.extend(lengths.tolist())
        self.token_count += ids.size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        with self._file as file:
            if kind is None:  # what a rename names must be on the disk, or a power cut leaves a shard of zeros
                file.flush()
                os.fsync(file.fileno())
        self._file = None
        if kind is not None:
            return
        self._write_index()
        # An index of an earlier shard must not stand beside the new ids, not even for a moment.
        _with_suffix(self.path_prefix, ".idx").unlink(missing_ok=True)
        os.replace(self._bin_partial, _with_suffix(self.path_prefix, ".bin"))
        os.replace(self._idx_partial, _with_suffix(self.path_prefix, ".idx"))

    def _write_index(self) -> None:
        count = len(self._lengths)
        lengths = np.array(self._lengths, dtype="<i4")
        starts = np.zeros(count, dtype="<i8")
        np.cumsum(lengths[:-1], dtype=np.int64, out=starts[1:])
        code = next(code for code, dtype in _DTYPE_OF_CODE.items() if dtype == self.dtype)
        with self._idx_partial.open("wb") as file:
            file.write(_HEADER.pack(_MAGIC, 1, code, count, count + 1))
            file.write(lengths.tobytes())
            file.write((starts * self.dtype.itemsize).tobytes())
            file.write(np.arange(count + 1, dtype="<i8").tobytes())
            file.flush()
            os.fsync(file.fileno())


class TokenShard:
    """One shard as memory maps; `len(shard)` documents, `shard[i]` the (n,) ids of one."""

    def __init__(self, path_prefix: Path | str) -> None:
        """Open `path_prefix` + `.bin` and `.idx`.

        Raises FileNotFoundError where one is missing, ValueError where the two are no whole pair.
        """
        self.path_prefix = Path(path_prefix)
        bin_path, idx_path = _with_suffix(self.path_prefix, ".bin"), _with_suffix(self.path_prefix, ".idx")
        for path in (bin_path, idx_path):
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such token shard; run the stage tokenize")
        index = idx_path.read_bytes()
        if len(index) < _HEADER.size:
            raise ValueError(f"{idx_path}: {len(index)} bytes are less than a header; delete it and tokenize again")
        magic, version, code, count, document_count = _HEADER.unpack_from(index)
        if magic != _MAGIC or version != 1 or code not in _DTYPE_OF_CODE:
            raise ValueError(f"{idx_path}: not an index of version 1 with int32 or uint16 ids")
        if len(index) != _HEADER.size + 12 * count + 8 * document_count:
            raise ValueError(f"{idx_path}: {len(index)} bytes do not hold {count} sequences; tokenize again")
        self.dtype = _DTYPE_OF_CODE[code]
        lengths = np.frombuffer(index, dtype="<i4", count=count, offset=_HEADER.size)
        self.offsets: npt.NDArray[np.int64] = np.zeros(count + 1, dtype=np.int64)
        """(n + 1,) where each document begins, in tokens; the last is the number of tokens."""
        np.cumsum(lengths, dtype=np.int64, out=self.offsets[1:])
        starts = np.frombuffer(index, dtype="<i8", count=count, offset=_HEADER.size + 4 * count)
        if (starts != self.offsets[:-1] * self.dtype.itemsize).any() or document_count != count + 1:
            raise ValueError(f"{idx_path}: documents do not lie end to end, one sequence each")
        if bin_path.stat().st_size != self.offsets[-1] * self.dtype.itemsize:
            raise ValueError(
                f"{bin_path}: {bin_path.stat().st_size} bytes, {idx_path.name} "
                f"says {self.offsets[-1] * self.dtype.itemsize}; tokenize again"
            )
        # NumPy maps no empty file.
        self.tokens: Ids = (
            np.memmap(bin_path, dtype=self.dtype, mode="r") if self.offsets[-1] else np.zeros(0, dtype=self.dtype)
        )
        """(t,) ids of all documents end to end."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, document: int) -> Ids:
        """The (n,) ids of one document, its `<|endoftext|>` last. Raises IndexError out of range."""
        if not 0 <= document < len(self):
            raise IndexError(f"{self.path_prefix}: document {document} of {len(self)}")
        return self.tokens[self.offsets[document] : self.offsets[document + 1]]


def find_shards(folder: Path | str) -> dict[str, list[Path]]:
    """The shards under `tokenize/train` or `tokenize/validation`: `<language>-<kind>` -> path prefixes, both in order.

    Raises FileNotFoundError where the folder is missing or holds no shard.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of token shards; run the stage tokenize")
    shards: dict[str, list[Path]] = {}
    for index in sorted(folder.glob("*/*.idx")):
        shards.setdefault(index.parent.name, []).append(index.with_suffix(""))
    if not shards:
        raise FileNotFoundError(f"{folder}: holds no token shard (<language>-<kind>/NNNNN.idx); run the stage tokenize")
    return shards


def documents_of(folder: Path | str) -> dict[str, Iterator[Ids]]:
    """The documents of each source of a folder of shards, one (n,) array after the other, shard by shard.

    Raises FileNotFoundError where the folder is missing or holds no shard, while reading ValueError for a damaged one.
    """

    def read(prefixes: list[Path]) -> Iterator[Ids]:
        for prefix in prefixes:
            shard = TokenShard(prefix)
            for document in range(len(shard)):
                yield shard[document]

    return {source: read(prefixes) for source, prefixes in find_shards(folder).items()}


def check_tokenizer(folder: Path | str, digest: str) -> None:
    """Refuse the token shards of a folder of the stage tokenize when another tokenizer than that of `digest` made them.

    The stage's record says which did. Raises FileNotFoundError where there is none and ValueError where it is damaged
    or names another.
    """
    record = Path(folder) / "stage.json"
    if not record.is_file():
        raise FileNotFoundError(
            f"{record}: missing, so nobody can tell which tokenizer made the shards; tokenize again"
        )
    try:
        made_by = _find(json.loads(record.read_text(encoding="utf-8")), "tokenizer_digest")
    except ValueError as error:
        raise ValueError(f"{record}: not JSON: {error}; tokenize again") from error
    if made_by is not None and made_by != digest:
        raise ValueError(
            f"{folder}: its shards were made with another tokenizer (digest {str(made_by)[:12]}, the given one has "
            f"{digest[:12]}); give that tokenizer or tokenize again"
        )


def _find(content: object, key: str) -> object:
    """The value of `key` anywhere in nested dictionaries."""
    if not isinstance(content, dict):
        return None
    if key in content:
        return content[key]
    return next((found for value in content.values() if (found := _find(value, key)) is not None), None)
