"""The annotate stage: language, script and every signal as columns. (Configuration first; the body follows.)"""

from __future__ import annotations

from dataclasses import dataclass, field

from data.language import LanguageConfig


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """What annotate measures."""

    language: LanguageConfig = field(default_factory=LanguageConfig)
    """How language and script are decided."""
    flagged_words: str | None = None
    """A text file with one word or phrase a line: the share of a document's characters inside them is the signal `flagged_word_share`."""
    flagged_hosts: str | None = None
    """A text file with one host name a line: `flagged_host` is true for pages of these hosts and their subdomains."""
    quality_models: dict[str, str] = field(default_factory=dict)
    """Language to the path of a fastText model trained by `python -m data train-quality`; its score is the column `quality_score`."""
    batch_bytes: int = 16_000_000
    """Text is measured this many bytes at a time, which bounds memory."""

    def __post_init__(self) -> None:
        if self.batch_bytes < 1:
            raise ValueError("annotate: batch_bytes must be positive")
