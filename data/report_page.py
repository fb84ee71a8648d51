"""The report's page: sections in their order, put into the template."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from data.report_data import funnel, read_stages, reasons, timings
from data.report_sections import (
    Section,
    funnel_section,
    megabytes,
    number,
    problems_section,
    reasons_section,
    time_section,
)

if TYPE_CHECKING:
    from data.report import ReportConfig

TEMPLATE = Path(__file__).parent / "report.html.jinja"


def render(workspace: Path, config: ReportConfig) -> str:
    """The report of the stages that are finished in `workspace`. FileNotFoundError if there are none."""
    stages = read_stages(workspace)
    steps = funnel(stages)
    tokens: dict[str, float] = {}
    found = reasons(stages, config.examples, config.characters, config.seed)
    sections: list[Section | None] = [
        funnel_section(steps, tokens),
        reasons_section(found, steps[0].all_documents + steps[0].rejected),
        time_section(timings(stages)),
        problems_section(stages),
    ]
    last = steps[-1]
    cards = [
        {"value": number(steps[0].all_documents + steps[0].rejected), "label": "documents read 读入"},
        {"value": number(last.all_documents), "label": f"documents after {last.stage} 保留"},
        {"value": megabytes(last.all_bytes), "label": "of text 文本"},
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=config.title,
        subtitle=f"{workspace.resolve().name}",
        cards=cards,
        sections=[section for section in sections if section is not None],
        footer=f"Written {time.strftime('%Y-%m-%d %H:%M')} from the records and shards of this workspace.",
    )
