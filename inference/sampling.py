"""The next token: the model's distribution, and a choice from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inference.rows import Row


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a token is chosen."""

    temperature: float = 0.0
    """0 takes the likeliest token; above, tokens are drawn, the flatter the higher."""
    top_k: int = 0
    """Draw among this many likeliest tokens; 0 among all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that have this much probability together."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature: expected 0 or more, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k: expected 0 or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected more than 0 and at most 1, got {self.top_p}")


@torch.no_grad()
def next_log_probabilities(model: nn.Module, row: Row, device: torch.device, forbidden: Sequence[int]) -> Tensor:
    """(V,) log probabilities of the token after the row's last, in float32 on the CPU.

    `forbidden` tokens are left out and the rest share their probability. A row's cache takes in what is read.
    """
    logits = model(**row.inputs(device), cache=row.cache).logits[0, -1].float().cpu()
    if len(forbidden):
        logits[torch.as_tensor(list(forbidden))] = float("-inf")
    return logits.log_softmax(dim=-1)


def choose(log_probabilities: Tensor, config: SamplingConfig, generator: torch.Generator) -> int:
    """The id of a token, from (V,) log probabilities."""
    if config.temperature == 0:
        return int(log_probabilities.argmax())
    # From the likeliest, which is 0 at any temperature, so that a very low one leaves it and not a row of -inf.
    scaled, order = ((log_probabilities - log_probabilities.max()).double() / config.temperature).sort(descending=True)
    if config.top_k:
        scaled, order = scaled[: config.top_k], order[: config.top_k]
    probabilities = scaled.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    probabilities = torch.where(before < config.top_p, probabilities, 0.0)
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])
