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
    """RMSNorm with its backward pass written out: a third of the passes over memory that autograd would make.

    Its input is kept as it came, so that bfloat16 costs no second copy in float32.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, eps: float) -> Tensor:
        hidden = states.float()
        norm = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        scale = norm.square_().div_(hidden.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(states, weight, scale)
        normed = hidden * scale if states.dtype == torch.float32 else hidden.mul_(scale)
        return normed.mul_(weight).to(states.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        states, weight, scale = ctx.saved_tensors
        size = states.shape[-1]
        hidden, gradient = (rows.float().reshape(-1, size) for rows in (states, *gradients))
        scale = scale.reshape(-1, 1)
        # What is summed over a row (for its scale) and over all rows (for the weight) is one product, which two
        # products of a matrix with a vector read.
        product = gradient * hidden
        along = torch.mv(product, weight).unsqueeze(1) * scale.pow(3)
        to_weight = torch.mv(product.T, scale.squeeze(1))
        to_hidden = torch.mul(gradient, weight, out=product).mul_(scale).addcmul_(hidden, along, value=-1 / size)
        return to_hidden.view_as(states).to(states.dtype), to_weight, None


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) * weight (arXiv 1910.07467) over the last dimension."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        normed: Tensor = _RMSNorm.apply(hidden_states, self.weight.float(), self.eps)
        return normed


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
