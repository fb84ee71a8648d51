"""The report's charts: matplotlib figures as inline SVG, their labels left as text in the page's own fonts."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("svg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Array = np.ndarray

INK, QUIET, GRID = "#2b2d33", "#7b7f88", "#e7e5df"
LANGUAGE_COLOURS = {"zh": "#c8452f", "en": "#2f6690", "mixed": "#8e6bad", "other": "#a9a69c", "": "#4f5d50"}
KEPT_COLOUR, REJECTED_COLOUR, LINE_COLOUR = "#3a7d5c", "#d9a441", "#c8452f"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: the page's fonts have Chinese, matplotlib's has not
    "svg.hashsalt": "report",  # the same figure gives the same bytes
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": QUIET,
    "axes.titlecolor": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def svg(figure: Figure, label: str) -> str:
    """The figure as an SVG element that scales with the page; `label` is what a screen reader says."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    widest = round(108 * figure.get_figwidth())  # beyond it the labels would outgrow the page's text
    attributes = rf'\1 role="img" aria-label="{label}" style="max-width: {widest}px"'
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', attributes, text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return re.sub(r" font-family: [^;\"]*;", "", text)  # the page's own


def axes(width: float, height: float, place: tuple[float, float, float, float] | None = None) -> tuple[Figure, Axes]:
    """An empty chart, its size in inches; `place` (left, bottom, width, height) spares the search for a layout."""
    with mpl.rc_context(STYLE):
        if place is not None:
            figure = Figure(figsize=(width, height))
            return figure, figure.add_axes(place)
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


def short_number(value: float) -> str:
    """1234567 -> 1.2M."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def stacked_bars(
    rows: Sequence[str], series: Mapping[str, Sequence[float]], label: str, unit: str, width: float = 7.6
) -> str:
    """Horizontal bars, one a row, stacked by language; the total stands at the end of each."""
    figure, axis = axes(width, 0.75 + 0.34 * len(rows))
    places = np.arange(len(rows))[::-1]
    left = np.zeros(len(rows))
    for name, values in series.items():
        if sum(values):
            colour = LANGUAGE_COLOURS.get(name, "#777777")
            axis.barh(places, values, left=left, height=0.62, color=colour, label=name or "all")
            left += np.array(values, float)
    for place, total in zip(places, left, strict=True):
        axis.text(total + left.max() * 0.008, place, short_number(total), va="center", fontsize=8.5, color=QUIET)
    axis.set_yticks(places, rows)
    axis.set_xlim(0, max(left.max() * 1.09, 1))
    axis.xaxis.set_major_formatter(lambda value, _: short_number(value))
    axis.set_xlabel(unit)
    axis.grid(axis="y", visible=False)
    if len(series) > 1:  # above the bars: inside it would hide some of them
        with mpl.rc_context(STYLE):
            figure.legend(loc="outside upper right", fontsize=8.5, ncols=len(series))
    return svg(figure, label)


def bars(
    rows: Sequence[str], values: Sequence[float], label: str, unit: str, colours: Sequence[str], width: float = 7.6
) -> str:
    """Horizontal bars, one a row, each in its colour."""
    figure, axis = axes(width, 0.65 + 0.27 * len(rows))
    places = np.arange(len(rows))[::-1]
    axis.barh(places, values, height=0.66, color=colours)
    for place, value in zip(places, values, strict=True):
        axis.text(value + max(values) * 0.008, place, f"{value:,.0f}", va="center", fontsize=8.5, color=QUIET)
    axis.set_yticks(places, rows)
    axis.set_xlim(0, max(max(values) * 1.1, 1))
    axis.xaxis.set_major_formatter(lambda value, _: short_number(value))
    axis.set_xlabel(unit)
    axis.grid(axis="y", visible=False)
    return svg(figure, label)


def s_curve(bands: int, rows: int, lines: Mapping[str, float], label: str) -> str:
    """The probability that a pair becomes a candidate by its Jaccard, with the verification's lines."""
    figure, axis = axes(4.6, 2.9)
    jaccard = np.linspace(0, 1, 201)
    axis.plot(jaccard, 1 - (1 - jaccard**rows) ** bands, color=LANGUAGE_COLOURS["en"], linewidth=2)
    for number, (name, value) in enumerate(lines.items()):
        axis.axvline(value, color=LINE_COLOUR, linewidth=1, linestyle=(0, (4, 3)))
        axis.text(value + 0.012, 0.06 + 0.11 * number, f"{name} {value:g}", fontsize=8, color=LINE_COLOUR)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("Jaccard of the shingles")
    axis.set_ylabel("becomes a candidate")
    return svg(figure, label)


def histogram(name: str, kept: Array, rejected: Array, low: float | None, high: float | None, label: str) -> str:
    """A signal's distribution over kept and rejected documents, with the thresholds that it is judged by."""
    figure, axis = axes(3.0, 1.75, (0.12, 0.14, 0.85, 0.70))
    both = np.concatenate([kept, rejected])
    lowest, highest = np.quantile(both, [0.002, 0.995]) if len(both) else (0.0, 1.0)
    for limit in (low, high):
        if limit is not None:
            lowest, highest = min(lowest, limit), max(highest, limit)
    if highest <= lowest:
        highest = lowest + 1
    span = highest - lowest
    edges = np.linspace(lowest - 0.02 * span, highest + 0.02 * span, 41)
    # outlines of two step curves: a bar each would be eighty shapes, which take most of the report's time
    counts = [np.histogram(np.clip(part, edges[0], edges[-1]), edges)[0] for part in (kept, rejected)]
    axis.stairs(counts[0] + counts[1], edges, fill=True, color=REJECTED_COLOUR, label="rejected here")
    axis.stairs(counts[0], edges, fill=True, color=KEPT_COLOUR, label="kept")
    for limit in (low, high):
        if limit is not None:
            axis.axvline(limit, color=LINE_COLOUR, linewidth=1.2)
    axis.set_title(name, fontsize=9, loc="left", y=1.0)
    axis.tick_params(labelsize=7.5)
    axis.set_ylim(bottom=0)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MaxNLocator(4))
    axis.yaxis.set_major_formatter(lambda value, _: short_number(value))
    axis.xaxis.set_major_formatter(lambda value, _: short_number(value))
    axis.grid(axis="x", visible=False)
    return svg(figure, label)
