"""A row that grows: a context, then what the model writes, a token at a time, with the arrays that the model reads.

Blank infilling writes behind the corrupted text (Part A), as it was trained: `<sop>`, then the span, with positions
numbered as the run's objective says (objectives/layout.py). Causal models write behind their prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from model.cache import Cache
from objectives.layout import Numbering


@dataclass
class Row:
    """One document: `context` tokens that all see each other, then tokens that see what is before them."""

    tokens: list[int]
    context: int
    """Tokens at the start that are context; 0 for a causal model."""
    two_dimensional: bool = False
    first: list[int] = field(default_factory=list)
    """Position of each token (the first of two)."""
    second: list[int] = field(default_factory=list)
    """The second position, where there are two: 0 in the context, 1, 2, ... in a span."""

    cache: Cache | None = None
    """Keys and values of the row's first tokens, so that only the others are read (`Transformer.new_cache`)."""

    def __post_init__(self) -> None:
        self.first = list(range(len(self.tokens)))
        self.second = [0] * len(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def append(self, token: int, position: int, inner: int = 0) -> None:
        """Add a token that sees all before it."""
        self.tokens.append(token)
        self.first.append(position)
        self.second.append(inner)

    def inputs(self, device: torch.device) -> dict[str, Tensor]:
        """What the model reads, with one row: all of it, or what the cache does not hold."""
        length = len(self.tokens)
        past = 0 if self.cache is None else self.cache.length
        positions = np.array([self.first, self.second]) if self.two_dimensional else np.array(self.first)
        inputs = {
            "tokens": torch.tensor([self.tokens[past:]]),
            "positions": torch.from_numpy(positions[..., past:])[None],
        }
        if self.context and not past:
            inputs["document"] = torch.zeros(1, length, dtype=torch.int64)
            inputs["context_end"] = torch.full((1, length), self.context)
        return {name: tensor.to(device) for name, tensor in inputs.items()}


def span_position(numbering: Numbering, mask_position: int, row_position: int, number: int) -> tuple[int, int]:
    """The position (and the inner one) of a span's token `number` (0 is `<sop>`), which stands at `row_position`."""
    if numbering == "plain":
        return row_position, number + 1
    if numbering == "multi_task":
        return mask_position + number, number + 1
    return mask_position, number + 1
