"""Sections of the report on what the documents are: signals, language and script, personal data, leaks, hosts, mix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import yaml
from markupsafe import Markup

from data.report_charts import KEPT_COLOUR, LANGUAGE_COLOURS, bars, histogram, stacked_bars
from data.report_data import Stage
from data.report_sections import LANGUAGE_NAMES, Section, megabytes, none, number, panel, percent, table
from data.schema import KEPT, REJECTED, SCRIPTS

TABLES = {name: LANGUAGE_NAMES[name] for name in ("zh", "en", "mixed")} | {"code": "code 代码"}
_SHOWN_HOSTS = 25
_SHOWN_LEAKS = 12


def signals_section(stage: Stage, sample: int) -> Section:
    """Distribution of every signal that has a bound, for each language and for code, which has bounds of its own."""
    thresholds = stage.config.get("thresholds")
    body = Markup("")
    if isinstance(thresholds, dict):
        for judged, heading in TABLES.items():
            bounds = thresholds.get(judged) or {}
            drawn = {part: _draw(stage.shards(part), judged, list(bounds), sample) for part in (KEPT, REJECTED)}
            if sum(frame.height for frame in drawn.values()) == 0:
                continue
            charts = []
            for name, bound in sorted(bounds.items()):
                if name not in drawn[KEPT].columns:
                    continue
                kept = drawn[KEPT][name].drop_nulls().to_numpy().astype(float)
                here = drawn[REJECTED]
                hit = here.filter(pl.col("rejected_by") == f"filter.{name}")[name] if here.height else pl.Series([])
                charts.append(
                    histogram(name, kept, hit.drop_nulls().to_numpy().astype(float), bound["min"], bound["max"], name)
                )
            cells = Markup("").join(Markup("<div>{}</div>").format(Markup(chart)) for chart in charts)
            body += Markup("<h3>{}</h3>").format(heading) + panel(Markup('<div class="grid">{}</div>').format(cells))
    legend = (
        f'<span class="swatch" style="background:{KEPT_COLOUR}"></span>kept &nbsp; '
        '<span class="swatch" style="background:#d9a441"></span>rejected by this signal &nbsp; '
        '<span class="swatch" style="background:#c8452f"></span>threshold'
    )
    return Section(
        anchor="signals",
        title="Signals",
        chinese="质量信号",
        lead="Every signal that has a bound, as the filter saw it.",
        body=(panel(Markup(legend)) + body) if body else none("No thresholds were set."),
    )


def _draw(shards: list[Path], name: str, signals: list[str], sample: int) -> pl.DataFrame:
    """Signals of at most `sample` documents that a table of bounds is for, each as likely as any other; 0 draws all.

    One shard is held at a time: each of its documents draws a number, and those with the smallest stay.
    """
    generator = np.random.default_rng(0)
    drawn = pl.DataFrame()
    for path in shards:
        scan = pl.scan_parquet(path, glob=False)
        columns = scan.collect_schema().names()
        wanted = [column for column in (*signals, "rejected_by") if column in columns]
        if "language" not in columns or not wanted:
            continue
        code = (pl.col("kind") == "code").fill_null(False) if "kind" in columns else pl.lit(False)
        ours = code if name == "code" else (pl.col("language") == name) & ~code
        own = scan.filter(ours).select(wanted).collect()
        own = own.with_columns(pl.Series("drawn", generator.random(own.height)))
        drawn = pl.concat([drawn, own], how="diagonal_relaxed")
        if sample:
            drawn = drawn.bottom_k(sample, by="drawn")
    return drawn


def languages_section(stage: Stage) -> Section:
    """Documents by language and script."""
    scan = stage.scan(KEPT)
    body = none("Languages are not known.")
    if scan is not None and {"language", "script"} <= set(scan.collect_schema().names()):
        counted = scan.group_by("language", "script").agg(
            pl.len().alias("n"), pl.col("text").str.len_bytes().sum().alias("bytes")
        )
        rows = counted.sort("bytes", descending=True).collect()
        languages = [name for name in LANGUAGE_COLOURS if name in rows["language"].to_list()]
        scripts = [s for s in SCRIPTS if s in rows["script"].to_list()]
        lookup = {(r["language"], r["script"]): r["n"] for r in rows.iter_rows(named=True)}
        chart = stacked_bars(
            scripts,
            {x: [lookup.get((x, s), 0) for s in scripts] for x in languages},
            "documents by script",
            "documents",
        )
        total = float(rows["bytes"].sum())
        cells = [
            [LANGUAGE_NAMES.get(r["language"], r["language"]), r["script"], number(r["n"]), megabytes(r["bytes"]),
             percent(r["bytes"], total)]
            for r in rows.iter_rows(named=True)
        ]  # fmt: skip
        body = panel(chart) + panel(table(["language", "script", "documents", "text", "share of bytes"], cells))
    return Section(
        anchor="languages",
        title="Language and script",
        chinese="语言与字体",
        lead="As annotated, before any document was filtered. Hans is Simplified, Hant Traditional, neutral has no "
        "character that would tell.",
        body=body,
    )


def personal_section(stage: Stage) -> Section:
    """Personal data masked, by kind."""
    scan = stage.scan(KEPT)
    names = [n for n in scan.collect_schema().names() if n.startswith("redacted_")] if scan is not None else []
    body = none("No personal data was masked.")
    if scan is not None and names:
        sums = (
            scan.select(pl.col(names).sum(), pl.col(names).gt(0).sum().name.suffix("/d")).collect().row(0, named=True)
        )
        rows = [(n.removeprefix("redacted_"), sums[n], sums[f"{n}/d"]) for n in names if sums[n]]
        rows.sort(key=lambda row: -row[1])
        if rows:
            kinds, spans_of, colours = [r[0] for r in rows], [r[1] for r in rows], [LANGUAGE_COLOURS["zh"]] * len(rows)
            chart = bars(kinds, spans_of, "spans masked", "spans", colours)
            cells = [[kind, number(spans), number(documents)] for kind, spans, documents in rows]
            body = panel(chart) + panel(table(["kind", "spans", "documents"], cells))
    return Section(
        anchor="personal",
        title="Personal data",
        chinese="个人信息",
        lead="Spans replaced by typed placeholders. What was masked is not shown here, nor kept anywhere.",
        body=body,
    )


def leaks_section(stage: Stage) -> Section:
    """Overlap with evaluation sets, by set, with the largest spans."""
    scan = stage.scan("hits")
    hits = scan.collect() if scan is not None else pl.DataFrame()
    items = stage.facts.get("evaluation_items")
    body = none("No evaluation set was given: set decontaminate.against.")
    if isinstance(items, dict) and items:
        counted = {}
        if hits.height:
            grouped = hits.group_by("set").agg(
                pl.len(), pl.col("item").n_unique().alias("items"), pl.col("id").n_unique().alias("documents"),
                pl.col("id").filter(pl.col("action") == "dropped").n_unique().alias("dropped"),
            )  # fmt: skip
            counted = {row[0]: row[1:] for row in grouped.iter_rows()}
        rows = []
        for name, total in sorted(items.items()):
            spans, leaked, documents, dropped = counted.get(name, (0, 0, 0, 0))
            rows.append([name, number(total), number(leaked), number(documents), number(dropped), number(spans)])
        head = ["evaluation set", "items", "items found", "documents", "of these dropped", "hits"]
        ngrams, common = (float(str(stage.facts.get(n) or 0)) for n in ("ngrams", "common_ngrams_left_out"))
        note = f"{number(ngrams)} n-grams; {number(common)} common ones left out."
        body = panel(table(head, rows), Markup('<span class="meta">{}</span>').format(note))
        if hits.height:
            shown = hits.sort(["units", "id", "item"], descending=[True, False, False]).unique(
                "set", keep="first", maintain_order=True
            )
            more = hits.sort(["units", "id", "item"], descending=[True, False, False]).head(_SHOWN_LEAKS)
            shown = pl.concat([shown, more]).unique(maintain_order=True).head(_SHOWN_LEAKS)
            opened = Markup("").join(
                Markup(
                    '<details><summary><span class="rule">{} · {}</span><span class="n">{} units · {} of the item · {}'
                    '</span></summary><div class="example">{}</div></details>'
                ).format(r["set"], r["item"], r["units"], percent(r["share"], 1), r["action"], r["excerpt"])
                for r in shown.iter_rows(named=True)
            )
            body += panel(opened)
    return Section(
        anchor="leaks",
        title="Evaluation leaks",
        chinese="评测泄漏",
        lead="What the corpus shared with evaluation sets: cut with a margin, or the document dropped.",
        body=body,
    )


def hosts_section(read: Stage, last: Stage) -> Section:
    """The hosts with most text, before and after."""
    before, after = _hosts(read), _hosts(last)
    body = none("Documents have no URL.")
    if before.height and before["host"].drop_nulls().len():
        joined = before.join(after, on="host", how="left", suffix="_kept", nulls_equal=True).fill_null(0)
        joined = joined.sort(["bytes", "host"], descending=[True, False]).head(_SHOWN_HOSTS)
        rows = [
            [r["host"] or "none", number(r["n"]), number(r["n_kept"]), percent(r["n_kept"], r["n"]),
             megabytes(r["bytes"]), megabytes(r["bytes_kept"]), percent(r["bytes_kept"], r["bytes"])]
            for r in joined.iter_rows(named=True)
        ]  # fmt: skip
        head = ["host", "documents", "kept", "share", "text", "kept", "share"]
        body = panel(table(head, rows))
    return Section(
        anchor="hosts",
        title="Hosts",
        chinese="网站",
        lead=f"The {_SHOWN_HOSTS} hosts with most text, and what was left of them after {last.name}.",
        body=body,
    )


def _hosts(stage: Stage) -> pl.DataFrame:
    scan = stage.scan(KEPT)
    if scan is None or "host" not in scan.collect_schema().names():
        return pl.DataFrame(schema={"host": pl.String, "n": pl.UInt32, "bytes": pl.UInt64})
    return (
        scan.group_by("host")
        .agg(pl.len().alias("n"), pl.col("text").str.len_bytes().cast(pl.UInt64).sum().alias("bytes"))
        .collect()
    )


def mix_section(stage: Stage) -> Section:
    """What the mix took, left and repeated; its sides by language and source."""
    languages = [x for x in LANGUAGE_COLOURS if x in stage.counts("train_by_language")]
    parts = ("train", "validation")
    chart = stacked_bars(
        parts,
        {x: [stage.count(f"{p}_by_language", x, "bytes") / 1e6 for p in parts] for x in languages},
        "the mix by language",
        "MB of text",
    )
    total = sum(stage.count("train_by_language", x, "bytes") for x in languages)
    head = ["", "documents", "text", "share of train"]
    rows = [
        [f"train {LANGUAGE_NAMES[x]}", number(stage.count("train_by_language", x, "documents")),
         megabytes(stage.count("train_by_language", x, "bytes")),
         percent(stage.count("train_by_language", x, "bytes"), total)]
        for x in languages
    ]  # fmt: skip
    for name in ("taken", "left", "repeated", "validation"):
        rows.append([name, number(stage.count(name, "documents")), megabytes(stage.count(name, "bytes")), ""])
    body = panel(chart) + panel(table(head, rows))
    for title, name in (("By collection", "taken_by_collection"), ("By licence", "taken_by_license")):
        entries = sorted(stage.counts(name), key=lambda key: -stage.count(name, key, "bytes"))[:20]
        if entries:
            cells = [
                [key, number(stage.count(name, key, "documents")), megabytes(stage.count(name, key, "bytes"))]
                for key in entries
            ]
            body += Markup("<h3>{}</h3>").format(title) + panel(table(["", "documents", "text"], cells))
    factors = stage.facts.get("language_factors")
    if isinstance(factors, dict) and factors:
        listed = ", ".join(f"{name} × {factor:.2f}" for name, factor in factors.items())
        line = '<span class="meta">For the balance of languages, copies were multiplied: {}.</span>'
        body += Markup(line).format(listed)
    return Section(
        anchor="mix",
        title="Mix",
        chinese="配比",
        lead="What was taken, left and repeated. Whole clusters are held out, so that no copy is on both sides.",
        body=body,
    )


def settings_section(stages: dict[str, Stage]) -> Section:
    """Each stage's own settings, as they were."""
    body = Markup("").join(
        Markup(
            "<details><summary><span class=rule>{}</span></summary><div class=example><pre>{}</pre></div></details>"
        ).format(name, yaml.safe_dump(stage.config, allow_unicode=True, sort_keys=False))
        for name, stage in stages.items()
        if stage.config
    )
    recorded = next((s.run.get("versions") for s in stages.values() if s.run.get("versions")), None)
    versions = recorded if isinstance(recorded, dict) else {}
    return Section(
        anchor="settings",
        title="Settings",
        chinese="设置",
        lead="Every stage's configuration, complete. " + ", ".join(f"{k} {v}" for k, v in versions.items()),
        body=panel(body) if body else none("No settings were recorded."),
    )


def tokens_by_language(stage: Stage | None) -> dict[str, float]:
    """Tokens of the token shards, by `<side> <language>-<kind>`."""
    if stage is None:
        return {}
    found = {}
    for side in ("train", "validation"):
        for name in stage.counts("tokens", side):
            found[f"{side} {name}"] = stage.count("tokens", side, name, "tokens")
    return found
