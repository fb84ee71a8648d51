"""The report's page: sections in their order, put into the template."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from data.report_data import Stage, Step, funnel, read_stages, reasons, timings
from data.report_details import (
    hosts_section,
    languages_section,
    leaks_section,
    mix_section,
    personal_section,
    settings_section,
    signals_section,
    tokens_by_language,
)
from data.report_pairs import copies_section
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
    tokens = tokens_by_language(stages.get("tokenize"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=config.title,
        subtitle=f"{workspace.resolve().name} · {' → '.join(stages)}",
        cards=_cards(stages, steps, tokens),
        alarms=_alarms(stages),
        sections=_sections(stages, steps, tokens, config),
        footer=f"Written {time.strftime('%Y-%m-%d %H:%M')} from the records and shards of this workspace.",
    )


def _sections(
    stages: dict[str, Stage], steps: list[Step], tokens: dict[str, float], config: ReportConfig
) -> list[Section]:
    found = reasons(stages, config.examples, config.characters, config.seed)
    sections: list[Section | None] = [
        funnel_section(steps, tokens),
        reasons_section(found, steps[0].all_documents + steps[0].rejected),
    ]
    if "filter" in stages:
        sections.append(signals_section(stages["filter"], config.sample))
    if "annotate" in stages:
        sections.append(languages_section(stages["annotate"]))
    if "deduplicate" in stages:
        sections.append(copies_section(stages["deduplicate"], config.pairs))
    if "redact" in stages:
        sections.append(personal_section(stages["redact"]))
    if "decontaminate" in stages:
        sections.append(leaks_section(stages["decontaminate"]))
    before_mix = [stage for name, stage in stages.items() if name not in ("mix", "tokenize")]
    if len(before_mix) > 1:
        sections.append(hosts_section(before_mix[0], before_mix[-1]))
    if "mix" in stages:
        sections.append(mix_section(stages["mix"]))
    sections += [time_section(timings(stages)), problems_section(stages), settings_section(stages)]
    return [section for section in sections if section is not None]


def _alarms(stages: dict[str, Stage]) -> list[dict[str, str]]:
    """What the stages raised an alarm about: a rule that takes so much is more often wrong than the documents are."""
    found = []
    for name, stage in stages.items():
        lines = stage.facts.get("alarms")
        found += [{"stage": name, "line": str(line)} for line in lines] if isinstance(lines, list) else []
    return found


def _cards(stages: dict[str, Stage], steps: list[Step], tokens: dict[str, float]) -> list[dict[str, str]]:
    """The figures at the head of the page."""
    first, last = steps[0], steps[-1]
    seconds = sum((float(str(row["seconds"])) for row in timings(stages)), 0.0)
    chinese, english = last.size.get("zh", 0), last.size.get("en", 0)
    share = f"{100 * chinese / (chinese + english):.0f} %" if chinese + english else "–"
    cards = [
        {"value": number(first.all_documents + first.rejected), "label": "documents read 读入"},
        {"value": number(last.all_documents), "label": f"documents after {last.stage} 保留"},
        {"value": megabytes(last.all_bytes), "label": "of text 文本"},
        {"value": share, "label": "Chinese of zh + en 中文占比"},
        {"value": f"{seconds:,.0f} s", "label": "in all stages 用时"},
    ]
    if tokens:
        cards.insert(3, {"value": number(sum(tokens.values())), "label": "tokens 词元"})
    return cards
