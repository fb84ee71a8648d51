"""The corpus card: a README.md beside the mix that says what it is made of, read by people and by `datasets`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from data.config import CorpusConfig

MOST_ROWS = 40
SETTINGS = ("extract", "normalize", "filter", "deduplicate", "redact", "decontaminate", "mix")


def corpus_card(config: CorpusConfig, counts: dict[str, Any], facts: dict[str, Any]) -> str:
    """Markdown with the front matter that names the splits, then sources, licences, counts and settings."""
    from data.records import plain

    front = {
        "language": ["zh", "en"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": "train", "path": "train/*.parquet"},
                    {"split": "validation", "path": "validation/*.parquet"},
                ],
            }
        ],
    }
    settings = {name: plain(getattr(config, name)) for name in SETTINGS}
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n",
        "# Corpus card\n",
        "Made by Tiankong's data pipeline. A row is a document; `data/schema.py` of the project defines the columns.\n",
        _table("Splits", ("documents", "bytes"), {name: counts.get(name, {}) for name in ("train", "validation")}),
        _table("Train by language", ("documents", "bytes"), counts.get("train_by_language", {})),
        _table("Validation by language", ("documents", "bytes"), counts.get("validation_by_language", {})),
        _table(
            "What the mix did with the documents",
            ("documents", "bytes"),
            {name: counts.get(name, {}) for name in ("read", "taken", "left", "repeated")},
        ),
        "`repeated` counts copies beyond a document's first. Expected copies of a document were multiplied by its "
        f"language's factor: {facts.get('language_factors')}.\n",
        _table("Sources", ("documents", "bytes"), counts.get("taken_by_collection", {})),
        _table("Licences", ("documents", "bytes"), counts.get("taken_by_license", {})),
        "## Settings\n",
        f"```yaml\n{yaml.safe_dump(settings, allow_unicode=True, sort_keys=False)}```\n",
    ]
    return "\n".join(parts)


def _table(title: str, columns: tuple[str, ...], rows: dict[str, Any]) -> str:
    """A Markdown table, the largest rows first; the rest is summed in a last row."""
    ordered = sorted(rows.items(), key=lambda row: (-row[1].get("bytes", 0), row[0]))
    shown, rest = ordered[:MOST_ROWS], ordered[MOST_ROWS:]
    if rest:
        shown.append((f"{len(rest)} more", {name: sum(row.get(name, 0) for _, row in rest) for name in columns}))
    lines = [f"## {title}\n", f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name, row in shown:
        label = name.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {label} | {' | '.join(f'{row.get(column, 0):,}' for column in columns)} |")
    return "\n".join(lines) + "\n"
