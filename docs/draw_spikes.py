"""Draw docs/spikes.svg: garbage in the data of a small run, and what each `stability.on_spike` makes of it.

Three runs from one seed read the same rows; those of ten steps are replaced by random tokens, as if a binary file had
been taken for text. The loss that is drawn is on what the data hold, so garbage shows in every run; what matters is how
far above the run without garbage each one stands afterwards.

    python docs/draw_spikes.py [--data out/demo/corpus/tokenize] [--tokenizer out/demo/tokenizer] [--work DIR]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import matplotlib as mpl
import numpy as np
import yaml
from matplotlib import pyplot as plt

from objectives.example import Batch
from trainer.__main__ import pretrain_command
from trainer.loader import Loader
from trainer.metrics import read_metrics

ROWS, WINDOW, STEPS, FIRST, LAST = 8, 128, 360, 201, 210
GARBAGE = range((FIRST - 1) * ROWS, LAST * ROWS)
RUNS = {"no garbage": "nothing", "nothing": "nothing", "skip_step": "skip_step", "rollback": "rollback"}
COLOURS = {"no garbage": "#999999", "nothing": "#c0392b", "skip_step": "#2471a3", "rollback": "#239b56"}


def configuration(on_spike: str) -> dict[str, Any]:
    """A small pre-norm model that learns left to right at a constant rate."""
    return {
        "model": {
            "hidden_size": 96, "num_layers": 3, "max_positions": WINDOW,
            "attention": {"num_heads": 3, "head_dim": 32}, "feed_forward": {"inner_size": 256},
        },
        "stages": [
            {
                "name": "pretrain", "steps": STEPS, "data": {"window": WINDOW}, "objective": {"kind": "causal"},
                "batch": {"tokens": ROWS * WINDOW, "micro_batch_rows": ROWS},
                "schedule": {"peak": 3e-3, "shape": "constant", "warmup_share": 0.05},
            }
        ],
        "checkpoint": {"every": 25, "keep_last": 2}, "log": {"every": 1}, "evaluation": {"rows_per_language": 16},
        "stability": {"on_spike": on_spike, "window": 64}, "devices": {"device": "cpu", "threads": 1},
    }  # fmt: skip


def plant(batch_of: Any) -> Any:
    """`Loader.batch` with the samples of GARBAGE replaced by random tokens."""

    def batch(self: Loader, first: int, count: int) -> Batch:
        made = batch_of(self, first, count)
        for row in range(count):
            if first + row in GARBAGE:
                tokens = np.random.default_rng(first + row).integers(0, 3000, WINDOW + 1)
                made.tokens[row], made.targets[row] = tokens[:-1], tokens[1:]
        return made

    return batch


def train(name: str, args: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """The metrics of one run."""
    config = work / f"{name}.yaml"
    config.write_text(yaml.safe_dump(configuration(RUNS[name])), encoding="utf-8")
    clean = Loader.batch
    if name != "no garbage":
        Loader.batch = plant(clean)  # type: ignore[method-assign]
    try:
        pretrain_command(
            ["--config", str(config), "--data", args.data, "--tokenizer", args.tokenizer, "--run", str(work / name)]
        )
    finally:
        Loader.batch = clean  # type: ignore[method-assign]
    return read_metrics(work / name / "metrics.jsonl")


def losses(lines: list[dict[str, Any]]) -> dict[int, float]:
    """Loss by step."""
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def draw(runs: dict[str, list[dict[str, Any]]], output: Path) -> None:
    """The losses around the garbage, and how far each run is above the one without, smoothed over nine steps."""
    mpl.rcParams["svg.hashsalt"] = "spikes"
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, constrained_layout=True)
    base = losses(runs["no garbage"])
    for name, lines in runs.items():
        found = losses(lines)
        steps = [step for step in found if step > FIRST - 60]
        above.plot(steps, [found[step] for step in steps], color=COLOURS[name], linewidth=1.1, label=name)
        if name == "rollback":
            # After going back, the rows of a step are those of a later step of the other runs: no difference is drawn.
            continue
        gaps = [
            statistics.median(found[n] - base[n] for n in range(max(s - 4, 1), min(s + 4, STEPS) + 1)) for s in steps
        ]
        below.plot(steps, gaps, color=COLOURS[name], linewidth=1.1)
    above.set_ylabel("loss")
    below.set_ylabel("loss − loss without garbage")
    below.set_xlabel("step")
    for axis in (above, below):
        axis.axvspan(FIRST - 0.5, LAST + 0.5, color="#f6e3ba", zorder=0)
        axis.grid(alpha=0.3)
    above.legend()
    figure.savefig(output, metadata={"Date": None})


def figures(runs: dict[str, list[dict[str, Any]]]) -> None:
    """Mean loss of the twenty steps before the garbage and of two spans after it, and held-out bits per byte."""
    spans = {"before": (FIRST - 20, FIRST), "after 1-20": (LAST + 1, LAST + 21), "last 50": (STEPS - 49, STEPS + 1)}
    for name, lines in runs.items():
        found = losses(lines)
        means = {span: statistics.mean(found[n] for n in range(*ends)) for span, ends in spans.items()}
        worst = max(found[n] for n in range(FIRST, STEPS + 1))
        heldout = [line["heldout_bits_per_byte"] for line in lines if "heldout_bits_per_byte" in line][-1]
        words = [f"{span} {value:.3f}" for span, value in means.items()]
        words += [f"highest {worst:.3f}", *(f"{language} {bits:.3f}" for language, bits in heldout.items())]
        print(f"{name:<12}", "  ".join(words))


def main() -> None:
    """Train, draw, and print what the page says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="out/demo/corpus/tokenize")
    parser.add_argument("--tokenizer", default="out/demo/tokenizer")
    parser.add_argument("--work", default=None)
    args = parser.parse_args()
    work = Path(args.work or tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    runs = {name: train(name, args, work) for name in RUNS}
    draw(runs, Path(__file__).with_name("spikes.svg"))
    figures(runs)


if __name__ == "__main__":
    main()
