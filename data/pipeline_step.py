"""datatrove's side of a task: the step that does task number `rank`, and processes that end with their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from data.pipeline import do_task, tell_failure
from data.stage import Context
from data.stages import stage_named

PR_SET_PDEATHSIG = 1
_guarded = False
_registered = False


class StageStep(PipelineStep):
    """Does task `rank` of one phase of a stage; reads and gives no datatrove documents."""

    name = "tiankong stage"
    type = "stage"

    def __init__(self, context: Context, phase: int, tasks: list[str], owner: int) -> None:
        super().__init__()
        self.phase, self.tasks = phase, tasks
        self.owner, self.owner_host = owner, socket.gethostname()
        # packed, because a pool whose workers fail while they unpack a task waits for them for ever
        self.context = pickle.dumps(context)
        self.failed = [str(context.marker(stage_named(context.stage).phases[phase].name, task)) for task in tasks]

    def __setstate__(self, state: dict[str, Any]) -> None:
        from loguru import logger

        logger.disable("datatrove")  # its task logs go to the terminal otherwise, between our progress
        self.__dict__.update(state)

    def run(self, data: object, rank: int = 0, world_size: int = 1) -> Generator[Any, None, None]:  # noqa: ARG002
        """Do the task; yields nothing."""
        end_with_owner(self.owner, self.owner_host)
        try:
            context: Context = pickle.loads(self.context)
        except Exception as error:
            tell_failure(Path(self.failed[rank]), self.tasks[rank], error)
            raise
        do_task(context, stage_named(context.stage).phases[self.phase], self.tasks[rank], self.owner)
        yield from ()


def end_with_owner(owner: int, host: str) -> None:
    """End this process when the process that started the run is gone (killed): it must not write on by itself."""
    global _guarded
    if _guarded or owner == os.getpid() or host != socket.gethostname() or "SLURM_JOB_ID" in os.environ:
        return
    _guarded = True

    def watch() -> None:
        while True:
            try:
                os.kill(owner, 0)
            except ProcessLookupError:
                os._exit(1)
            except PermissionError:
                pass
            time.sleep(0.2)

    threading.Thread(target=watch, daemon=True).start()


def die_with_parent() -> None:
    """Let processes forked from now on (multiprocessing's manager) be killed when this one is."""
    global _registered
    if not _registered:
        _registered = True
        os.register_at_fork(after_in_child=_ask_kernel)


def _ask_kernel() -> None:
    with contextlib.suppress(OSError, AttributeError):  # not Linux: the process stays until its connection closes
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
