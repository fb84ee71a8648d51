"""What Slurm's queue says of a job array: a job killed for its time, its memory or by `scancel` tells nobody itself."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

ENDED = frozenset(
    ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "PREEMPTED")
)
"""States from which a job does not come back; one that is requeued is PENDING again."""
PATIENCE_SECONDS = 60.0
"""Time that the controller has for an answer."""


class JobIds:
    """Takes a job's id from what `sbatch` prints, and remembers it: datatrove keeps that of the last array alone.

    A class of a module, because it travels to the jobs inside the pickled executor.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, printed: str) -> str:
        self.seen.append(printed.split()[-1])
        return self.seen[-1]


def left_queue(jobs: Sequence[str]) -> bool:
    """Whether the queue surely holds none of `jobs` any more; False too when it cannot be asked just now."""
    command = ["squeue", "--noheader", f"--jobs={','.join(jobs)}", "--format=%T"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    if asked.returncode != 0:
        # an error is also what a job gives that ended minutes ago; others are the controller's own troubles
        return "invalid job id" in asked.stderr.lower()
    return all(state in ENDED for state in asked.stdout.split())
