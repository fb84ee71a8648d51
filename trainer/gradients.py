"""The gradient's norm over all processes, and what clipping by it divides by."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from trainer.optimizers import local_part
from trainer.parallel import sum_over_processes

# What a parameter's name says of the part that it belongs to, in the order in which it is asked.
PARTS = (
    ("embedding", re.compile(r"embed_tokens|embed_positions|lm_head")),
    ("indexer", re.compile(r"indexer")),
    ("mtp", re.compile(r"^mtp\.")),
    ("router", re.compile(r"\.gate\.weight$")),
    ("experts", re.compile(r"experts")),
    ("norm", re.compile(r"norm")),
    ("attention", re.compile(r"attn|attention")),
    ("feed_forward", re.compile(r"")),
)

PIECE = 1 << 18
"""Elements of a dot product: the error of one over millions is a hundred times as large."""


def part_of(name: str) -> str:
    """Which part of the model a parameter belongs to."""
    return next(part for part, pattern in PARTS if pattern.search(name))


@torch.no_grad()
def gradient_norms(model: nn.Module, loss_scale: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The norm of the whole gradient and of each part's, over all processes, with the loss scale taken out."""
    squares: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            squares.setdefault(part_of(name), []).append(local_part(parameter.grad))
    parts = list(squares)
    sums = torch.stack([_sum_of_squares(squares[part]) for part in parts])
    sums = sum_over_processes(sums)
    norms = sums.sqrt() / loss_scale
    return sums.sum().sqrt() / loss_scale, dict(zip(parts, norms, strict=True))


def _sum_of_squares(tensors: list[Tensor]) -> Tensor:
    """Of all their elements. torch's norm on the CPU runs on one thread and is 6e-5 off for three million elements; a
    sum of dot products of pieces runs on all and is not."""
    if tensors[0].device.type == "cpu":
        pieces = (piece for tensor in tensors for piece in tensor.flatten().split(PIECE))
        return torch.stack([torch.dot(piece, piece) for piece in pieces]).sum()
    return torch.stack(torch._foreach_norm(tensors)).square().sum()


@torch.no_grad()
def clip_divisor(norm: Tensor, largest: float, loss_scale: Tensor) -> Tensor:
    """What to divide gradients by so that their norm, which is `norm` without the loss scale, is at most `largest`
    (0: as it is), and the loss scale is taken out. The optimiser divides while it reads them, which saves a pass."""
    factor = torch.ones_like(norm) if largest == 0 else ((norm + 1e-6) / largest).clamp(min=1.0)
    return factor * loss_scale
