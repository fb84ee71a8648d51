"""Command line of the trainer: pretrain, plan, plot."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from command_line import Parser, run_commands
from data.token_shards import documents_of
from evaluation.bits_per_byte import HeldoutSet, bits_per_byte, build_heldout_set
from evaluation.fill_accuracy import build_blanks, score_blanks
from evaluation.target_loss import target_loss
from objectives.example import Batch
from tokenizer.load import Tokenizer, load_tokenizer
from trainer import checkpoints, devices
from trainer.config import RunConfig, StageConfig, with_total_steps
from trainer.initial_weights import check_initial, load_initial
from trainer.loop import train
from trainer.metrics import Sink, open_sinks
from trainer.pairs import open_heldout_pairs
from trainer.parallel import build_sharded, on_first, wait_for_all
from trainer.plan import plan, plan_lines
from trainer.plot import plot_runs
from trainer.run import Run, Stopped
from trainer.run_folder import check_data, prepare, recorded_source
from trainer.saving import Saver
from trainer.state import position_of


def pretrain_command(argv: list[str]) -> int:
    """Train a run to its end, or go on with it."""
    parser = Parser("python -m trainer pretrain", "train a model; run again to go on with a run", config=RunConfig)
    parser.add_argument(
        "--data",
        type=str,
        default=None,
        help="folder of the stage tokenize, with train/ and validation/ (a run of nothing but pairs needs none)",
    )
    parser.add_argument(
        "--tokenizer", type=str, required=True, help="tokenizer folder that the token shards were made with"
    )
    parser.add_argument("--run", type=str, required=True, help="run folder; it goes on if the folder has a run")
    parser.add_argument("--steps", type=int, default=None, help="steps of the run instead of the configuration's")
    args = parser.read(argv)
    tokenizer = load_tokenizer(args.tokenizer)
    config = complete(args.config, tokenizer, args.steps)
    folder, data = Path(args.run), Path(args.data) if args.data else None
    config = recorded_source(folder, config)
    check_data(data, config, tokenizer)
    world = devices.read_world()
    device = devices.choose_device(config.devices.device, world.local_rank)
    check_device(config, device, world)
    devices.join_processes(device, world)

    def begin() -> None:
        if config.init_from and not (folder / "config.yaml").is_file():
            check_initial(config, Path(args.tokenizer))
        prepare(folder, config, Path(args.tokenizer), data)

    try:
        on_first(world, begin)
        status = _pretrain(config, folder, data, tokenizer, device, world)
        wait_for_all()  # one that left early would end connections that the others still use
        return status
    finally:
        devices.leave_processes()


def complete(config: RunConfig, tokenizer: Tokenizer, steps: int | None) -> RunConfig:
    """The configuration with the vocabulary of the tokenizer and the number of steps that was asked for."""
    if steps is not None:
        config = with_total_steps(config, steps)
    size = config.model.vocab_size
    if size not in (0, tokenizer.vocab_size):
        raise ValueError(
            f"model.vocab_size: {size} is not the tokenizer's {tokenizer.vocab_size}; write 0 to take the tokenizer's"
        )
    for stage in config.stages:
        stage.objective.check_model(config.model.mtp.num_layers, config.model.position.kind != "rotary")
        if stage.data.window > config.model.max_positions:
            raise ValueError(
                f"stage {stage.name}: data.window {stage.data.window} is more than model.max_positions "
                f"{config.model.max_positions}"
            )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))


def check_device(config: RunConfig, device: torch.device, world: devices.World) -> None:
    """Refuse what the device or the number of processes cannot give; ValueError names the key."""
    if config.model.compute_dtype == "float16" and not devices.back_end(device).float16:
        raise ValueError(f"model.compute_dtype: float16 is not offered on {device.type}; give bfloat16 or float32")
    if config.devices.distributed == "none" and world.size > 1:
        raise ValueError(f"devices.distributed: none is for one process and there are {world.size}; give fsdp")


def _pretrain(
    config: RunConfig, folder: Path, data: Path | None, tokenizer: Tokenizer, device: torch.device, world: devices.World
) -> int:
    def say(text: str) -> None:
        if world.is_first:
            print(text, file=sys.stderr, flush=True)

    resume_from = checkpoints.last_whole(folder, checkpoints.warn if world.is_first else lambda _: None)
    position = position_of(resume_from)
    if position.step >= config.total_steps:
        say(f"{folder}: all {config.total_steps} steps are done")
        return 0
    devices.set_threads(config.devices.threads or position.threads, world)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    model = build_sharded(config.model, device, config.seed, world, config.devices)
    if config.init_from and resume_from is None:
        load_initial(model, config, folder / "tokenizer", say)
    evaluator = Evaluator(config, folder, data, tokenizer, device, say)
    sinks: list[Sink] = []
    resumed_step = position.step or -1  # before the first step everything is measured anew
    on_first(world, lambda: sinks.extend(open_sinks(folder, config.log, config.total_steps, resumed_step)))
    saver = Saver(config, folder, world)
    run = Run(
        config=config, folder=folder, data=data, tokenizer=tokenizer, device=device, world=world,
        sinks=sinks, evaluate=evaluator, saver=saver, say=say,
    )  # fmt: skip
    try:
        train(run, model, resume_from)
    except Stopped as reason:
        say(str(reason))
        return 0
    say(f"{folder}: {config.total_steps} steps done")
    return 0


class Evaluator:
    """Held-out figures for the loop; the rows of a stage's window and objective are made once."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        data: Path | None,
        tokenizer: Tokenizer,
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        """Pairs are read at once, so that a line that is none ends the run before it has begun."""
        self.config, self.data, self.tokenizer, self.device = config, data, tokenizer, device
        self.sets: dict[str, HeldoutSet] = {}
        self.blanks: dict[str, dict[str, Batch]] = {}
        self.pairs: dict[str, list[Batch]] = {}
        for stage in config.stages:
            if stage.data.heldout_pair_files:
                rows = open_heldout_pairs(stage.data, stage.objective, tokenizer, data or folder)
                say(f"stage {stage.name}: {rows.describe()}")
                parts = np.array_split(
                    np.arange(rows.index.rows), math.ceil(rows.index.rows / config.evaluation.batch_rows)
                )
                self.pairs[stage.name] = [rows.build(part, stage.objective, tokenizer.special) for part in parts]

    def __call__(self, model: nn.Module, stage: StageConfig) -> dict[str, Any]:
        """The line's figures, where there are: bits per byte and blanks filled right, a language, and pairs' loss."""
        figures: dict[str, Any] = {}
        if self.data is not None and stage.name not in self.sets:
            self._make_rows(stage, self.data)
        if stage.name in self.sets:
            figures["heldout_bits_per_byte"] = bits_per_byte(model, self.sets[stage.name], self.device)
        if stage.name in self.blanks:
            figures["heldout_fill_accuracy"] = score_blanks(model, self.blanks[stage.name], self.device)
        if stage.name in self.pairs:
            figures["heldout_pair_loss"] = target_loss(model, self.pairs[stage.name], self.device)
        return figures

    def _make_rows(self, stage: StageConfig, data: Path) -> None:
        config = self.config.evaluation
        self.sets[stage.name] = build_heldout_set(
            documents_of(data / "validation"), stage.objective, stage.data.window, self.tokenizer.special,
            self.tokenizer.byte_lengths, rows_per_language=config.rows_per_language, rows_in_batch=config.batch_rows,
        )  # fmt: skip
        if stage.objective.kind == "blank_infilling" and config.fill_rows_per_language:
            try:
                self.blanks[stage.name] = build_blanks(
                    documents_of(data / "validation"), stage.objective, stage.data.window, self.tokenizer,
                    rows_per_language=config.fill_rows_per_language,
                )  # fmt: skip
            except ValueError as error:  # too little held-out text for a row of blanks
                checkpoints.warn(f"stage {stage.name}: {error}")


def plan_command(argv: list[str]) -> int:
    """Count a run's parameters and operations."""
    parser = Parser("python -m trainer plan", "parameters and operations of a run, before it is run", config=RunConfig)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.read(argv)
    figures = plan(args.config.model)
    print(json.dumps(figures, ensure_ascii=False) if args.json else "\n".join(plan_lines(figures)))
    return 0


def plot_command(argv: list[str]) -> int:
    """Draw the curves of runs together."""
    parser = Parser("python -m trainer plot", "curves of one run or several together")
    parser.add_argument("runs", nargs="+", type=str, help="run folders")
    parser.add_argument("--output", type=str, default=None, help="image file (default: curves.png in the first run)")
    args = parser.read(argv)
    runs = [Path(run) for run in args.runs]
    output = Path(args.output) if args.output else runs[0] / "curves.png"
    plot_runs(runs, output)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(
        run_commands(
            "python -m trainer",
            {
                "pretrain": (pretrain_command, "train a model; run again to go on with a run"),
                "plot": (plot_command, "curves of one run or several together"),
                "plan": (plan_command, "parameters and operations of a run, before it is run"),
            },
        )
    )
