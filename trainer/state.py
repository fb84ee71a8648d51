"""Everything of a run that must survive a crash, in one object, and how it goes to a checkpoint and back.

Random draws need no state: every step seeds torch from (seed, step, rank), and the loader's samples are functions of
their index. So what is left is the weights, the optimiser, what is usual of losses and norms, the loss scale, and a few
integers that say where the run is.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.transformer import Transformer
from model.weights import load_weights
from model.weights import save_tensors as save_weights
from trainer.distributed_state import load_tensors, save_tensors
from trainer.optimizers import Optimizer
from trainer.stability import LossScale, SpikeStatistics

STATE_FILE = "state.json"


@dataclass
class Position:
    """Where a run is: integers alone."""

    step: int = 0
    """Optimiser steps done in the run."""
    stage: int = 0
    """Index of the stage of the next step."""
    stage_step: int = 0
    """Steps done in that stage."""
    skipped_rows: int = 0
    """Rows of the stage that rollbacks have passed over."""
    tokens: int = 0
    """Row positions read in the run, padding included."""
    threads: int = 0
    """Threads of one process, which decide how sums round."""

    def write(self, folder: Path) -> None:
        """Write `state.json`."""
        (folder / STATE_FILE).write_text(json.dumps(dataclasses.asdict(self), indent=1), encoding="utf-8")


def read_position(folder: Path) -> Position:
    """The position in a checkpoint's `state.json`; ValueError naming the file."""
    path = folder / STATE_FILE
    try:
        return Position(**{name: int(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not the state of a run: {error}") from error


def position_of(checkpoint: Path | None) -> Position:
    """Where a checkpoint's run was, or the beginning."""
    return Position() if checkpoint is None else read_position(checkpoint)


@dataclass
class Snapshot:
    """The tensors of a state at one moment."""

    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]

    def write(self, folder: Path) -> None:
        """Write the tensors into an empty `folder`, all processes together."""
        save_weights(self.weights.items(), folder)
        save_tensors(self.tensors, folder / "optimizer")


@dataclass
class TrainState:
    """The run's state: the one thing that is saved and the one thing that is resumed."""

    model: Transformer
    optimizer: Optimizer
    spikes: SpikeStatistics
    loss_scale: LossScale
    position: Position

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's and the statistics' tensors by name; weights are not among them."""
        named = {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state_dict().items()}
        named |= {f"spikes.{name}": tensor for name, tensor in self.spikes.state_dict().items()}
        return named | {f"loss_scale.{name}": tensor for name, tensor in self.loss_scale.state_dict().items()}

    def snapshot(self, *, copied: bool) -> Snapshot:
        """What a checkpoint holds; copied, so that training may go on while it is written."""
        weights, tensors = dict(self.model.state_dict()), self.tensors()
        if copied:
            weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
            tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        return Snapshot(weights, tensors)

    def load(self, folder: Path) -> None:
        """Take over the state in `folder`, in place and with this run's own number of processes."""
        load_weights(self.model, folder)
        load_tensors(self.tensors(), folder / "optimizer")
        self.position = read_position(folder)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators for one step of one process: dropout repeats itself when a run is resumed."""
    torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + rank) % (1 << 63))
