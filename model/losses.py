"""Output projection and cross entropy, in chunks of tokens so that the logits are never whole.

For a vocabulary of 150,000 the float32 logits of one row of 4,096 tokens take 2.5 GB, and their gradient as much again;
a chunk at a time, recomputed in the backward pass, they take tens of megabytes at the cost of one more product.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 1 << 24
"""Logits computed at a time."""
CACHED_ELEMENTS = 1 << 18
"""Logits worked on at a time on a CPU (1 MB)."""
ROWS_MULTIPLE = 32
"""Scored tokens are projected in multiples of so many on a CPU: oneDNN compiles a kernel for each shape and keeps the
last thousand with their scratch memory, which for a number of tokens that is new in each row takes gigabytes."""


def chunked_cross_entropy(
    hidden_states: Tensor, weight: Tensor, targets: Tensor, chunk_elements: int = CHUNK_ELEMENTS
) -> tuple[Tensor, Tensor]:
    """Cross entropy of each token and its squared log normaliser (the z-loss), two float32 tensors of targets' shape.

    hidden_states (..., H) and weight (V, H) in the dtype of the product; the rest is float32. A negative target is not
    scored: both values are 0 and no gradient flows. On the CPU such tokens cost nothing; elsewhere selecting them would
    wait for the device.
    """
    flat_hidden, flat_targets = hidden_states.flatten(0, -2), targets.flatten()
    scored = flat_targets >= 0
    selected = scored.nonzero().squeeze(1) if flat_hidden.device.type == "cpu" else None
    if selected is not None:
        padded = F.pad(selected, (0, -len(selected) % ROWS_MULTIPLE))
        flat_hidden, flat_targets = flat_hidden[padded], flat_targets[padded]
    losses, squares = _in_chunks(flat_hidden, weight, flat_targets.clamp(min=0), chunk_elements)
    if selected is None:
        losses, squares = losses * scored, squares * scored
    else:
        empty = losses.new_zeros(scored.shape)
        count = len(selected)
        losses, squares = (empty.index_copy(0, selected, values[:count]) for values in (losses, squares))
    return losses.view(targets.shape), squares.view(targets.shape)


def _in_chunks(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_elements: int) -> tuple[Tensor, Tensor]:
    rows = max(1, chunk_elements // weight.shape[0])
    if len(targets) <= rows:
        return _cross_entropy(hidden, weight, targets)
    chunks = [
        checkpoint(_cross_entropy, hidden[i : i + rows], weight, targets[i : i + rows], use_reentrant=False)
        for i in range(0, len(targets), rows)
    ]
    return torch.cat([losses for losses, _ in chunks]), torch.cat([squares for _, squares in chunks])


def _cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = _CrossEntropy.apply(F.linear(hidden, weight), targets.long())
    return result


def _slices(logits: Tensor) -> Iterator[slice]:
    """Rows to compute in float32 at a time: as many as a CPU's cache holds, all of them elsewhere."""
    length = max(1, len(logits))
    rows = max(1, CACHED_ELEMENTS // logits.shape[1]) if logits.device.type == "cpu" else length
    return (slice(start, start + rows) for start in range(0, length, rows))


class _CrossEntropy(torch.autograd.Function):
    """Cross entropy and squared log normaliser of (T, V) logits, with one pass over V for the gradient of both.

    The logits are kept as they came; all else of their size is float32 and lives for a slice of rows.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        places = targets.unsqueeze(1)
        log_shares = (
            logits[rows].float().log_softmax(dim=-1).gather(1, places[rows]).squeeze(1) for rows in _slices(logits)
        )
        losses = -torch.cat(list(log_shares))
        # The log normaliser is the loss plus the target's logit.
        normalisers = losses + logits.gather(1, places).squeeze(1).float()
        ctx.save_for_backward(logits, places, normalisers)
        return losses, normalisers.square()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, places, normalisers = ctx.saved_tensors
        to_losses, to_squares = gradients
        to_shares = to_losses + 2 * normalisers * to_squares
        to_logits = torch.empty_like(logits)
        for rows in _slices(logits):
            shares = (logits[rows].float() - normalisers[rows, None]).exp_().mul_(to_shares[rows, None])
            to_logits[rows] = shares.scatter_add_(1, places[rows], -to_losses[rows, None])
        return to_logits, None
