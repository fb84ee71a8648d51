"""What every reader gives: raw records one at a time, and problems that concern a file.

A record is a document (its text, or the bytes of its page), or something that should have been one, with the `fault`
for which it is set aside. A reader never raises for what it finds in a file; what is wrong with the file as a whole
goes to its list of problems.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from data.decompress import Gap

EXCERPT = 2000
"""Characters of an unreadable record that are kept in the reject, for a person to look at."""


@dataclass(kw_only=True, slots=True)
class RawRecord:
    """One record as it was found."""

    source_id: str
    text: str | None = None
    payload: bytes | None = None
    """Bytes of a page, where text is still to be extracted."""
    content_type: str | None = None
    url: str | None = None
    date: str | None = None
    title: str | None = None
    license: str | None = None
    language: str | None = None
    source: str | None = None
    fault: str | None = None
    """Name of what is wrong; the record becomes a reject `ingest.<fault>`."""
    fault_value: str = ""


@dataclass(kw_only=True)
class Problems:
    """What could not be read of one file: the first of each kind in full, the others counted."""

    file: str
    first: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    read_bytes: int = 0
    """Bytes of the file, as it lies, that were read so far: for the progress."""

    def add(self, reason: str, detail: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.first.setdefault(reason, detail)

    def add_gap(self, gap: Gap) -> None:
        self.add(gap.reason, gap.detail)

    def listed(self) -> list[dict[str, str]]:
        """As they stand in the stage's record."""
        return [
            {"file": self.file, "reason": reason, "detail": detail, "times": str(self.counts[reason])}
            for reason, detail in self.first.items()
        ]


class ByteBuffer:
    """Bytes of a stream looked at from the front, with the places where some are missing."""

    def __init__(self, pieces: Iterator[bytes | Gap], problems: Problems) -> None:
        self._pieces, self._problems = pieces, problems
        self.data = bytearray()
        self.start = 0  # consumed bytes at the front of `data`, cut off now and then
        self._gaps: deque[int] = deque()  # positions in `data` before which bytes are missing, not yet consumed

    def __len__(self) -> int:
        return len(self.data) - self.start

    def more(self) -> bool:
        """Append a piece; False at the end."""
        for piece in self._pieces:
            if isinstance(piece, Gap):
                self._problems.add_gap(piece)
                self._gaps.append(len(self.data))
                continue
            if self.start > 1 << 20:
                del self.data[: self.start]
                self._gaps = deque(gap - self.start for gap in self._gaps)
                self.start = 0
            self.data += piece
            return True
        return False

    def need(self, count: int) -> bool:
        """Whether `count` bytes are there, read ahead as far as that needs."""
        while len(self) < count:
            if not self.more():
                return False
        return True

    def take(self, count: int) -> tuple[bytes, bool]:
        """The next `count` bytes (fewer at the end), and whether a gap lay among them."""
        self.need(count)
        begin, end = self.start, min(self.start + count, len(self.data))
        taken = bytes(memoryview(self.data)[begin:end])
        self.start = end
        broken = any(begin < gap < end for gap in self._gaps)
        while self._gaps and self._gaps[0] < end:
            self._gaps.popleft()
        return taken, broken

    def gap(self) -> int | None:
        """Offset from the front of the first place where bytes are missing; None if none is known."""
        return max(0, self._gaps[0] - self.start) if self._gaps else None

    def is_gap_within(self, start: int, stop: int) -> bool:
        """Whether bytes are missing at one of the offsets `start` to `stop` from the front."""
        return any(start <= gap - self.start <= stop for gap in self._gaps)

    def take_to_gap(self) -> bytes:
        """The bytes before the first gap, which is then done with."""
        taken, _ = self.take(self.gap() or 0)
        while self._gaps and self._gaps[0] <= self.start:
            self._gaps.popleft()
        return taken

    def find(self, pattern: bytes, limit: int) -> int:
        """Offset of `pattern` from the front within `limit` bytes, or -1."""
        searched = 0
        while True:
            position = self.data.find(pattern, self.start + max(0, searched - len(pattern)), self.start + limit)
            if position >= 0:
                return position - self.start
            searched = len(self)
            if searched >= limit or not self.more():
                return -1
