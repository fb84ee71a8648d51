"""Make one text of the many ways to write it down. (Configuration first; the body follows.)"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NormalizeConfig:
    """What normalisation changes in a text."""

    width: bool = True
    """Full-width Latin letters and digits become half-width; Chinese punctuation stays."""
    markup: bool = True
    """Left-over tags and entities are removed."""
    mojibake: bool = True
    """Text decoded with the wrong charset is repaired where that is reversible, and flagged where it is not."""
