"""Held-out bits per byte: how many bits a model needs for a byte of text that it has not seen.

Of each held-out window the first half is context and the second is scored (objectives/heldout.py), by `[gMASK]` for a
blank-infilling model and left to right for a causal one, so that the two families and any tokenizer compare. The bytes
are the scored tokens' own UTF-8 lengths; `<|endoftext|>` is neither scored nor counted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evaluation.processes import over_processes
from evaluation.target_loss import target_nats
from objectives.config import ObjectiveConfig
from objectives.example import Batch
from objectives.heldout import HeldoutRows, heldout_rows
from tokenizer.special_tokens import SpecialTokens


@dataclass
class HeldoutSet:
    """The rows that are scored, by language, made once and scored as often as wanted."""

    batches: dict[str, list[HeldoutRows]]
    """For each language, batches of rows."""

    @property
    def languages(self) -> list[str]:
        """The languages, in order."""
        return list(self.batches)

    def rows(self, language: str) -> int:
        """Number of rows of a language."""
        return sum(len(rows.batch.tokens) for rows in self.batches[language])


def language_of(source: str) -> str:
    """The language of a source folder's name: zh of zh-prose."""
    return source.split("-")[0]


def build_heldout_set(
    documents: Mapping[str, Iterable[NDArray[np.integer]]],
    objective: ObjectiveConfig,
    window: int,
    special: SpecialTokens,
    byte_lengths: NDArray[np.int32],
    *,
    rows_per_language: int | None = None,
    rows_in_batch: int = 8,
) -> HeldoutSet:
    """The rows of each source's documents (`zh-prose`, ...), joined by language; of each the first `rows_per_language`.

    ValueError where there is nothing to score.
    """
    by_language: dict[str, list[Iterable[NDArray[np.integer]]]] = {}
    for source in sorted(documents):
        by_language.setdefault(language_of(source), []).append(documents[source])
    batches: dict[str, list[HeldoutRows]] = {}
    for language, parts in by_language.items():
        chained = itertools.chain.from_iterable(parts)
        made = heldout_rows(chained, objective, window, special, byte_lengths, rows_in_batch=rows_in_batch)
        taken = list(made if rows_per_language is None else _first_rows(made, rows_per_language))
        if any(int(rows.target_bytes.sum()) for rows in taken):
            batches[language] = taken
    if not batches:
        raise ValueError("the validation shards hold no document of two tokens or more: nothing can be scored")
    return HeldoutSet(batches)


def _first_rows(batches: Iterable[HeldoutRows], count: int) -> Iterator[HeldoutRows]:
    """The batches that hold the first `count` rows, the last of them cut."""
    for rows in batches:
        yield HeldoutRows(Batch._make(array[:count] for array in rows.batch), rows.target_bytes[:count])
        count -= len(rows.target_bytes)
        if count <= 0:
            return


def token_nats(model: nn.Module, rows: HeldoutRows, device: torch.device) -> NDArray[np.float64]:
    """(B, S) nats of each scored target that stands for bytes, 0 elsewhere."""
    return target_nats(model, rows.batch, rows.target_bytes > 0, device)


def bits_per_byte(model: nn.Module, heldout: HeldoutSet, device: torch.device) -> dict[str, float]:
    """Bits per byte of each language, measured by all processes together.

    The model's mode (training or not) is put back afterwards.
    """
    was_training = model.training
    model.eval()
    items = [(language, rows) for language, batches in heldout.batches.items() for rows in batches]
    try:
        nats = over_processes(items, lambda item: [float(token_nats(model, item[1], device).sum())], 1, device)
    finally:
        model.train(was_training)
    return {
        language: sum(nats[[item[0] == language for item in items], 0].tolist()) / math.log(2) / scored_bytes(batches)
        for language, batches in heldout.batches.items()
    }


def scored_bytes(batches: Iterable[HeldoutRows]) -> int:
    """Bytes that the scored targets of some batches stand for."""
    return sum(int(rows.target_bytes.sum(dtype=np.int64)) for rows in batches)


def scored_tokens(batches: Iterable[HeldoutRows]) -> Iterator[NDArray[np.int32]]:
    """The scored targets that stand for bytes, batch by batch: what a model of tokens alone has to score."""
    for rows in batches:
        yield rows.batch.targets[rows.target_bytes > 0]
