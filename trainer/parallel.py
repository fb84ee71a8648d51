"""More than one process around a finished model: FSDP2, and the few sums that a step takes over all processes.

Parameters, gradients and optimiser state are sharded, a block at a time (Zhao et al., arXiv 2304.11277; PyTorch's
`fully_shard`). The model itself knows nothing of it. FSDP2 divides gradients by the number of processes; the loss is
multiplied by it before the backward pass, so that the sum over all targets is what is divided by their weight.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from model.build import build_model
from model.config import ModelConfig
from model.initialisation import initialise
from model.transformer import Transformer
from trainer.blocks import wrap_blocks
from trainer.config import DeviceConfig
from trainer.devices import World


def build_sharded(
    config: ModelConfig, device: torch.device, seed: int, world: World, devices: DeviceConfig | None = None
) -> Transformer:
    """The model with its initial weights on `device`, sharded over all processes when there are more than one.

    The weights are the same for any number of processes. `devices` says whether layers are recomputed and compiled.
    """
    devices = devices or DeviceConfig()
    if world.size == 1:
        model = build_model(config, device, seed)
        wrap_blocks([*model.layers, *model.mtp], devices)
        return model
    # FSDP2 warns that losses are views, which an operation in place would break; nobody changes a loss in place here.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (world.size,), mesh_dim_names=("data",))
    model = build_model(config, "meta", seed)
    wrap_blocks([*model.layers, *model.mtp], devices)
    for block in [*model.layers, *model.mtp]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device=device)
    initialise(model, config, seed)
    return model


def synchronize_gradients(model: nn.Module, wanted: bool) -> None:
    """Whether the next backward pass reduces gradients over processes: only the last micro-batch of a step has to."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(wanted)


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of `values` over all processes, in place; `values` itself when there is one."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


def broadcast_object(value: object) -> object:
    """The first process's `value`, on every process."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: object) -> list[Any]:
    """Each process's `value`, in the order of ranks, on every process."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def on_first(world: World, act: Callable[[], object]) -> None:
    """Let the first process act while the others wait; its user's error is every process's.

    One that ended alone would leave the others with a broken connection and their tracebacks beside its line.
    """
    problem: object = None
    if world.is_first:
        try:
            act()
        except (ValueError, OSError) as error:
            problem = error
    problem = broadcast_object(problem)
    if isinstance(problem, Exception):
        raise problem


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
