"""The corpus card: a README.md beside the mix that says what it is made of, read by people and by `datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from data.records import read_record

MOST_ROWS = 40
STAGES = ("annotate", "filter", "deduplicate", "redact", "decontaminate")
SPOKEN = {"zh": ("zh",), "en": ("en",), "mixed": ("zh", "en")}
"""Languages that a document of each label holds; of `other` nobody knows which."""


def recorded_settings(workspace: Path) -> dict[str, Any]:
    """The settings of all stages before the mix, by the records of what they did.

    A configuration that the mix alone is run with may say something else of them.
    """
    ingest = _recorded(workspace, "ingest")
    extracted = {name: ingest[name] for name in ("extract", "normalize") if name in ingest}
    return extracted | {name: settings for name in STAGES if (settings := _recorded(workspace, name))}


def _recorded(workspace: Path, stage: str) -> dict[str, Any]:
    record = read_record(workspace, stage)
    config = record["config"] if record is not None else None
    return config if isinstance(config, dict) else {}


def languages(counts: dict[str, Any]) -> list[str]:
    """Languages of the corpus's documents."""
    labels = {*counts.get("train_by_language", {}), *counts.get("validation_by_language", {})}
    return sorted({language for label in labels for language in SPOKEN.get(label, ())}, reverse=True)


def corpus_card(settings: dict[str, Any], counts: dict[str, Any], facts: dict[str, Any]) -> str:
    """Markdown with the front matter that names the splits, then sources, licences, counts and settings."""
    front = {
        "language": languages(counts),
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
