"""The one file that knows kinds of devices: which one to use, how its processes talk, what it can do, its memory.

Everything else asks through these functions, so that a new back end is a line in `BACK_ENDS`. Devices are found through
`torch.accelerator`; a vendor's package (Ascend's `torch_npu`) is imported only when its device is asked for by name.
"""

from __future__ import annotations

import ctypes
import datetime
import gc
import importlib
import os
import resource
import sys
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True)
class BackEnd:
    """What differs from one kind of device to another."""

    communication: str
    """Name of torch.distributed's back end."""
    package: str | None = None
    """Package to import before torch knows the device."""
    fused_adamw: bool = False
    """Whether `torch.optim.AdamW(fused=True)` runs."""
    float16: bool = False
    """Whether float16 with loss scaling is worth offering."""


BACK_ENDS = {
    "cpu": BackEnd(communication="gloo", fused_adamw=True),
    "cuda": BackEnd(communication="nccl", fused_adamw=True, float16=True),
    "npu": BackEnd(communication="hccl", package="torch_npu", float16=True),
    "xpu": BackEnd(communication="xccl", fused_adamw=True),
    "mps": BackEnd(communication="gloo"),
}

# Dense 16-bit floating-point operations a second, as the vendors print them, by a part of the device's name.
PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "H800": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "4090": 165e12,
    "Ascend910B": 320e12,
}

# Options of glibc's mallopt (malloc.h): free memory at the heap's end beyond which it is given back, and the number of
# blocks that may lie outside the heap.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes what only one may write."""
        return self.rank == 0


def read_world() -> World:
    """This process's place, as `torchrun` or Slurm's wrapper says in the environment."""
    return World(
        rank=int(os.environ.get("RANK", 0)),
        size=int(os.environ.get("WORLD_SIZE", 1)),
        local_rank=int(os.environ.get("LOCAL_RANK", 0)),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
    )


def back_end(device: torch.device) -> BackEnd:
    """The entry of `device`'s kind; ValueError for a kind that nobody has described."""
    if device.type not in BACK_ENDS:
        raise ValueError(f"devices.device: no back end is known for {device.type!r}; known: {', '.join(BACK_ENDS)}")
    return BACK_ENDS[device.type]


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device called `name` ('auto' takes torch's accelerator, else the CPU), made current for this process."""
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        name = found.type if found is not None else "cpu"
    kind, _, index = name.partition(":")
    if kind not in BACK_ENDS:
        raise ValueError(f"devices.device: expected auto or one of {', '.join(BACK_ENDS)}, got {name!r}")
    if kind == "cpu":
        return torch.device("cpu")
    package = BACK_ENDS[kind].package
    if package is not None:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ValueError(f"devices.device: {name} needs the package {package}: {error}") from error
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None or found.type != kind:
        raise ValueError(
            f"devices.device: {name} was asked for, but this machine has {found.type if found else 'no accelerator'}"
        )
    number, there = int(index) if index else local_rank, torch.accelerator.device_count()
    if number >= there:
        raise ValueError(
            f"devices.device: {kind}:{number} was asked for, but this machine has {there} of them; start that many "
            "processes on it"
        )
    device = torch.device(kind, number)
    torch.accelerator.set_device_index(device)
    return device


def set_threads(threads: int, world: World) -> int:
    """Fix the threads of this process on the CPU and return their number; 0 shares the cores at hand.

    Sums split over another number of threads round differently, so a run keeps its number to stay bitwise the same.
    """
    if threads == 0:
        # macOS does not say which of the cores a process may use.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, cores // world.local_size)
    torch.set_num_threads(threads)
    return threads


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU with glibc, keep freed blocks in the process.

    By default large ones go back to the kernel, which zeroes their pages when they are asked for again: a twentieth of
    a step of a small model.
    """
    if device.type != "cpu" or not hasattr(ctypes.CDLL(None), "mallopt"):
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(M_MMAP_MAX, 0)


def join_processes(device: torch.device, world: World) -> None:
    """Start torch.distributed when the run has more than one process."""
    if world.size > 1 and not dist.is_initialized():
        dist.init_process_group(
            back_end(device).communication,
            rank=world.rank,
            world_size=world.size,
            timeout=datetime.timedelta(minutes=10),
        )


def leave_processes() -> None:
    """Stop torch.distributed if it runs."""
    if dist.is_initialized():
        gc.collect()  # a sharded model is full of cycles, and one that outlives its process group aborts at exit
        dist.destroy_process_group()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """The most bytes held at once: the device's allocations, or on a CPU the process's resident memory."""
    if device.type == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return int(torch.accelerator.max_memory_allocated(device))


def peak_flops(device: torch.device) -> float | None:
    """The device's dense 16-bit operations a second, or None when it is not in the table."""
    if device.type == "cpu":
        return None
    try:
        name = torch.get_device_module(device).get_device_name(device)
    except (AttributeError, RuntimeError):
        return None
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)
