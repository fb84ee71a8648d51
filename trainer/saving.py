"""Saving a run: by all processes together, or in the background while one process trains on.

In the background the state is copied first, so that training may change it while the copy is written; no more than one
save is under way, and an error of it is raised when the next one begins or the run ends.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from safetensors import SafetensorError
from torch.distributed.checkpoint import CheckpointException

from trainer import checkpoints
from trainer.config import RunConfig, to_yaml
from trainer.devices import World
from trainer.parallel import on_first, wait_for_all
from trainer.state import Position, Snapshot, TrainState


class Saver:
    """Writes the checkpoints of one run."""

    def __init__(self, config: RunConfig, folder: Path, world: World) -> None:
        self.config = config
        self.folder = folder
        self.world = world
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, state: TrainState) -> None:
        """Save the state; OSError in one line when it cannot be written, with the last checkpoint as it was."""
        self.wait()
        if self.config.checkpoint.asynchronous and self.world.size == 1:
            copy = state.snapshot(copied=True)
            self._pending = self._pool.submit(self._write, copy, dataclasses.replace(state.position))
        else:
            self._write(state.snapshot(copied=False), state.position)

    def wait(self) -> None:
        """Wait for the save that is under way and raise its error, if any."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Wait and end the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def _write(self, snapshot: Snapshot, position: Position) -> None:
        partial = checkpoints.partial_folder(self.folder, position.step)
        try:
            on_first(self.world, lambda: checkpoints.clear(partial))
            snapshot.write(partial)
            wait_for_all()
            on_first(self.world, lambda: self._publish(partial, position))
        except (OSError, SafetensorError, RuntimeError, CheckpointException) as error:
            # safetensors and DCP wrap what the system said; only trouble with the disk is the user's.
            reason = checkpoints.disk_error(error, self.folder)
            if self.world.is_first:
                checkpoints.discard(partial)
            if reason is None:
                raise
            raise checkpoints.explain_failed_save(reason, self.folder, position.step) from error

    def _publish(self, partial: Path, position: Position) -> None:
        position.write(partial)
        (partial / "config.yaml").write_text(to_yaml(self.config), encoding="utf-8")
        checkpoints.publish(self.folder, position.step)
        checkpoints.remove_old(self.folder, self.config.checkpoint)
