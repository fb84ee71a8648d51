"""Fill accuracy: how often the tokens of held-out blanks are the model's first choice.

The blanks are drawn as in training (`[MASK]`, arXiv 2103.10360 section 2.1) from held-out documents, with one fixed
seed, so that every model of one tokenizer and objective sees the same ones. A token counts as right when it is the
likeliest given the context and the blank's tokens before it; a blank counts when all of its tokens and its end do.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evaluation.bits_per_byte import language_of
from objectives.blank_infilling import BlankInfilling, source_stride
from objectives.config import ObjectiveConfig
from objectives.example import Batch
from objectives.source import SourceRows
from tokenizer.load import Tokenizer

SEED = 20220807


def blank_rows(
    documents: Iterable[NDArray[np.integer]], objective: ObjectiveConfig, window: int, tokenizer: Tokenizer, rows: int
) -> Batch | None:
    """At most `rows` rows of documents with blanks in them, or None when the text does not fill one row."""
    blanks = BlankInfilling(
        dataclasses.replace(objective.blank_infilling, mask_share=1.0, sentence_share=0.0, document_share=0.0),
        window,
        tokenizer.special,
    )
    length = source_stride(objective.blank_infilling, "mask", window)
    pieces, total = [], 0
    for document in documents:
        pieces.append(np.asarray(document))
        total += len(document)
        if total >= rows * length:
            break
    rows = min(rows, total // length)
    if rows == 0:
        return None
    tokens = np.concatenate(pieces)[: rows * length].reshape(rows, length)
    ends = np.cumsum([len(piece) for piece in pieces])
    source = SourceRows(tokens, ends[ends <= rows * length], np.zeros(rows, np.bool_))
    return blanks.build("mask", source, np.arange(SEED, SEED + rows, dtype=np.uint64))


@torch.no_grad()
def score_blanks(model: nn.Module, batch: Batch, device: torch.device, rows_at_once: int = 4) -> dict[str, float]:
    """Share of right tokens and of right blanks, ends included."""
    right, total, right_blanks, blanks = 0, 0, 0, 0
    for start in range(0, len(batch.tokens), rows_at_once):
        part = slice(start, start + rows_at_once)
        names = ("tokens", "positions", "document", "context_end")
        inputs = {name: torch.from_numpy(getattr(batch, name)[part].astype(np.int64)).to(device) for name in names}
        best = model(**inputs).logits.argmax(dim=-1).cpu().numpy()
        scored = batch.loss_weights[part] > 0
        hit = (best == batch.targets[part])[scored]
        # Spans lie end to end in Part B; each begins where its input is <sop>, the first input of Part B.
        begins = np.flatnonzero(batch.tokens[part][scored] == batch.tokens[part][scored][0])
        whole = np.logical_and.reduceat(hit, begins)
        right, total = right + int(hit.sum()), total + len(hit)
        right_blanks, blanks = right_blanks + int(whole.sum()), blanks + len(whole)
    return {"tokens": right / total, "blanks": right_blanks / blanks, "count": blanks}


def fill_accuracy(
    model: nn.Module,
    documents: Mapping[str, Iterable[NDArray[np.integer]]],
    objective: ObjectiveConfig,
    window: int,
    tokenizer: Tokenizer,
    device: torch.device,
    *,
    rows_per_language: int = 64,
) -> dict[str, dict[str, float]]:
    """For each language, the share of right tokens and blanks. ValueError for a model that fills no blanks."""
    if objective.kind != "blank_infilling":
        raise ValueError("this run's model is causal and was not trained to fill blanks")
    by_language: dict[str, list[Iterable[NDArray[np.integer]]]] = {}
    for source in sorted(documents):
        by_language.setdefault(language_of(source), []).append(documents[source])
    result = {}
    was_training = model.training
    model.eval()
    for language, parts in by_language.items():
        chained = itertools.chain.from_iterable(parts)
        batch = blank_rows(chained, objective, window, tokenizer, rows_per_language)
        if batch is not None:
            result[language] = score_blanks(model, batch, device)
    model.train(was_training)
    if not result:
        raise ValueError("the validation shards are shorter than one row: no blank can be drawn")
    return result
