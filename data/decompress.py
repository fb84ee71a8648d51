"""Compressed bytes to plain ones, as far as they can be read.

Members or frames one after another are one stream. Where a member is cut short or damaged, a `Gap` stands in the stream
at that place and reading goes on at the next member that can be found. A member that grows beyond the limits (a
decompression bomb) is given up in the same way. Nothing is ever inflated into memory but a piece at a time.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Compression = Literal["none", "gzip", "zstd", "bz2", "xz"]
MAGIC: dict[Compression, bytes] = {
    "gzip": b"\x1f\x8b\x08",
    "zstd": b"\x28\xb5\x2f\xfd",
    "bz2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
}
SUFFIXES: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".xz": "xz"}
PIECE = 1 << 16
ZSTD_PIECE = 1 << 11  # zstandard has no bound on its output: 2 kB of frames are 64 MB at the very most
REMEMBERED = 8 << 20  # compressed bytes of a member, at least, that are searched again for the member after it


@dataclass(frozen=True)
class Gap:
    """Bytes are missing here: `reason` is one of `truncated_*`, `corrupt_*`, `decompression_bomb`."""

    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one member may grow to."""

    ratio: float
    """Bytes out for a byte in, once `floor` bytes are out."""
    floor: int = 64 << 20
    """Bytes that a member may always give."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def give(self, data: bytes) -> Iterator[bytes]: ...


class _Zlib:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)

    def give(self, data: bytes) -> Iterator[bytes]:
        while data:
            yield self._inner.decompress(data, PIECE * 16)
            data = self._inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


class _Bounded:
    """bz2 and xz: their decompressors share one interface."""

    def __init__(self, inner: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._inner = inner

    def give(self, data: bytes) -> Iterator[bytes]:
        yield self._inner.decompress(data, PIECE * 16)
        while not self._inner.eof and not self._inner.needs_input:
            yield self._inner.decompress(b"", PIECE * 16)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


class _Zstd:
    def __init__(self) -> None:
        import zstandard

        self._inner = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        self._rest = b""

    def give(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), ZSTD_PIECE):
            yield self._inner.decompress(data[start : start + ZSTD_PIECE])
            if self._inner.eof:
                self._rest = self._inner.unused_data + data[start + ZSTD_PIECE :]
                return

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return self._rest


def _decompressor(kind: Compression) -> _Decompressor:
    if kind == "gzip":
        return _Zlib()
    if kind == "zstd":
        return _Zstd()
    return _Bounded(bz2.BZ2Decompressor() if kind == "bz2" else lzma.LZMADecompressor())


def decompress(pieces: Iterable[bytes], kind: Compression, limits: Limits) -> Iterator[bytes | Gap]:
    """The plain bytes of `pieces`, with a `Gap` wherever some are lost."""
    if kind == "none":
        yield from pieces
        return
    reader = _Members(pieces, kind, limits)
    while reader.begin():
        yield from reader.member()


class _Members:
    """Members of one compressed stream. `_ahead` holds compressed bytes that belong to no member yet."""

    def __init__(self, pieces: Iterable[bytes], kind: Compression, limits: Limits) -> None:
        self._pieces = iter(pieces)
        self._kind, self._limits = kind, limits
        self._ahead = b""
        self._offset = 0  # of the first byte of _ahead in the file

    def begin(self) -> bool:
        """Whether another member begins; zero bytes between members are padding."""
        while True:
            stripped = self._ahead.lstrip(b"\x00")
            self._offset += len(self._ahead) - len(stripped)
            self._ahead = stripped
            if self._ahead:
                return True
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._ahead = piece

    def member(self) -> Iterator[bytes | Gap]:
        """One member's bytes; leaves `_ahead` where the next one may begin."""
        inner = _decompressor(self._kind)
        taken: deque[bytes] = deque()  # the last pieces of the member, in which the next one is looked for if it fails
        held = given = size = 0
        start = self._offset
        while True:
            data, self._ahead = self._ahead, b""
            taken.append(data)
            held, size = held + len(data), size + len(data)
            while held - len(taken[0]) >= REMEMBERED:
                held -= len(taken.popleft())
            try:
                for out in inner.give(data):
                    given += len(out)
                    if out:
                        yield out
                    if given > self._limits.floor and given > self._limits.ratio * size:
                        yield Gap("decompression_bomb", f"{given} bytes from {size} at byte {start}")
                        self._seek(b"".join(taken), start + size)
                        return
            except Exception as error:  # each library has an error of its own: zlib, zstandard, lzma, OSError
                yield Gap(f"corrupt_{self._kind}", f"member at byte {start}: {error}")
                self._seek(b"".join(taken), start + size)
                return
            if inner.eof:
                self._ahead = inner.unused_data
                self._offset = start + size - len(self._ahead)
                return
            piece = next(self._pieces, None)
            if piece is None:
                yield Gap(f"truncated_{self._kind}", f"the file ends inside the member at byte {start}")
                self._seek(b"".join(taken), start + size)
                return
            self._ahead = piece

    def _seek(self, taken: bytes, end: int) -> None:
        """Look for the next member after the beginning of the one that failed; `taken` ends at byte `end`."""
        magic = MAGIC[self._kind]
        position = taken.find(magic, 1)
        while position < 0:
            piece = next(self._pieces, None)
            if piece is None:
                self._ahead, self._offset = b"", end
                return
            taken, end = taken[-len(magic) :] + piece, end + len(piece)
            position = taken.find(magic, 1 if len(taken) == len(piece) else 0)
        self._ahead, self._offset = taken[position:], end - len(taken) + position
