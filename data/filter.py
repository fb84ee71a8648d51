"""The filter stage: bounds on signal columns, a table a language, each reject with its rule and its value.

A preset is a YAML file in `configs/corpus/filters/`: for each language a list of signals with what they may be. A
configuration names a preset and lays its own bounds over it; `FilterConfig.bounds` is the two merged, by which
documents are judged, and the stage's record holds it whole (`FilterConfig.complete`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import yaml

from data.schema import LANGUAGES
from data.signals import SIGNAL_COLUMNS

PRESETS = Path(__file__).resolve().parent.parent / "configs" / "corpus" / "filters"


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a signal may be; outside it the document is rejected."""

    min: float | None = None
    """Reject when the signal is below this."""
    max: float | None = None
    """Reject when the signal is above this."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """A table of bounds for each language, by signal; and one for documents whose source is of the kind `code`."""

    zh: dict[str, Bound] = field(default_factory=dict)
    """Bounds on Chinese documents: signal, then min and max."""
    en: dict[str, Bound] = field(default_factory=dict)
    """Bounds on English documents."""
    mixed: dict[str, Bound] = field(default_factory=dict)
    """Bounds on documents of both languages."""
    code: dict[str, Bound] = field(default_factory=dict)
    """Bounds on documents of sources that declare `kind: code`, whatever their language."""

    def tables(self) -> dict[str, dict[str, Bound]]:
        """The tables by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def under(self, other: Thresholds) -> Thresholds:
        """These with the bounds of `other` laid over them, a signal at a time."""
        over = other.tables()
        return Thresholds(**{name: {**bounds, **over[name]} for name, bounds in self.tables().items()})


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which documents are kept."""

    preset: Literal["web", "fineweb", "fineweb2-zh", "none"] = "web"
    """The thresholds to begin with: `web` is this project's own; the others are published sets, for comparison."""
    languages: list[str] = field(default_factory=lambda: ["zh", "en", "mixed"])
    """Documents in other languages are rejected."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """Bounds laid over the preset's, a signal at a time."""
    alarm_share: float = 0.2
    """A rule that rejects more than this share of a language's documents raises an alarm in the record."""

    def __post_init__(self) -> None:
        if not 0 < self.alarm_share <= 1:
            raise ValueError(f"filter: alarm_share is {self.alarm_share}, expected a share above 0 and at most 1")
        if unknown := [language for language in self.languages if language not in LANGUAGES]:
            raise ValueError(f"filter.languages: '{unknown[0]}' is none of {', '.join(LANGUAGES)}")
        check_thresholds(self.thresholds, "filter.thresholds")
        read_preset(self.preset)

    @property
    def bounds(self) -> Thresholds:
        """What documents are held to: the preset's bounds, and `thresholds` laid over them a signal at a time."""
        return read_preset(self.preset).under(self.thresholds)

    def complete(self) -> FilterConfig:
        """The same filter with every bound written out, so that a record of it needs no preset's file to be read."""
        return replace(self, thresholds=self.bounds)


def check_thresholds(thresholds: Thresholds, where: str) -> None:
    """ValueError naming the signal that does not exist, or whose bound nothing can keep."""
    for table, bounds in thresholds.tables().items():
        for signal, bound in bounds.items():
            if signal not in SIGNAL_COLUMNS:
                near = get_close_matches(signal, SIGNAL_COLUMNS, n=1)
                hint = f"did you mean '{near[0]}'?" if near else "docs/signals.md lists them"
                raise ValueError(f"{where}.{table}: '{signal}' is no signal; {hint}")
            if bound.min is not None and bound.max is not None and bound.min > bound.max:
                raise ValueError(f"{where}.{table}.{signal}: min {bound.min:g} is above max {bound.max:g}")


@lru_cache(maxsize=8)
def read_preset(name: str) -> Thresholds:
    """The bounds of a preset; `none` has none."""
    if name == "none":
        return Thresholds()
    path = PRESETS / f"{name}.yaml"
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        thresholds = Thresholds(
            **{table: {signal: Bound(**bound) for signal, bound in bounds.items()} for table, bounds in raw.items()}
        )
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
    for name, bounds in config.bounds.tables().items():
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
