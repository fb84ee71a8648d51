"""The sections of the report, each a function from what was gathered to a piece of HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from data.report_charts import KEPT_COLOUR, LANGUAGE_COLOURS, REJECTED_COLOUR, bars, stacked_bars
from data.report_data import Reason, Stage, Step, languages_of

LANGUAGE_NAMES = {"zh": "zh 中文", "en": "en English", "mixed": "mixed 中英", "other": "other", "": "not known yet"}


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section of the page."""

    anchor: str
    title: str
    chinese: str
    lead: str
    body: Markup


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """An HTML table; cells are escaped unless they are markup already."""
    cells = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row))
        for row in rows
    )
    top = Markup("").join(Markup("<th>{}</th>").format(name) for name in head)
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(top, cells)


def panel(*parts: str) -> Markup:
    return Markup('<div class="panel">{}</div>').format(Markup("").join(Markup(part) for part in parts))


def none(text: str) -> Markup:
    return panel(Markup('<span class="none">{}</span>').format(text))


def number(value: object) -> str:
    """A count with its thousands parted."""
    assert isinstance(value, int | float)
    return f"{value:,.0f}"


def megabytes(value: float) -> str:
    """Bytes in the unit that suits them."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:,.1f} {unit}"
    return f"{value:.0f} B"


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %".replace("-0.0", "0.0").replace("-", "−") if whole else "–"


def funnel_section(steps: list[Step], tokens: dict[str, float]) -> Section:
    """Documents, bytes and tokens after each stage."""
    languages = languages_of(steps)
    names = [step.stage for step in steps]
    charts = [
        stacked_bars(
            names, {x: [s.documents.get(x, 0) for s in steps] for x in languages}, "documents", "documents", 5.0
        ),
        stacked_bars(
            names, {x: [s.size.get(x, 0) / 1e6 for s in steps] for x in languages}, "megabytes", "MB of text", 5.0
        ),
    ]
    rows = []
    for before, step in zip([None, *steps[:-1]], steps, strict=True):
        change = percent(step.all_bytes - before.all_bytes, before.all_bytes) if before else "–"
        cells = [
            f"{number(step.documents[x])} · {megabytes(step.size[x])}" if step.documents.get(x) else "–"
            for x in languages
        ]
        rows.append(
            [step.stage, number(step.all_documents), megabytes(step.all_bytes), number(step.rejected), change, *cells]
        )
    head = ["after", "documents", "text", "rejected", "change of text", *(LANGUAGE_NAMES[x] for x in languages)]
    body = Markup('<div class="two">{}{}</div>').format(panel(charts[0]), panel(charts[1])) + panel(table(head, rows))
    if tokens:
        total = sum(tokens.values())
        rows = [[name, number(value), percent(value, total)] for name, value in sorted(tokens.items())]
        body += panel(table(["token shards", "tokens", "share"], [*rows, ["all", number(total), ""]]))
    return Section(
        anchor="funnel",
        title="Funnel",
        chinese="漏斗",
        lead="What was left after each stage, by language. A document that mix repeats counts as often as it is in it.",
        body=body,
    )


def reasons_section(reasons: list[Reason], read: float) -> Section:
    """Why documents were rejected, with examples of each rule."""
    lead = (
        "Every rejected document names the rule that rejected it and the value that broke it. Open a rule to see some."
    )
    body = none("Nothing was rejected.")
    if reasons:
        shown = sorted(reasons, key=lambda r: -r.documents)[:25]
        colours = {
            "filter": REJECTED_COLOUR,
            "deduplicate": LANGUAGE_COLOURS["en"],
            "decontaminate": LANGUAGE_COLOURS["mixed"],
        }
        chart = bars(
            [r.rule for r in shown],
            [r.documents for r in shown],
            "documents rejected by rule",
            "documents",
            [colours.get(r.rule.partition(".")[0], KEPT_COLOUR) for r in shown],
        )
        opened = Markup("").join(_reason(r, read) for r in reasons)
        body = panel(chart) + panel(opened)
    return Section(anchor="reasons", title="Rejections", chinese="淘汰原因", lead=lead, body=body)


def _reason(reason: Reason, read: float) -> Markup:
    by = ", ".join(f"{x or '?'} {number(n)}" for x, n in sorted(reason.by_language.items(), key=lambda item: -item[1]))
    examples = Markup("").join(
        Markup('<div class="example"><span class="meta"><code>{}</code> {} value {}</span>{}</div>').format(
            e["source_id"], e["url"] or "", e["rejected_value"], e["text"]
        )
        for e in reason.examples
    )
    return Markup(
        '<details><summary><span class="rule">{}</span><span class="meta">{}</span><span class="n">{} · {} · {}</span>'
        "</summary>{}</details>"
    ).format(
        reason.rule, by, number(reason.documents), percent(reason.documents, read), megabytes(reason.size), examples
    )


def time_section(rows: list[dict[str, object]]) -> Section:
    """Time and rate of each stage."""
    cells = [
        [
            r["stage"],
            f"{r['seconds']:.1f} s",
            number(r["documents_per_second"]),
            f"{r['megabytes_per_second']:.2f}",
            f"{r['executor']} × {r['workers']}",
        ]
        for r in rows
    ]
    seconds = [float(r["seconds"]) for r in rows]  # type: ignore[arg-type]
    chart = bars(
        [str(r["stage"]) for r in rows], seconds, "seconds a stage", "seconds", [LANGUAGE_COLOURS["en"]] * len(rows)
    )
    body = panel(chart) + panel(table(["stage", "time", "documents / s", "MB / s", "executor"], cells))
    return Section(anchor="time", title="Time", chinese="用时", lead="Wall time of each stage's last run.", body=body)


def problems_section(stages: dict[str, Stage]) -> Section | None:
    """What could not be read."""
    problems = [
        [name, escape(str(p.get("file", ""))), p.get("reason", ""), p.get("detail", "")]
        for name, stage in stages.items()
        for p in (stage.record.get("problems") or [])  # type: ignore[attr-defined]
    ]
    if not problems:
        return None
    body = panel(table(["stage", "file", "reason", "detail"], problems[:200]))
    lead = f"{len(problems)} inputs or records could not be read, or only in part."
    return Section(anchor="problems", title="Unreadable input", chinese="无法读取", lead=lead, body=body)
