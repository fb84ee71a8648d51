"""What a run writes down: a line of metrics.jsonl a log step, the console, TensorBoard, Weights & Biases.

Sums stay on the device between log steps and are read once. `loss`, `gradient_norm` and the like are the log step's own
(a resumed run repeats them to the bit); those by task and language are over all steps since the line before.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from trainer.config import LogConfig
from trainer.parallel import gather_objects
from trainer.step import StepResult

METRICS_FILE = "metrics.jsonl"
ROW_FIGURES = ("task", "source", "unmasked", "limited")
"""What a step's result says of each row beside its losses."""


class Sink(Protocol):
    """Somewhere that lines of metrics go."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Take one line."""

    def rewind(self, step: int) -> None:
        """The run goes back to `step`."""

    def close(self) -> None:
        """No more lines come."""


class JsonLines:
    """metrics.jsonl; lines of steps that a resumed run will take again are removed when it is opened."""

    def __init__(self, run: Path, resumed_step: int) -> None:
        self.path = run / METRICS_FILE
        keep_until(self.path, resumed_step)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Append and flush, so that a killed run loses no more than a line."""
        self._file.write(json.dumps(_finite(line), ensure_ascii=False) + "\n")
        self._file.flush()

    def rewind(self, step: int) -> None:
        """Drop the lines after `step`."""
        self._file.close()
        keep_until(self.path, step)
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that was cut short is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append(line)
    return lines


def keep_until(path: Path, step: int) -> None:
    """Drop the lines after `step` (all of them below 0) and a half line at the end; the file changes in one rename."""
    if not path.is_file():
        return
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), encoding="utf-8")
    os.replace(partial, path)


class Console:
    """A line on standard error a log step, with the rate and the time left."""

    def __init__(self, total_steps: int) -> None:
        self.total = total_steps
        self._began = time.monotonic()
        self._first: int | None = None

    def write(self, line: Mapping[str, Any]) -> None:
        """Print the line's main figures."""
        step = int(line["step"])
        if heldout := describe_heldout(line):
            print(f"step {step}/{self.total}  held-out {heldout}", file=sys.stderr, flush=True)
            return
        if "loss" not in line:
            return
        if self._first is None or step <= self._first:
            self._first, self._began = step, time.monotonic()
        done = step - self._first
        left = (time.monotonic() - self._began) / done * (self.total - step) if done else None
        words = [f"step {step}/{self.total}", f"loss {line['loss']:.4f}", f"lr {line['learning_rate']:.2e}"]
        words.append(f"norm {line['grad_norm']:.2f}")
        words.append(f"{line['tokens_per_second']:,.0f} tokens/s")
        if left is not None:
            words.append(f"{format_seconds(left)} left")
        print("  ".join(words), file=sys.stderr, flush=True)

    def rewind(self, step: int) -> None:
        """What has been shown stays."""

    def close(self) -> None:
        """Nothing to close."""


def describe_heldout(line: Mapping[str, Any]) -> str:
    """A line's held-out figures in words; nothing where it has none."""
    words = []
    if bits := line.get("heldout_bits_per_byte"):
        words.append("bits per byte: " + ", ".join(f"{language} {value:.3f}" for language, value in bits.items()))
    if fills := line.get("heldout_fill_accuracy"):
        right = ", ".join(f"{language} {shares['tokens']:.1%}" for language, shares in fills.items())
        words.append(f"tokens of blanks right: {right}")
    if "heldout_pair_loss" in line:
        words.append(f"pairs' loss: {line['heldout_pair_loss']:.4f}")
    return "; ".join(words)


