"""The report's section on copies: cluster sizes, the S-curve, and pairs side by side on either side of the line."""

from __future__ import annotations

import difflib
import re

import polars as pl
from markupsafe import Markup, escape

from data.report_charts import LANGUAGE_COLOURS, bars, s_curve
from data.report_data import Stage
from data.report_sections import Section, none, number, panel, percent, table
from data.schema import KEPT, REJECTED
from data.verify import CLAUSES, SCORES

_PIECES = re.compile(r"[\u3400-\u9fff]|\w+|\s+|.", re.DOTALL)
_LONG_EQUAL = 60
"""Characters of an unchanged passage above which its middle is left out."""
_COMPARED = 700
"""Pieces at the beginning of each text that are compared."""
LEADS = {
    "edited": "Joined: edited all over. Those that came closest to being left apart.",
    "jaccard": "Joined: Jaccard high. Those nearest to the line.",
    "contained": "Joined: the shorter is in the longer.",
    "overlapping": "Joined: one work cut at other places.",
    "refused": "Refused candidates. Those that came closest to being joined.",
}


def copies_section(stage: Stage, pairs_shown: int) -> Section:
    """Clusters, candidates and their verification, and examples."""
    sizes = {int(size): stage.count("cluster_sizes", size) for size in stage.counts("cluster_sizes")}
    copies = {size: n for size, n in sorted(sizes.items()) if size > 1}
    verified = {name: stage.count("verified", name) for name in (*CLAUSES[1:], CLAUSES[0])}
    read = stage.count("read", "documents")
    rows: list[list[str]] = [
        ["exact copies", number(stage.count("exact")), percent(stage.count("exact"), read)],
        ["candidate pairs", number(stage.count("candidates")), ""],
        *[
            [name if name == "refused" else f"joined, {name}", number(n), percent(n, stage.count("candidates"))]
            for name, n in verified.items()
        ],
    ]
    if "repeated_lines" in stage.counts():  # not where they were not looked for
        rows.append(["repeated lines found", number(stage.count("repeated_lines")), ""])
        rows.append(["lines taken out of documents", number(stage.count("lines_removed")), ""])
    body = panel(table(["", "number", "share"], rows))
    body += Markup('<div class="two">{}{}</div>').format(_curve(stage), _sizes(copies))
    body += _examples(stage, pairs_shown)
    return Section(
        anchor="copies",
        title="Copies",
        chinese="重复",
        lead="Exact copies after folding, near copies found by MinHash and verified on whole texts, and lines repeated "
        "over a host. One document of each cluster survives, the best by the stated order.",
        body=body,
    )


def _curve(stage: Stage) -> Markup:
    shape, verify = stage.config.get("minhash"), stage.config.get("verify")
    if not isinstance(shape, dict) or not isinstance(verify, dict):
        return none("No near duplicates were looked for.")
    lines = {"joined from": verify["jaccard"]}
    if verify["preset"] == "edited_copies":
        lines["aligned from"] = verify["edited_jaccard"]
    curve = s_curve(shape["bands"], shape["rows"], lines, "S-curve")
    note = f"{shape['bands']} bands × {shape['rows']} rows · shingles of {shape['han_shingle']} characters, " + (
        f"{shape['word_shingle']} words · preset {verify['preset']}"
    )
    return panel(curve, Markup('<span class="meta">{}</span>').format(note))


def _sizes(copies: dict[int, float]) -> Markup:
    if not copies:
        return none("No cluster has more than one document.")
    shown = dict(list(copies.items())[:12])
    rest = sum(n for size, n in copies.items() if size not in shown)
    labels = [f"{size} documents" for size in shown] + (["more"] if rest else [])
    values = [*shown.values(), *([rest] if rest else [])]
    return panel(
        bars(labels, values, "clusters by size", "clusters", [LANGUAGE_COLOURS["en"]] * len(values), width=4.6)
    )


def _examples(stage: Stage, shown: int) -> Markup:
    pairs = stage.scan("pairs")
    texts = [scan for scan in (stage.scan(KEPT), stage.scan(REJECTED)) if scan is not None]
    if pairs is None or not texts or not shown:
        return Markup("")
    table_ = pairs.collect()
    chosen = pl.concat(
        [
            group.gather_every(max(1, group.height // shown)).head(shown)
            for group in table_.partition_by("clause", maintain_order=True)
        ]
        or [table_]
    )
    ids = pl.concat([chosen["left_id"], chosen["right_id"].rename("left_id")]).implode()
    columns = ["id", "source_id", "text"]
    found = pl.concat([t.filter(pl.col("id").is_in(ids)).select(columns).collect() for t in texts])
    by_id = {row["id"]: row for row in found.iter_rows(named=True)}
    body = Markup("")
    for clause, lead in LEADS.items():
        of_clause = chosen.filter(pl.col("clause") == clause)
        rows = [r for r in of_clause.iter_rows(named=True) if r["left_id"] in by_id and r["right_id"] in by_id]
        if rows:
            opened = Markup("").join(_pair(r, by_id[r["left_id"]], by_id[r["right_id"]]) for r in rows)
            body += Markup("<h3>{}</h3>").format(lead) + panel(opened)
    return body


def _pair(row: dict[str, float], left: dict[str, str], right: dict[str, str]) -> Markup:
    scores = " · ".join(f"{name} {row[name]:.2f}" for name in SCORES if row.get(name))
    a, b = marked(left["text"], right["text"])
    return Markup(
        '<details><summary><span class="rule">{} ↔ {}</span><span class="n">{}</span></summary>'
        '<div class="pair"><div>{}</div><div>{}</div></div></details>'
    ).format(left["source_id"], right["source_id"], scores, a, b)


def marked(left: str, right: str) -> tuple[Markup, Markup]:
    """Both texts with their differences marked and long unchanged passages shortened."""
    a, b = _PIECES.findall(left)[:_COMPARED], _PIECES.findall(right)[:_COMPARED]
    sides: tuple[list[Markup], list[Markup]] = ([], [])
    for what, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        one, other = "".join(a[i:j]), "".join(b[k:m])
        if what == "equal":
            short = _shorten(one)
            sides[0].append(short)
            sides[1].append(short)
            continue
        if one:
            sides[0].append(Markup("<del>{}</del>").format(one))
        if other:
            sides[1].append(Markup("<ins>{}</ins>").format(other))
    return Markup("").join(sides[0]), Markup("").join(sides[1])


def _shorten(text: str) -> Markup:
    if len(text) <= _LONG_EQUAL:
        return escape(text)
    return Markup('{}<span class="gap"> … </span>{}').format(text[:25], text[-25:])
