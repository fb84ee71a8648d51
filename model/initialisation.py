"""Initial weights, each from a generator of its own, so that they depend on the seed and the tensor's name alone.

GLM-130B (arXiv 2210.02414, section 2.1 and table 11): Xavier-normal with DeepNorm's gain for the feed-forward, value
and output projections, standard deviation 0.0052 for the rest, biases zero. GLM-4.5 and GLM-5 publish no
initialisation: normal with the 0.02 of their released configurations.
"""

import zlib

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from model.config import ModelConfig

DEEPNORM_PROJECTIONS = ("gate_up_proj", "down_proj", "v_proj", "o_proj")
"""Linear maps that get DeepNorm's gain."""


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Fill every parameter and buffer of a materialised model in place, sharded (DTensor) or not.

    A sharded tensor is drawn whole on the CPU and cut, so that every layout of processes starts from the same weights.
    """
    for name, parameter in model.named_parameters():
        # One digest of both: the CPU's generator heeds 32 bits of a seed.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        values = initial_values(name, tuple(parameter.shape), config, generator)
        if isinstance(parameter, DTensor):
            values = distribute_tensor(values.to(parameter.device), parameter.device_mesh, parameter.placements)
        parameter.copy_(values)
    for name, buffer in model.named_buffers():
        buffer.fill_(config.embedding_gradient_shrink if name.endswith("embedding_gradient_shrink") else 0.0)


def initial_values(name: str, shape: tuple[int, ...], config: ModelConfig, generator: torch.Generator) -> Tensor:
    """A float32 tensor for the parameter of this name: norms 1, biases 0, matrices random."""
    *_, module, kind = ("", *name.split("."))
    if kind == "bias":
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    return torch.randn(shape, generator=generator) * _standard_deviation(name, module, shape, config)


def _standard_deviation(name: str, module: str, shape: tuple[int, ...], config: ModelConfig) -> float:
    gain = config.residual_gain
    stacked = name.rsplit(".", 1)[-1]
    if gain is not None and (module in DEEPNORM_PROJECTIONS or stacked in DEEPNORM_PROJECTIONS):
        return gain * float(2.0 / (shape[-1] + shape[-2])) ** 0.5
    return config.initial_std
