"""Rotary position embedding (RoPE, arXiv 2104.09864) over one position a token, or over two.

A pair of dimensions (a, b) turns by the angle position * base^(-2i/d): (a cos - b sin, b cos + a sin). The pair is
dimensions (i, i + d/2) in the half layout (GLM-130B, GLM-4.5) and (2i, 2i + 1) in the interleaved one (GLM-5).
Positions may repeat: GLM-130B gives every token of a blank the position of its mask. Angles are kept in float32 and the
rotation is done there, since bfloat16 cannot tell neighbouring positions apart beyond a few hundred.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Layout = Literal["half", "interleaved"]


@dataclass(frozen=True)
class Rotation:
    """The angles of a batch, computed once for all layers. R rotated dimensions, A positions a token."""

    cosine: Tensor
    """(B, 1, S, A, R / 2A) float32."""
    sine: Tensor
    """(B, 1, S, A, R / 2A) float32."""
    layout: Layout

    def apply(self, states: Tensor) -> Tensor:
        """Rotate the first R of the last dimension of (B, H, S, D); the others pass."""
        axes, pairs = self.cosine.shape[-2:]
        rotated = 2 * axes * pairs
        # split, whose backward pass joins; slices would each fill a gradient of the whole width.
        turning, passing = states.split((rotated, states.shape[-1] - rotated), dim=-1)
        turned: Tensor = _Turn.apply(turning, self.cosine, self.sine, self.layout)
        return torch.cat((turned, passing), dim=-1) if passing.shape[-1] else turned


class _Turn(torch.autograd.Function):
    """A rotation, whose gradient is turned back by the same angles: a third of what autograd would do."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cosine: Tensor, sine: Tensor, layout: Layout) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        ctx.layout = layout
        return _turned(states, cosine, sine, layout)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        cosine, sine = ctx.saved_tensors
        return _turned(gradients[0], cosine, -sine, ctx.layout), None, None, None


def _turned(states: Tensor, cosine: Tensor, sine: Tensor, layout: Layout) -> Tensor:
    """(B, H, S, R) turned by angles (B, 1, S, A, R / 2A)."""
    axes, pairs = cosine.shape[-2:]
    turning = states.to(torch.float32, memory_format=torch.contiguous_format).unflatten(-1, (axes, 2 * pairs))
    if layout == "half":
        a, b = turning.chunk(2, dim=-1)
        turned = torch.cat((a * cosine - b * sine, b * cosine + a * sine), dim=-1)
    elif states.device.type == "cpu" and not torch.compiler.is_compiling():
        # One product of complex numbers, which are adjacent pairs; not every device has them.
        numbers = torch.view_as_complex(turning.contiguous().unflatten(-1, (pairs, 2)))
        turned = torch.view_as_real(numbers * torch.complex(cosine, sine)).flatten(-2)
    else:
        a, b = turning.unflatten(-1, (pairs, 2)).unbind(dim=-1)
        turned = torch.stack((a * cosine - b * sine, b * cosine + a * sine), dim=-1).flatten(-2)
    return turned.flatten(-2).to(states.dtype)


def rotation(positions: Tensor, rotary_dim: int, base: float, layout: Layout) -> Rotation:
    """Angles for (B, S) positions, or for (B, 2, S): then each half of the rotated dimensions turns by its own
    position, with the frequencies of a head of that width (SAT's position_encoding_2d)."""
    axes = 1 if positions.dim() == 2 else positions.shape[1]
    width = rotary_dim // axes
    steps = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32)
    frequencies = base ** (-steps / width)
    angles = positions.reshape(positions.shape[0], axes, -1, 1).float() * frequencies
    angles = angles.transpose(1, 2).unsqueeze(1)
    return Rotation(cosine=angles.cos(), sine=angles.sin(), layout=layout)
