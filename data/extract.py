"""HTML bytes to readable text. (Configuration first; the body follows.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """How a page becomes text."""

    method: Literal["accurate", "fast"] = "accurate"
    """`accurate` is trafilatura's extraction; `fast` is resiliparse's main content, several times quicker and less precise."""
    max_bytes: int = 5_000_000
    """A page of more bytes is set aside unread."""
    max_depth: int = 200
    """A page whose elements nest deeper is set aside unread."""
    max_seconds: float = 5.0
    """A page that takes longer is set aside."""
    min_characters: int = 1
    """A page with less text than this is set aside as empty."""

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.max_depth < 1 or self.max_seconds <= 0:
            raise ValueError("extract: max_bytes, max_depth and max_seconds must be positive")
