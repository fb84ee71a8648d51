"""What a run works with, and how it is asked to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from tokenizer.load import Tokenizer
from trainer.config import RunConfig, StageConfig
from trainer.devices import World
from trainer.metrics import Sink
from trainer.saving import Saver

Evaluate = Callable[[torch.nn.Module, StageConfig], dict[str, Any]]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass(kw_only=True)
class Run:
    """What a run works with, none of which it has to save."""

    config: RunConfig
    folder: Path
    data: Path | None
    tokenizer: Tokenizer
    device: torch.device
    world: World
    sinks: list[Sink]
    evaluate: Evaluate
    saver: Saver
    say: Callable[[str], None]
    rollbacks: int = 0

    def write(self, line: dict[str, Any]) -> None:
        """A line to every sink; only the first process has any."""
        for sink in self.sinks:
            sink.write(line)


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to stop; its state is saved."""


class StopRequest:
    """Remembers that SIGINT, SIGTERM or Slurm's SIGUSR1 came, so that the step in hand can be finished and saved."""

    def __init__(self) -> None:
        self.name = ""
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.name:  # the second time the person means it
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name

    def restore(self) -> None:
        """Put the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
