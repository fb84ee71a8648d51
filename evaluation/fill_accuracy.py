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
from evaluation.processes import over_processes
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
    # Without the noise of training: a token is asked for behind the true ones.
    config = dataclasses.replace(
        objective.blank_infilling, mask_share=1.0, sentence_share=0.0, document_share=0.0, decoder_noise=0.0
    )
    blanks = BlankInfilling(config, window, tokenizer.special)
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
def score_rows(model: nn.Module, batch: Batch, part: slice, device: torch.device) -> tuple[int, int, int, int]:
    """Of some rows: right tokens, tokens, right blanks, blanks; ends included."""
    scored = batch.loss_weights[part] > 0
    if not scored.any():
        return 0, 0, 0, 0
    names = ("tokens", "positions", "document", "context_end")
    inputs = {name: torch.from_numpy(getattr(batch, name)[part].astype(np.int64)).to(device) for name in names}
    best = model(**inputs).logits.argmax(dim=-1).cpu().numpy()
    hit = (best == batch.targets[part])[scored]
    # Spans lie end to end in Part B; each begins where its input is <sop>, the first input of Part B.
    begins = np.flatnonzero(batch.tokens[part][scored] == batch.tokens[part][scored][0])
    whole = np.logical_and.reduceat(hit, begins)
    return int(hit.sum()), len(hit), int(whole.sum()), len(whole)


def score_blanks(
    model: nn.Module, blanks: Mapping[str, Batch], device: torch.device, rows_at_once: int = 4
) -> dict[str, dict[str, float]]:
    """For each language, the share of right tokens and of right blanks, ends included, by all processes together.

    The model's mode (training or not) is put back afterwards.
    """
    items = [
        (language, slice(start, start + rows_at_once))
        for language, batch in blanks.items()
        for start in range(0, len(batch.tokens), rows_at_once)
    ]
    was_training = model.training
    model.eval()
    try:
        counts = over_processes(items, lambda item: score_rows(model, blanks[item[0]], item[1], device), 4, device)
    finally:
        model.train(was_training)
    result = {}
    for language in blanks:
        right, total, right_blanks, all_blanks = counts[[item[0] == language for item in items]].sum(axis=0).tolist()
        result[language] = {"tokens": right / total, "blanks": right_blanks / all_blanks, "count": int(all_blanks)}
    return result


def build_blanks(
    documents: Mapping[str, Iterable[NDArray[np.integer]]],
    objective: ObjectiveConfig,
    window: int,
    tokenizer: Tokenizer,
    *,
    rows_per_language: int = 64,
) -> dict[str, Batch]:
    """Each language's rows of blanks. ValueError for a model that fills no blanks, or text too short for a row."""
    if objective.kind != "blank_infilling":
        raise ValueError("this run's model is causal and was not trained to fill blanks")
    by_language: dict[str, list[Iterable[NDArray[np.integer]]]] = {}
    for source in sorted(documents):
        by_language.setdefault(language_of(source), []).append(documents[source])
    result = {}
    for language, parts in by_language.items():
        chained = itertools.chain.from_iterable(parts)
        batch = blank_rows(chained, objective, window, tokenizer, rows_per_language)
        if batch is not None and batch.loss_weights.any():
            result[language] = batch
    if not result:
        raise ValueError("the validation shards are shorter than one row: no blank can be drawn")
    return result
