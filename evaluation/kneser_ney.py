"""An n-gram model with modified Kneser-Ney smoothing: what counting alone gives for the tokens that a run has read.

Chen and Goodman 1998, sections 2.7 and 4.1.6: p(w | h) = (c(hw) - D(c(hw))) / c(h) + γ(h) p(w | h without its first
token), with three discounts an order. The highest order counts occurrences, the lower ones the different tokens that
stand before; n-grams that begin a document have none and keep their occurrences (as in KenLM, Heafield et al. 2013).
The lowest order falls back to a uniform distribution over the tokens that stand for bytes; other tokens are neither
counted nor given probability, as with the unigram. No history reaches into another document.

An n-gram is a number: its place among the sorted different n-grams of its order, whose key is (the number of its first
n - 1 tokens) x (vocabulary + 1) + its last token. So five tokens of any vocabulary fit in 64 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.bits_per_byte import HeldoutSet, language_of, scored_bytes

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass
class Level:
    """The n-grams of one order."""

    keys: Ints
    """(G,) sorted keys."""
    counts: Ints
    """(G,) occurrences, or the different tokens before."""
    discounts: Floats
    """(4,) what is taken off a count of 0, 1, 2, and 3 or more."""
    totals: Ints
    """(contexts,) counts of all n-grams that begin with each context."""
    kept_back: Floats
    """(contexts,) discounts of all n-grams that begin with each context."""

    def find(self, keys: Ints) -> Ints:
        """The number of each key, -1 for one that was never seen."""
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, place, -1)


class KneserNey:
    """The model of one text: `KneserNey(order, byte_lengths).fit(documents).log2_probabilities(...)`."""

    def __init__(self, order: int, byte_lengths: NDArray[np.int32]) -> None:
        if order < 1:
            raise ValueError(f"the order of an n-gram model is 1 or more, got {order}")
        self.order = order
        self.begin = len(byte_lengths)
        self.base = len(byte_lengths) + 1
        self.predicted = byte_lengths > 0
        self.levels: list[Level] = []

    def fit(self, documents: Iterable[NDArray[np.integer]], most: int | None = None) -> KneserNey:
        """Count `documents` (arrays of ids; those that stand for no bytes are left out), at most `most` tokens."""
        parts, total = [], 0
        for document in documents:
            text = document[self.predicted[document]][: None if most is None else most - total].astype(np.int64)
            parts += [np.array([self.begin]), text]
            total += len(text)
            if most is not None and total >= most:
                break
        if total == 0:
            raise ValueError("an n-gram model needs text: no token of the documents stands for bytes")
        stream = np.concatenate(parts)
        self._count(stream, starts_of(stream == self.begin))
        return self

    def _count(self, stream: Ints, in_document: Ints) -> None:
        raw: list[tuple[Ints, Ints]] = []
        contexts, sizes = np.zeros(len(stream), np.int64), [1]
        numbers: list[Ints] = []
        for order in range(1, self.order + 1):
            # The n-gram that ends here, where the document has so many tokens; its last token is a predicted one.
            here = in_document >= order - 1
            keys = np.where(here, contexts * self.base + stream, -1)
            unique, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
            dropped = int(unique[0] == -1)
            if len(unique) == dropped:  # no document is so long: the order before is the highest
                break
            raw.append((unique[dropped:], counts[dropped:]))
            numbers.append(np.where(here, inverse - dropped, -1))
            if order > 1:
                self._lower(numbers[-2], first[dropped:], raw[-2], in_document, order - 1, sizes[-2])
            sizes.append(len(unique) - dropped)
            contexts = np.concatenate([[0], numbers[-1][:-1]])
        self._add(*raw[-1], sizes[-2])

    def _lower(
        self, numbers: Ints, positions: Ints, raw: tuple[Ints, Ints], in_document: Ints, order: int, contexts: int
    ) -> None:
        """The level of `order`, counted by the different n-grams one longer (at `positions`) that end in each."""
        keys, counts = raw
        continued = np.bincount(numbers[positions], minlength=len(keys))
        begins = np.zeros(len(keys), np.bool_)
        begins[numbers[in_document == order - 1]] = True
        self._add(keys, np.where(begins, counts, continued), contexts)

    def _add(self, keys: Ints, counts: Ints, contexts: int) -> None:
        # What marks a beginning is a context and is never predicted.
        counts = np.where(keys % self.base == self.begin, 0, counts).astype(np.int64)
        context = keys // self.base
        discounts = discounts_of(counts)
        back = np.bincount(context, discounts[np.minimum(counts, 3)], contexts).astype(np.float64)
        totals = np.bincount(context, counts, contexts).astype(np.int64)
        self.levels.append(Level(keys, counts, discounts, totals, back))

    def log2_probabilities(self, tokens: Ints, targets: Ints, in_document: Ints) -> Floats:
        """log2 p(target | the tokens of its document up to its own place), (n,) each.

        `tokens` are the histories' last tokens in running text; `in_document` counts them from 0 in each document.
        """
        probability = np.full(len(tokens), 1.0 / int(self.predicted.sum()))
        probability[~self.predicted[targets]] = 0.0
        stream = np.insert(tokens.astype(np.int64), np.flatnonzero(in_document == 0), self.begin)
        within = starts_of(stream == self.begin)
        ends = np.flatnonzero(stream != self.begin)
        context_of = np.zeros(len(stream), np.int64)
        for order, level in enumerate(self.levels, start=1):
            context = context_of[ends]
            usable = (context >= 0) & (within[ends] >= order - 2)
            context = np.where(usable, context, 0)
            total = level.totals[context]
            gram = level.find(context * self.base + targets)
            count = np.where(gram >= 0, level.counts[gram], 0)
            own = count - level.discounts[np.minimum(count, 3)]
            mixed = (own + level.kept_back[context] * probability) / np.maximum(total, 1)
            probability = np.where(usable & (total > 0), mixed, probability)
            previous = np.concatenate([[-1], context_of[:-1]]) if order > 1 else context_of
            known = (previous >= 0) & (within >= order - 1)
            context_of = np.where(known, level.find(np.where(known, previous, 0) * self.base + stream), -1)
        with np.errstate(divide="ignore"):
            return np.log2(probability)


def starts_of(begins: NDArray[np.bool_]) -> Ints:
    """(n,) how far each place lies behind the last place that begins a document."""
    places = np.arange(len(begins))
    return places - np.maximum.accumulate(np.where(begins, places, 0))


def discounts_of(counts: Ints) -> Floats:
    """(4,) the discounts of counts 0, 1, 2 and 3 or more, from how many n-grams have counts 1 to 4."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(np.float64)
    if n[1] == 0 or n[2] == 0:
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n[1] / (n[1] + 2 * n[2])
    found = [k - (k + 1) * y * n[k + 1] / n[k] if n[k] else 0.5 * k for k in (1, 2, 3)]
    return np.array([0.0, *(min(max(value, 0.0), float(k)) for k, value in enumerate(found, start=1))])


