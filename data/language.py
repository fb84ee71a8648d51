"""The language and the script of a document. (Configuration first; the body follows.)"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """How language and script are decided."""

    mixed_share: float = 0.15
    """A document is `mixed` when Chinese and English each carry at least this share of its words."""
    script_share: float = 0.10
    """A Chinese document is of `mixed` script when the rarer of Hans and Hant has at least this share of the telling characters."""
    sample_characters: int = 600
    """How much of a Latin text the statistical model reads."""

    def __post_init__(self) -> None:
        if not 0 < self.mixed_share <= 0.5 or not 0 < self.script_share <= 0.5:
            raise ValueError("language: mixed_share and script_share lie between 0 and 0.5")
