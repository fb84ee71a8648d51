"""The small parts: linear maps and norms whose float32 weights are computed in the dtype of their input.

Casting the weight where it is used replaces autocast: what runs in which precision is read off the code. Norms compute
in float32 and return their input's dtype.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import NormConfig

COMPUTE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Linear(nn.Linear):
    """`nn.Linear` computed in its input's dtype, whatever its weight is kept in."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that nn.Linear gives it)
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)


class _RMSNorm(torch.autograd.Function):
    """RMSNorm with its backward pass written out: a third of the passes over memory that autograd would make."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.rsqrt(torch.linalg.vecdot(hidden, hidden).unsqueeze(-1) / hidden.shape[-1] + eps)
        ctx.save_for_backward(hidden, weight, scale)
        return (hidden * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, weight, scale = ctx.saved_tensors
        (gradient,) = gradients
        normed = hidden * scale
        weighted = gradient * weight
        along = torch.linalg.vecdot(weighted, normed).unsqueeze(-1) / hidden.shape[-1]
        to_weight = (gradient * normed).flatten(0, -2).sum(dim=0)
        return torch.addcmul(weighted, normed, along, value=-1).mul_(scale), to_weight, None


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) * weight (arXiv 1910.07467) over the last dimension."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        normed: Tensor = _RMSNorm.apply(hidden_states.float(), self.weight.float(), self.eps)
        return normed.to(hidden_states.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation with weight and bias over the last dimension."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(hidden_states.float(), weight.shape, weight, bias, self.eps).to(hidden_states.dtype)


def build_norm(config: NormConfig, size: int) -> nn.Module:
    """The norm that the configuration asks for, over `size` dimensions."""
    return LayerNorm(size, config.eps) if config.kind == "layer_norm" else RMSNorm(size, config.eps)
