"""Muon's update of a matrix, and Muon Split's of each head: mathematics alone.

Muon (Jordan et al., 2024) replaces a matrix's momentum by the nearest semi-orthogonal matrix, found with a few
Newton-Schulz iterations of an odd quintic polynomial. The update is scaled by `rms * sqrt(max(rows, columns))`, which
gives it the root mean square `rms` that AdamW's updates have (Moonlight, arXiv 2502.16982; GLM-4.5, 2508.06471 section
2.4: 0.2), so that one learning rate serves both. GLM-5 (2602.15763, section 2.1) splits MLA's up-projections into their
heads first. What the papers leave open is decided here: the coefficients are Jordan's, momentum is Nesterov's, scaling
is per block that was orthogonalised, and a head's rotary rows stay with its other rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, about: singular values near 1. (..., rows, columns), each by itself."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16() if matrices.device.type != "cpu" else matrices.float()
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def scaled_update(momentum: Tensor, rms: float, steps: int = 5, block_rows: tuple[int, ...] | None = None) -> Tensor:
    """The update of one matrix (rows, columns) or of each of a stack (experts, rows, columns), of the same shape.

    `block_rows` are the rows of the blocks that are orthogonalised by themselves; they repeat down the matrix. With
    Muon Split a head's rows lie together: (256,) for GLM-5's queries, (192, 256) for its keys and values. Two matrices
    that are kept as one, such as a gate over an up-projection of n rows each, are (n, n).
    """
    rows, columns = momentum.shape[-2:]
    blocks = block_rows or (rows,)
    if rows % sum(blocks):
        raise ValueError(f"a matrix of {rows} rows does not divide into blocks of {blocks} rows")
    groups = momentum.unflatten(-2, (rows // sum(blocks), sum(blocks)))
    updates = [
        orthogonalize(block, steps) * (rms * max(block.size(-2), columns) ** 0.5)
        for block in groups.split(blocks, dim=-2)
    ]
    return torch.cat(updates, dim=-2).view_as(momentum)
