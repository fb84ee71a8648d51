"""The gated feed-forward of a dense layer (arXiv 2002.05202): GeGLU in GLM-130B, SwiGLU in GLM-4.5 and GLM-5."""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers import Linear

GATES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[..., Tensor]]] = {
    "geglu": (F.gelu, torch.ops.aten.gelu_backward.grad_input),
    "swiglu": (F.silu, torch.ops.aten.silu_backward.grad_input),
}
"""The activation, and its backward pass (of a gradient and the activation's input) into a given tensor."""


class _Gated(torch.autograd.Function):
    """activation(gate) * up of two halves side by side, whose gradients are written side by side: autograd would
    compute them apart and copy both into one."""

    @staticmethod
    def forward(ctx: Any, halves: Tensor, kind: Literal["geglu", "swiglu"], gate_first: bool) -> Tensor:
        gate, up = _gate_and_up(halves, gate_first)
        activated = GATES[kind][0](gate)
        ctx.save_for_backward(halves, activated)
        ctx.kind, ctx.gate_first = kind, gate_first
        return activated * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        halves, activated = ctx.saved_tensors
        (gradient,) = gradients
        gate, up = _gate_and_up(halves, ctx.gate_first)
        to_halves = torch.empty_like(halves)
        to_gate, to_up = _gate_and_up(to_halves, ctx.gate_first)
        torch.mul(gradient, activated, out=to_up)
        GATES[ctx.kind][1](gradient * up, gate, grad_input=to_gate)
        return to_halves, None, None


def _gate_and_up(halves: Tensor, gate_first: bool) -> tuple[Tensor, Tensor]:
    first, second = halves.chunk(2, dim=-1)
    return (first, second) if gate_first else (second, first)


def gated(halves: Tensor, kind: Literal["geglu", "swiglu"], gate_first: bool = True) -> Tensor:
    """activation(gate) * up, (..., 2 I) to (..., I)."""
    if torch.compiler.is_compiling():  # which joins the parts itself
        gate, up = _gate_and_up(halves, gate_first)
        return GATES[kind][0](gate) * up
    result: Tensor = _Gated.apply(halves, kind, gate_first)
    return result


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
        self.kind = kind
        self.gate_first = gate == "first"

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., hidden) to (..., hidden)."""
        output: Tensor = self.down_proj(gated(self.gate_up_proj(hidden_states), self.kind, self.gate_first))
        return output


def build_feed_forward(config: ModelConfig) -> FeedForward:
    """The feed-forward of a dense layer."""
    dense = config.feed_forward
    return FeedForward(config.hidden_size, dense.inner_size, dense.kind, dense.bias, dense.gate)
