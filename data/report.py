"""The report of a corpus run: one HTML file that opens offline, made from the stages' records and shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.shards import atomic


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the report shows."""

    title: str = "Tiankong corpus report"
    """Title of the page."""
    examples: int = 3
    """Rejected documents shown for each rule."""
    pairs: int = 6
    """Pairs of near duplicates shown side by side on either side of the line."""
    characters: int = 600
    """Characters of a document shown in an example."""
    sample: int = 20_000
    """Documents drawn for the distributions of signals; 0 draws all."""
    seed: int = 0
    """Seed of the examples drawn."""

    def __post_init__(self) -> None:
        for name in ("examples", "pairs", "characters", "sample"):
            if getattr(self, name) < 0:
                raise ValueError(f"report.{name} is {getattr(self, name)}: expected 0 or more")


def write_report(workspace: Path, config: ReportConfig) -> Path:
    """Write `report.html` into the workspace from the stages that are finished there; returns its path."""
    # matplotlib takes a second to import, and every command reads this module for its settings
    from data.report_page import render

    path = workspace / "report.html"
    page = render(workspace, config)
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path