def kneser_ney_bits_per_byte(
    train: Mapping[str, Iterable[NDArray[np.integer]]],
    heldout: HeldoutSet,
    byte_lengths: NDArray[np.int32],
    *,
    order: int = 5,
    most_tokens: int | None = None,
) -> dict[str, float]:
    """Bits per byte of each language of `heldout`, whose rows are causal ones, under a model of that language's text.

    `train` holds each source's documents (`zh-prose`, ...); `most_tokens` is the most that is counted of a language.
    A language without training text is left out.
    """
    by_language: dict[str, list[Iterable[NDArray[np.integer]]]] = {}
    for source in sorted(train):
        by_language.setdefault(language_of(source), []).append(train[source])
    result = {}
    for language, batches in heldout.batches.items():
        if language not in by_language:
            continue
        documents = (document for part in by_language[language] for document in part)
        model = KneserNey(order, byte_lengths).fit(documents, most_tokens)
        total = 0.0
        for rows in batches:
            document = rows.batch.document
            begins = np.ones(document.shape, np.bool_)
            begins[:, 1:] = document[:, 1:] != document[:, :-1]
            scored = (rows.target_bytes > 0).ravel()
            targets = np.where(scored, rows.batch.targets.ravel(), 0)
            tokens = rows.batch.tokens.ravel().astype(np.int64)
            bits = model.log2_probabilities(tokens, targets, starts_of(begins.ravel()))
            total -= math.fsum(bits[scored].tolist())
        result[language] = total / scored_bytes(batches)
    return result
