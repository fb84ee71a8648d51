"""Continue a text: left to right for a causal model, by `[gMASK]` for a blank-infilling one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from inference.fill import fill, not_text
from inference.rows import Row
from inference.sampling import SamplingConfig, choose, next_log_probabilities
from model.transformer import Transformer
from objectives.config import ObjectiveConfig
from tokenizer.load import Tokenizer


@dataclass
class Continuation:
    """What the model wrote."""

    prompt: str
    text: str
    """The continuation alone."""
    tokens: int
    """Tokens of the continuation, without the end."""
    log_probability: float
    """Natural logarithm of the probability of all its tokens, and of the end where the model wrote one."""
    ended: bool
    """Whether the model ended the document by itself."""


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    objective: ObjectiveConfig,
    prompt: str,
    *,
    sampling: SamplingConfig | None = None,
    max_tokens: int = 64,
    max_positions: int | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    use_cache: bool = True,
) -> Continuation:
    """Go on after `prompt` for at most `max_tokens` (1 or more) tokens.

    ValueError for a prompt that is too long, and for an empty one with a causal model, which has learnt no first token.
    use_cache: keep keys and values, so that a token costs one token's work and not the whole row's.
    """
    if objective.kind == "blank_infilling":
        filled = fill(
            model, tokenizer, objective, f"{prompt}[gMASK]", sampling=sampling, max_tokens=max_tokens,
            max_positions=max_positions, seed=seed, device=device, use_cache=use_cache,
        )  # fmt: skip
        blank = filled.blanks[-1]
        chance = math.fsum(math.log(max(p, 1e-300)) for p in blank.probabilities)
        return Continuation(prompt, blank.text, len(blank.probabilities) - blank.ended, chance, blank.ended)
    device = device or torch.device("cpu")
    sampling = sampling or SamplingConfig()
    special = tokenizer.special
    ids = tokenizer.encode_prompt(prompt)
    if not ids:
        raise ValueError("the text is empty: a causal model goes on after a first token, of which it predicts the next")
    if max_positions is not None and len(ids) >= max_positions:
        raise ValueError(f"the prompt has {len(ids)} tokens, too many for the model's {max_positions} positions")
    room = max_tokens if max_positions is None else min(max_tokens, max_positions - len(ids))
    row = Row(list(ids), 0, cache=model.new_cache() if use_cache else None)
    forbidden = not_text(tokenizer, but=[special.endoftext])
    generator = torch.Generator().manual_seed(seed)
    written: list[int] = []
    chance, ended = 0.0, False
    while len(written) < room and not ended:
        scores = next_log_probabilities(model, row, device, forbidden)
        token = choose(scores, sampling, generator)
        chance += float(scores[token])
        ended = token == special.endoftext
        if not ended:
            written.append(token)
            row.append(token, len(row))
    return Continuation(prompt, tokenizer.decode(written), len(written), chance, ended)
