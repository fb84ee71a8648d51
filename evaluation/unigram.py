"""The unigram model: the bits per byte of knowing how frequent each token is and nothing else.

Fitted on the very tokens that the run trains on, a language at a time (harder to beat than one of both), with one
added to each count so that no token is impossible. It scores the tokens that the model scores. A model whose bits per
byte are not below it has learnt nothing from context.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from evaluation.bits_per_byte import HeldoutSet, language_of, scored_bytes, scored_tokens

# Tokens counted at a time, so that a memory-mapped corpus is read and never held.
_BLOCK = 1 << 24


def count_tokens(parts: Iterable[NDArray[np.integer]], vocab_size: int) -> NDArray[np.int64]:
    """(vocab_size,) how often each token occurs in the arrays of ids."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for part in parts:
        for start in range(0, len(part), _BLOCK):
            counts += np.bincount(part[start : start + _BLOCK], minlength=vocab_size)
    return counts


def unigram_bits_per_byte(
    train: Mapping[str, Iterable[NDArray[np.integer]]], heldout: HeldoutSet, byte_lengths: NDArray[np.int32]
) -> dict[str, float]:
    """Bits per byte of each language of `heldout` under a unigram model of the training tokens of that language.

    `train` holds each source's arrays of ids (`zh-prose`, ...). Tokens that stand for no bytes are neither counted nor
    given probability. A language without training tokens gets the uniform model.
    """
    by_language: dict[str, NDArray[np.int64]] = {}
    for source, parts in train.items():
        counts = count_tokens(parts, len(byte_lengths))
        language = language_of(source)
        by_language[language] = by_language[language] + counts if language in by_language else counts
    result = {}
    for language, batches in heldout.batches.items():
        counts = np.where(byte_lengths > 0, by_language.get(language, 0) + np.int64(1), 0)
        with np.errstate(divide="ignore"):
            bits = -np.log2(counts / counts.sum())
        total = sum(math.fsum(bits[tokens].tolist()) for tokens in scored_tokens(batches))
        result[language] = total / scored_bytes(batches)
    return result