class TensorBoard:
    """TensorBoard event files in the run folder."""

    def __init__(self, run: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("log.tensorboard: the package tensorboard is not installed") from error
        self._writer = SummaryWriter(str(run / "tensorboard"))

    def write(self, line: Mapping[str, Any]) -> None:
        """Every number of the line as a scalar."""
        for name, value in flatten(line):
            self._writer.add_scalar(name, value, int(line["step"]))

    def rewind(self, step: int) -> None:
        """What has been shown stays."""

    def close(self) -> None:
        """Write out what is left."""
        self._writer.close()


class WeightsAndBiases:
    """Weights & Biases, when its package is installed."""

    def __init__(self, run: Path, project: str) -> None:
        try:
            import wandb  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise ValueError("log.wandb_project: the package wandb is not installed") from error
        self._run = wandb.init(project=project, name=run.name, dir=str(run), resume="allow", id=run.name)

    def write(self, line: Mapping[str, Any]) -> None:
        """Every number of the line."""
        self._run.log(dict(flatten(line)), step=int(line["step"]))

    def rewind(self, step: int) -> None:
        """What has been shown stays."""

    def close(self) -> None:
        """Finish the run there."""
        self._run.finish()


def open_sinks(run: Path, config: LogConfig, total_steps: int, resumed_step: int) -> list[Sink]:
    """The sinks that the configuration asks for; the file and the console are always among them."""
    sinks: list[Sink] = [JsonLines(run, resumed_step), Console(total_steps)]
    if config.tensorboard:
        sinks.append(TensorBoard(run))
    if config.wandb_project:
        sinks.append(WeightsAndBiases(run, config.wandb_project))
    return sinks


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The numbers of nested mappings, with their names joined by slashes."""
    numbers: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            numbers += flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers.append((f"{prefix}{name}", float(value)))
    return numbers


def format_seconds(seconds: float) -> str:
    """Like 0:42, 12:05 or 3:10:00."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class Interval:
    """What has been seen since the last log step: row sums on the device, and where the time went.

    Rates are of training alone: `paused_seconds`, which evaluation and saving have taken, are not in them.
    """

    def __init__(self, task_names: Sequence[str], source_names: Sequence[str]) -> None:
        self.task_names = task_names
        self.source_names = source_names
        self.begin()

    def begin(self) -> None:
        """Forget everything and start the clock."""
        self.results: list[StepResult] = []
        self.tokens = 0
        self.loader_seconds = 0.0
        self.paused_seconds = 0.0
        self.began = time.perf_counter()

    def add(self, result: StepResult, tokens: int) -> None:
        """Take note of a step of `tokens` positions over all processes."""
        self.results.append(result)
        self.tokens += tokens

    def summary(self) -> dict[str, Any]:
        """Bits per byte of the targets, loss by task, bits per byte by language, rates, over the rows of all processes.

        Reads the device once; asked by all processes.
        """
        own = (
            torch.cat([result.rows for result in self.results]).double().cpu().numpy(),
            *(np.concatenate([getattr(one, name) for one in self.results]) for name in ROW_FIGURES),
        )
        parts = zip(*gather_objects(own), strict=True)
        rows, task, source, unmasked, limited = (np.concatenate(arrays) for arrays in parts)
        seconds = time.perf_counter() - self.began - self.paused_seconds
        line: dict[str, Any] = {"bits_per_byte": _bits(rows)}
        line["loss_by_task"] = {
            self.task_names[index]: _ratio(rows[task == index, 0].sum(), rows[task == index, 1].sum())
            for index in np.unique(task)
        }
        languages = np.array([name.split("-")[0] for name in self.source_names])
        line["bits_per_byte_by_language"] = {
            str(language): _bits(rows[np.isin(source, np.flatnonzero(languages == language))])
            for language in np.unique(languages[np.unique(source)])
        }
        line["unmasked_tokens"] = int(unmasked.sum())
        line["limited_rows_share"] = float(limited.mean())
        line["tokens_per_second"] = self.tokens / seconds
        line["seconds_per_step"] = seconds / len(self.results)
        line["loader_wait_share"] = self.loader_seconds / seconds
        line["paused_seconds"] = self.paused_seconds
        return line


def _finite(value: Any) -> Any:
    """The same with null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ratio(sum_: float, weight: float) -> float | None:
    return float(sum_ / weight) if weight > 0 else None


def _bits(rows: np.ndarray) -> float | None:
    ratio = _ratio(rows[:, 2].sum(), rows[:, 3].sum())
    return None if ratio is None else ratio / math.log(2)
