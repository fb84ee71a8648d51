"""The gated feed-forward of a dense layer (arXiv 2002.05202): GeGLU in GLM-130B, SwiGLU in GLM-4.5 and GLM-5."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers import Linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"geglu": F.gelu, "swiglu": F.silu}


class FeedForward(nn.Module):
    """down(activation(gate) * up), gate and up being the halves of one projection.

    `gate` says which half is activated: the first (GLM-5), or the second (GLM-130B's own code, SAT).
    """

    def __init__(
        self,
        hidden_size: int,
        inner_size: int,
        kind: Literal["geglu", "swiglu"],
        bias: bool = False,
        gate: Literal["first", "second"] = "first",
    ) -> None:
        super().__init__()
        self.gate_up_proj = Linear(hidden_size, 2 * inner_size, bias=bias)
        self.down_proj = Linear(inner_size, hidden_size, bias=bias)
        self.activation = ACTIVATIONS[kind]
        self.gate_first = gate == "first"

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., hidden) to (..., hidden)."""
        first, second = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        gate, up = (first, second) if self.gate_first else (second, first)
        output: Tensor = self.down_proj(self.activation(gate) * up)
        return output


def build_feed_forward(config: ModelConfig) -> FeedForward:
    """The feed-forward of a dense layer."""
    dense = config.feed_forward
    return FeedForward(config.hidden_size, dense.inner_size, dense.kind, dense.bias, dense.gate)
