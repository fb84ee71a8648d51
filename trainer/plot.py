"""Curves of one run or several together over tokens: losses, bits per byte, gradient norm and learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.metrics import METRICS_FILE, read_metrics

PANELS = (
    ("loss", "loss (nats a target)"),
    ("loss_by_task", "loss by task"),
    ("bits_per_byte_by_language", "bits per byte of the targets, by language"),
    ("heldout_bits_per_byte", "held-out bits per byte, by language"),
    ("grad_norm", "gradient norm"),
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

    figure, axes = plt.subplots(3, 2, figsize=(12, 11), constrained_layout=True)
    for run in runs:
        path = run / METRICS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; --run folders of the trainer have one")
        lines = read_metrics(path)
        for (name, title), axis in zip(PANELS, axes.flat, strict=True):
            for part, (tokens, values) in series(lines, name).items():
                marker = "o" if len(tokens) < 20 else ""
                axis.plot(tokens, values, marker=marker, markersize=3, linewidth=1, label=f"{run.name} {part}".strip())
            axis.set_title(title)
            axis.set_xlabel("tokens")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)
    plt.close(figure)
