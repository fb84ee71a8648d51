"""The small parts: linear maps and norms whose float32 weights are computed in the dtype of their input.

Casting the weight where it is used replaces autocast: what runs in which precision is read off the code. Norms compute
in float32 and return their input's dtype.
"""

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


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) * weight (arXiv 1910.07467) over the last dimension."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        normed = F.rms_norm(hidden_states.float(), self.weight.shape, self.weight.float(), self.eps)
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
