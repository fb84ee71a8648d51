"""Work shared out over the processes of a run, each of which may hold only a part of the model.

A sharded model's forward pass is an exchange that every process has to join, so all of them make the same number of
calls: where the items do not come out even, a process repeats one and its result is not counted. Alone, a process
measures every item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

_T = TypeVar("_T")


def over_processes(
    items: Sequence[_T], measure: Callable[[_T], Sequence[float]], width: int, device: torch.device
) -> NDArray[np.float64]:
    """(items, width) the figures of every item, on every process; `measure` gives `width` figures of one."""
    together = dist.is_initialized() and dist.get_world_size() > 1
    rank, size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
    figures = np.zeros((len(items), width))
    for turn in range(math.ceil(len(items) / size)):
        index = turn * size + rank
        found = measure(items[min(index, len(items) - 1)])
        if index < len(items):
            figures[index] = found
    if together:
        # Each figure comes from one process and zeros from the others: the sum is exact.
        whole = torch.from_numpy(figures).to(device)
        dist.all_reduce(whole)
        figures = whole.cpu().numpy()
    return figures
