"""Curves of one run or several together over tokens; figures that none of the runs has are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.metrics import METRICS_FILE, read_metrics

PANELS = (
    ("loss", "loss (nats a target)"),
    ("loss_by_task", "loss by task"),
    ("bits_per_byte_by_language", "bits per byte of the targets, by language"),
    ("heldout_bits_per_byte", "held-out bits per byte, by language"),
    ("heldout_pair_loss", "loss of held-out pairs (nats a target)"),
    ("grad_norm", "gradient norm"),
    ("update_ratio", "update over weights, by part"),
    ("indexer_kl", "indexers' KL (nats a query)"),
    ("learning_rate", "learning rate"),
)


def series(lines: Sequence[dict[str, Any]], name: str) -> dict[str, tuple[list[float], list[float]]]:
    """Tokens and values of a figure, by its parts (languages); one part called '' for a single number."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        value = line.get(name)
        for part, number in value.items() if isinstance(value, dict) else [("", value)]:
            if isinstance(number, int | float):
                tokens, values = found.setdefault(part, ([], []))
                tokens.append(float(line["tokens"]))
                values.append(float(number))
    return found


def plot_runs(runs: Sequence[Path], output: Path) -> None:
    """Draw the curves of `runs` into an image file. FileNotFoundError for a run without metrics."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    metrics = {}
    for run in runs:
        path = run / METRICS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; --run folders of the trainer have one")
        metrics[run] = read_metrics(path)
    panels = [(name, title) for name, title in PANELS if any(series(lines, name) for lines in metrics.values())]
    rows = max(1, math.ceil(len(panels) / 2))
    figure, axes = plt.subplots(rows, 2, figsize=(12, 3.7 * rows), constrained_layout=True, squeeze=False)
    for axis, (name, title) in zip(axes.flat, panels, strict=False):
        for run, lines in metrics.items():
            for part, (tokens, values) in series(lines, name).items():
                marker = "o" if len(tokens) < 20 else ""
                axis.plot(tokens, values, marker=marker, markersize=3, linewidth=1, label=f"{run.name} {part}".strip())
        axis.set_title(title)
        axis.set_xlabel("tokens")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)
    plt.close(figure)
