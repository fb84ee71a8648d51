"""The configuration of a corpus: each stage's own, composed. A YAML of `configs/corpus/` is one of these."""

from __future__ import annotations

from dataclasses import dataclass, field

from data.annotate import AnnotateConfig
from data.decontaminate import DecontaminateConfig
from data.deduplicate import DeduplicateConfig
from data.extract import ExtractConfig
from data.filter import FilterConfig
from data.ingest import IngestConfig
from data.mix import MixConfig
from data.normalize import NormalizeConfig
from data.pipeline import EngineConfig
from data.redact import RedactConfig
from data.report import ReportConfig
from data.sources import SourceConfig
from data.tokenize import TokenizeConfig


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Everything that a corpus is made by."""

    sources: list[SourceConfig] = field(default_factory=list)
    """Where documents come from; `--input` stands in their place."""
    ingest: IngestConfig = field(default_factory=IngestConfig)
    """How input files are cut into work, and what a record may be."""
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    """How a page becomes text."""
    normalize: NormalizeConfig = field(default_factory=NormalizeConfig)
    """What normalisation changes in a text."""
    annotate: AnnotateConfig = field(default_factory=AnnotateConfig)
    """What annotate measures."""
    filter: FilterConfig = field(default_factory=FilterConfig)
    """Which documents are kept."""
    deduplicate: DeduplicateConfig = field(default_factory=DeduplicateConfig)
    """Which documents are copies."""
    redact: RedactConfig = field(default_factory=RedactConfig)
    """Which personal data is masked, and how."""
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    """What is cut out because evaluation sets hold it."""
    mix: MixConfig = field(default_factory=MixConfig)
    """What the corpus is made of."""
    tokenize: TokenizeConfig = field(default_factory=TokenizeConfig)
    """How text becomes token shards."""
    report: ReportConfig = field(default_factory=ReportConfig)
    """What the report shows."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How stages are run; nothing here changes what comes out."""

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources if source.name]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"sources: two of them are named '{name}'; weights and ids need names apart")
        if self.mix.buckets and not self.annotate.quality_models:
            raise ValueError("mix.buckets needs annotate.quality_models: without one no document has a score")
