"""The filter stage: thresholds over signal columns. (Configuration first; the body follows.)"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a signal may be; outside it the document is rejected."""

    min: float | None = None
    """Reject when the signal is below this."""
    max: float | None = None
    """Reject when the signal is above this."""


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which documents are kept."""

    preset: Literal["web", "fineweb", "fineweb2-zh", "none"] = "web"
    """The thresholds to begin with: `web` is this project's own; the others are published sets, for comparison."""
    languages: list[str] = field(default_factory=lambda: ["zh", "en", "mixed"])
    """Documents in other languages are rejected."""
    thresholds: dict[str, dict[str, Bound]] = field(default_factory=dict)
    """Bounds laid over the preset: table (`zh`, `en`, `mixed`, or `code` for sources of that kind), signal, bound."""
    alarm_share: float = 0.2
    """A rule that rejects more than this share of a language's documents raises an alarm in the record."""

    def __post_init__(self) -> None:
        if not 0 < self.alarm_share <= 1:
            raise ValueError("filter: alarm_share lies between 0 and 1")
