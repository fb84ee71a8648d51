"""The filter stage: bounds on signal columns, a table a language, each reject with its rule and its value.

A preset is a YAML file in `configs/corpus/filters/`: for each language a list of signals with what they may be. A
configuration names a preset and lays its own bounds over it; the merged table is part of the saved configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import yaml

from data.signals import SIGNAL_COLUMNS

PRESETS = Path(__file__).resolve().parent.parent / "configs" / "corpus" / "filters"
TABLES = ("zh", "en", "mixed", "code")
"""Which bounds a document is held to: those of its language, or of `code` where its source is of that kind."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a signal may be; outside it the document is rejected."""

    min: float | None = None
    """Reject when the signal is below this."""
    max: float | None = None
    """Reject when the signal is above this."""


Thresholds = dict[str, dict[str, Bound]]


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which documents are kept."""

    preset: Literal["web", "fineweb", "fineweb2-zh", "none"] = "web"
    """The thresholds to begin with: `web` is this project's own; the others are published sets, for comparison."""
    languages: list[str] = field(default_factory=lambda: ["zh", "en", "mixed"])
    """Documents in other languages are rejected."""
    thresholds: dict[str, dict[str, Bound]] = field(default_factory=dict)
    """Bounds laid over the preset's: table (`zh`, `en`, `mixed`, or `code` for sources of that kind), signal, bound."""
    alarm_share: float = 0.2
    """A rule that rejects more than this share of a language's documents raises an alarm in the record."""

    def __post_init__(self) -> None:
        if not 0 < self.alarm_share <= 1:
            raise ValueError(f"filter: alarm_share is {self.alarm_share}, expected a share above 0 and at most 1")
        check_thresholds(self.thresholds, "filter.thresholds")
        merged = {table: dict(bounds) for table, bounds in read_preset(self.preset).items()}
        for table, bounds in self.thresholds.items():
            merged[table] = merged.get(table, {}) | bounds
        object.__setattr__(self, "thresholds", merged)


def check_thresholds(thresholds: Mapping[str, Mapping[str, Bound]], where: str) -> None:
    """ValueError naming the table or the signal that does not exist."""
    for table, bounds in thresholds.items():
        if table not in TABLES:
            raise ValueError(f"{where}: '{table}' is no table of thresholds; expected one of {', '.join(TABLES)}")
        for signal, bound in bounds.items():
            if signal not in SIGNAL_COLUMNS:
                raise ValueError(f"{where}.{table}: '{signal}' is no signal; docs/signals.md lists them")
            if bound.min is not None and bound.max is not None and bound.min > bound.max:
                raise ValueError(f"{where}.{table}.{signal}: min {bound.min:g} is above max {bound.max:g}")


@lru_cache(maxsize=8)
def read_preset(name: str) -> Thresholds:
    """The bounds of a preset; `none` has none."""
    if name == "none":
        return {}
    path = PRESETS / f"{name}.yaml"
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        thresholds = {
            table: {signal: Bound(**bound) for signal, bound in bounds.items()} for table, bounds in raw.items()
        }
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{path}: expected table, signal, then min and max ({error})") from None
    check_thresholds(thresholds, str(path))
    return thresholds


def filter_documents(table: pl.DataFrame, config: FilterConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Kept and rejected documents of an annotated table; rejects have `rejected_by` and `rejected_value`."""
    rejected_by = np.full(table.height, None, dtype=object)
    rejected_value = np.full(table.height, None, dtype=object)
    language = table["language"].to_numpy()
    is_code = (
        (table["kind"] == "code").fill_null(False).to_numpy()
        if "kind" in table.columns
        else np.zeros(table.height, bool)
    )

    foreign = ~np.isin(language, config.languages) & ~is_code
    rejected_by[foreign], rejected_value[foreign] = "filter.language", language[foreign]
    values: dict[str, np.ndarray] = {}
    for name, bounds in config.thresholds.items():
        ours = is_code if name == "code" else (language == name) & ~is_code
        if not ours.any():
            continue
        for signal, bound in bounds.items():
            if signal not in values:
                values[signal] = table[signal].cast(pl.Float32).to_numpy()
            for limit, sign in ((bound.min, "<"), (bound.max, ">")):
                if limit is None:
                    continue
                edge = np.float32(limit)  # compared in the precision that the column is kept in; null breaks no rule
                broken = ours & ((values[signal] < edge) if sign == "<" else (values[signal] > edge))
                for row in np.flatnonzero(broken & (rejected_by == None)):  # noqa: E711 (elementwise)
                    rejected_by[row] = f"filter.{signal}"
                    rejected_value[row] = f"{values[signal][row]:.4g} {sign} {limit:g}"
    verdicts = table.with_columns(
        pl.Series("rejected_by", rejected_by.tolist(), dtype=pl.String),
        pl.Series("rejected_value", rejected_value.tolist(), dtype=pl.String),
    )
    kept = verdicts.filter(pl.col("rejected_by").is_null()).drop("rejected_by", "rejected_value")
    return kept, verdicts.filter(pl.col("rejected_by").is_not_null())


def alarms(documents: Mapping[str, int], rejects: Mapping[tuple[str, str], int], config: FilterConfig) -> list[str]:
    """A line for each rule that rejected more of a language's documents than `alarm_share`.

    `documents` counts those that came in, a language a key; `rejects` those that a rule took, keyed by language and
    rule. A language that the configuration leaves out raises no alarm for being left out.
    """
    lines = []
    for (language, rule), count in sorted(rejects.items()):
        total = documents.get(language, 0)
        if rule != "filter.language" and total and count / total > config.alarm_share:
            lines.append(
                f"{rule} rejected {count} of {total} documents in {language} ({count / total:.0%}); is its bound right?"
            )
    return lines
