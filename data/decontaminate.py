"""Decontamination: what the corpus shares with evaluation sets is cut out, or the document dropped."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    """Overlap with evaluation sets, by word n-grams in English and character n-grams in Chinese."""

    against: tuple[str, ...] = ()
    """Evaluation sets: paths or globs of JSON, JSONL, Parquet, CSV or text files (also .gz, .zst), or `datasets`
    names as `hf:name[:configuration]`. Every string in them counts."""
    words: int = 8
    """Units in an n-gram that starts at a word or a number."""
    characters: int = 12
    """Units in an n-gram that starts at a Han character."""
    shortest: int = 6
    """Strings with fewer units than this are too common to tell a leak by and are left out; those between this and
    an n-gram's length count as one n-gram."""
    common_items: int = 10
    """N-grams in more evaluation items than this are common (instructions, answer options) and left out."""
    common_documents: int = 50
    """N-grams in more documents of the corpus than this are common (licences, proverbs) and left out."""
    gap: int = 12
    """Hits of one item closer than this many units are one span."""
    coverage: float = 0.3
    """A span counts when it covers this share of the evaluation string, or `long_span` units of it."""
    long_span: int = 40
    """Units of an evaluation string that count as a leak whatever share they are."""
    margin: int = 40
    """Characters cut on each side of a span, moved outward to the end of a sentence or line when one is near."""
    drop_share: float = 0.5
    """A document that loses more than this share of its characters is dropped whole."""
    shortest_rest: int = 100
    """A document with fewer characters left than this after a cut is dropped whole."""

    def __post_init__(self) -> None:
        for name in ("words", "characters", "shortest", "gap", "margin", "long_span"):
            if getattr(self, name) < 1:
                raise ValueError(f"decontaminate.{name} is {getattr(self, name)}: expected at least 1")
        for name in ("coverage", "drop_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"decontaminate.{name} is {getattr(self, name)}: expected a share in (0, 1]")
