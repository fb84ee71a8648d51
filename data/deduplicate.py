"""The settings of deduplication.

Three grains, each in its own file: whole texts that fold to the same characters (`data/exact.py`), texts that are
nearly the same (`data/minhash.py` finds candidates, `data/verify.py` decides, `data/clusters.py` joins), and lines
repeated over many documents of a host (`data/repeated_lines.py`). `data/copies.py` is the work over all shards on
disk, `data/deduplicate_stage.py` its phases for the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class MinHashConfig:
    """How candidates for near duplicates are found: MinHash signatures cut into bands (Broder 1997; LSH)."""

    han_shingle: int = 3
    """Units in a shingle that starts at a Han character or kana; Hangul makes words."""
    word_shingle: int = 3
    """Units in a shingle that starts at a word or a number."""
    bands: int = 32
    """Bands a signature is cut into; two documents are candidates when one whole band agrees."""
    rows: int = 4
    """Hashes in a band; a pair of Jaccard j becomes a candidate with probability 1 - (1 - j^rows)^bands."""
    seed: int = 20
    """Seed of the hash functions; signatures made with different seeds cannot be compared."""

    def __post_init__(self) -> None:
        for name in ("han_shingle", "word_shingle", "bands", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"deduplicate.minhash.{name} is {getattr(self, name)}: expected at least 1")
        if self.bands * self.rows > 1024:
            raise ValueError(
                f"deduplicate.minhash: {self.bands} bands x {self.rows} rows are over 1024 hashes a document"
            )


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Which candidates are copies of one text, decided on their whole texts and not on their signatures."""

    preset: Literal["edited_copies", "siblings_apart"] = "edited_copies"
    """`edited_copies` joins copies with up to ten per cent of random edits; `siblings_apart` does not, and also leaves
    apart pairs of low `variety` and pairs whose titles name different things."""
    swap: float = 0.33
    """Pairs are left apart, however alike, when this share of their replacements is one and the same ("source" for
    "target" wherever it stands): pages of one template about two things. Above 1 this is never asked, nor are the next
    two."""
    phrases: float = 0.3
    """Pairs whose titles name different things are left apart when this share of the units that differ is in phrases of
    three units or more ..."""
    echo: float = 0.2
    """... or when this share of what differs below the titles is what differs in them ..."""
    codes: int = 1
    """... or when so many words of five characters and more with digits in them (BC30107, 14164) stand for others."""
    jaccard: float = 0.80
    """Candidates at or above this true Jaccard of their shingles are joined."""
    containment: float = 0.95
    """Candidates are joined when this share of the shorter one's shingles is in the longer one ..."""
    containment_length: float = 0.5
    """... and the shorter one is at least this share of the longer one (an excerpt is not a copy of the book)."""
    overlap: float = 0.8
    """Candidates are joined when one stretch that they share is this share of the longer one ..."""
    overlap_units: int = 1000
    """... and has at least so many units: pieces of one work that was cut at other places."""
    edited_jaccard: float = 0.42
    """Candidates below this true Jaccard are not aligned. `edited_copies` only: those at or above it are joined ..."""
    edited_similarity: float = 0.85
    """... when their longest common subsequence is at least this share of the longer one's units ..."""
    scatter: float = 0.6
    """... when their differences are scattered: 1 for lone edits, less where whole phrases differ ..."""
    variety: float = 0.65
    """... and various: 1 for edits at random, less where one thing is put for another again and again."""
    survivor_jaccard: float = 0.25
    """A member of a cluster is dropped only if its true Jaccard with the survivor is at least this; else it and what
    hangs on it make a cluster of their own, so that a chain of likenesses does not end in something else."""
    longest: int = 20_000
    """Units at the beginning of a document that are aligned; alignment costs the square of it. What lies beyond must
    not break more shingles than the same manner of edits would, and counts as no `overlap`."""

    def __post_init__(self) -> None:
        for name in ("jaccard", "containment", "containment_length", "overlap", "edited_jaccard", "edited_similarity"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"deduplicate.verify.{name} is {getattr(self, name)}: expected a share in (0, 1]")
        for name in ("swap", "phrases", "echo"):
            if getattr(self, name) <= 0:
                raise ValueError(f"deduplicate.verify.{name} is {getattr(self, name)}: expected more than 0")
        for name in ("codes", "overlap_units", "longest"):
            if getattr(self, name) < 1:
                raise ValueError(f"deduplicate.verify.{name} is {getattr(self, name)}: expected at least 1")


@dataclass(frozen=True, kw_only=True)
class RepeatedLinesConfig:
    """Lines and paragraphs repeated over many documents of a host: navigation, notices, footers."""

    enabled: bool = True
    """Whether repeated lines are taken out of the documents."""
    documents: int = 8
    """A line must stand in at least this many documents of a host that survived deduplication ..."""
    share: float = 0.02
    """... and in at least this share of the host's documents."""
    units: int = 12
    """A repeated line with fewer units (Han characters, words) is taken out only at the beginning or the end of a
    document or inside a run of repeated lines: a heading such as "Examples" belongs to its page."""
    run: int = 3
    """Repeated lines in a row that make a run."""

    def __post_init__(self) -> None:
        if self.documents < 2:
            raise ValueError(f"deduplicate.lines.documents is {self.documents}: expected at least 2")
        if not 0 <= self.share <= 1:
            raise ValueError(f"deduplicate.lines.share is {self.share}: expected a share in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class DeduplicateConfig:
    """Deduplication: exact, near, and repeated lines."""

    exact: bool = True
    """Whether texts equal after folding (Simplified, width, case, white space) are reduced to one."""
    near: bool = True
    """Whether near duplicates are reduced to one."""
    minhash: MinHashConfig = field(default_factory=MinHashConfig)
    """How candidates are found."""
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    """How candidates are judged."""
    lines: RepeatedLinesConfig = field(default_factory=RepeatedLinesConfig)
    """Repeated lines and paragraphs."""
    prefer: tuple[str, ...] = ("quality", "length", "date", "id")
    """The survivor of a cluster is the best document by these columns in turn: the highest `quality`, the greatest
    `length`, the earliest `date`, the smallest `id`."""
    memory_mb: int = 1024
    """Memory that grouping signatures and lines may take at a time; more partitions on disk when the corpus grows."""
    index: tuple[str, ...] = ()
    """`deduplicate/index` folders of finished corpora: documents that are copies of theirs are dropped, and only
    this corpus's documents are judged."""
    keep_index: bool = False
    """Whether this corpus's own index is kept for the next corpus; it takes about as much disk as the text."""

    def __post_init__(self) -> None:
        if self.memory_mb < 64:
            raise ValueError(f"deduplicate.memory_mb is {self.memory_mb}: expected at least 64")
        known = ("quality", "length", "date", "id")
        for name in self.prefer:
            if name not in known:
                raise ValueError(f"deduplicate.prefer has '{name}': expected some of {', '.join(known)}")
