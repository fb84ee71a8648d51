"""Fill the blanks of a text: GLM's blank infilling (arXiv 2103.10360, section 2.1; 2210.02414, section 2.2).

The text with its `[MASK]`, `[sMASK]` or `[gMASK]` is the context; behind it the model writes each blank in turn, from
`<sop>` to `<eop>`, seeing the blanks filled before. `[gMASK]` was trained on suffixes that no `<eop>` closes,
so it ends with the document. The probability of a blank is the product of its tokens' and its end's; tokens that can
stand in no text (special ones and padding) get none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from inference.rows import Row, span_position
from inference.sampling import SamplingConfig, choose, next_log_probabilities
from model.transformer import Transformer
from objectives.blank_infilling import BlankTask, numbering_of
from objectives.config import ObjectiveConfig
from tokenizer.load import Tokenizer


@dataclass
class Blank:
    """One blank as the model filled it."""

    text: str
    """What stands there."""
    tokens: list[str]
    """Its tokens, and the end."""
    probabilities: list[float]
    """Probability of each, given all before it."""
    ended: bool
    """Whether the model ended it by itself."""

    @property
    def probability(self) -> float:
        """The product."""
        return math.exp(math.fsum(math.log(max(p, 1e-300)) for p in self.probabilities))


@dataclass
class Filled:
    """A text with its blanks filled."""

    prompt: str
    text: str
    blanks: list[Blank] = field(default_factory=list)


def mask_tasks(tokenizer: Tokenizer) -> dict[int, BlankTask]:
    """Which task each mask token belongs to."""
    special = tokenizer.special
    return {special.mask: "mask", special.smask: "sentence", special.gmask: "document"}


def not_text(tokenizer: Tokenizer, but: Sequence[int]) -> list[int]:
    """Ids that stand for no bytes, without those in `but`: a filled blank has none of them."""
    return np.setdiff1d(np.flatnonzero(tokenizer.byte_lengths == 0), but).tolist()


def check_can_fill(objective: ObjectiveConfig) -> None:
    """ValueError for a model that was not trained to fill blanks."""
    if objective.kind != "blank_infilling":
        raise ValueError("this run's model is causal: it continues text (generate) and was not trained to fill blanks")


def fill(
    model: Transformer,
    tokenizer: Tokenizer,
    objective: ObjectiveConfig,
    text: str,
    *,
    sampling: SamplingConfig | None = None,
    max_tokens: int = 32,
    max_positions: int | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    use_cache: bool = True,
) -> Filled:
    """Fill every blank of `text`, from left to right, with at most `max_tokens` (1 or more) tokens each.

    ValueError when it has none or is too long. max_positions: the longest row; blanks end early rather than pass it.
    use_cache: keep keys and values, so that a token costs one token's work and not the whole row's.
    """
    check_can_fill(objective)
    device = device or torch.device("cpu")
    sampling = sampling or SamplingConfig()
    ids = tokenizer.encode_prompt(text)
    tasks = mask_tasks(tokenizer)
    places = [index for index, token in enumerate(ids) if token in tasks]
    if not places:
        raise ValueError(f"{text!r}: has no blank; write [MASK] where something is missing, or [gMASK] to go on")
    if max_positions is not None and len(ids) + 2 * len(places) > max_positions:
        raise ValueError(f"the text has {len(ids)} tokens, too many for the model's {max_positions} positions")
    row = Row(list(ids), len(ids), objective.blank_infilling.positions == "glm")
    row.cache = model.new_cache() if use_cache else None
    generator = torch.Generator().manual_seed(seed)
    spans: dict[int, list[int]] = {}
    blanks = []
    for number, place in enumerate(places, start=1):
        # Beside its own <sop>, a blank leaves each later one room for <sop> and a token.
        reserved = 1 + 2 * (len(places) - number)
        room = max_tokens if max_positions is None else min(max_tokens, max_positions - len(row) - reserved)
        span, blank = _fill_one(
            model, tokenizer, objective, row, place, tasks[ids[place]], sampling, room, generator, device
        )
        spans[place] = span
        blanks.append(blank)
    whole = [token for index, own in enumerate(ids) for token in spans.get(index, [own])]
    return Filled(text, tokenizer.decode(whole), blanks)


def _fill_one(
    model: Transformer,
    tokenizer: Tokenizer,
    objective: ObjectiveConfig,
    row: Row,
    place: int,
    task: BlankTask,
    sampling: SamplingConfig,
    max_tokens: int,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[list[int], Blank]:
    """Write one blank behind `row`; returns its ids without the end, and what is said of it."""
    special = tokenizer.special
    end = special.endoftext if task == "document" else special.eop
    forbidden = not_text(tokenizer, but=[end])
    numbering = numbering_of(objective.blank_infilling, task)
    row.append(special.sop, *span_position(numbering, place, len(row), 0))
    span: list[int] = []
    names: list[str] = []
    probabilities: list[float] = []
    while len(span) < max_tokens:
        scores = next_log_probabilities(model, row, device, forbidden)
        token = choose(scores, sampling, generator)
        probabilities.append(math.exp(float(scores[token])))
        names.append(tokenizer.decode([token]))
        if token == end:
            break
        span.append(token)
        row.append(token, *span_position(numbering, place, len(row), len(span)))
    ended = len(span) < len(probabilities)
    return span, Blank(tokenizer.decode(span), names, probabilities, ended)
