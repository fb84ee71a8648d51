"""Byte-level BPE: GPT-2's bytes as letters, this project's cuts, and GLM-4's recipe of merging two vocabularies.

Merging (ChatGLM/GLM-4 report, arXiv 2406.12793, section 2: Chinese and multilingual tokens are learned separately and
merged with cl100k_base's). Here the two lists of merges are interleaved in proportion, each in its own order, until the
vocabulary is full; a merge that both learned counts once. Each list is closed (the two halves of a merge come before
it), so any such interleaving is.
"""

import json
from collections.abc import Iterable

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from tokenizer.config import BYTES, TokenizerConfig
from tokenizer.pretokenization import byte_level_decoder, byte_level_pre_tokenizer

Merge = tuple[str, str]


def empty_byte_level(config: TokenizerConfig, model: models.BPE | None = None) -> tokenizers.Tokenizer:
    """A tokenizer with this configuration's cuts and no merges, or with those of `model`."""
    backend = tokenizers.Tokenizer(model or models.BPE())
    backend.pre_tokenizer = byte_level_pre_tokenizer(config.pretokenization)
    backend.decoder = byte_level_decoder()
    return backend


def train_byte_level(
    texts: Iterable[str], config: TokenizerConfig, ordinary_size: int, show_progress: bool = False
) -> tokenizers.Tokenizer:
    """Learn up to `ordinary_size` tokens, the 256 bytes first among them; fewer where the text has no more pairs."""
    backend = empty_byte_level(config)
    trainer = trainers.BpeTrainer(
        vocab_size=ordinary_size,
        min_frequency=config.min_frequency,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=config.max_token_bytes,
        show_progress=show_progress,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def merges_of(backend: tokenizers.Tokenizer) -> list[Merge]:
    """The merges of a BPE tokenizer in the order in which they were learned."""
    pairs = json.loads(backend.to_str())["model"]["merges"]
    return [(pair[0], pair[1]) for pair in pairs]


def merge_byte_levels(
    first: tokenizers.Tokenizer, second: tokenizers.Tokenizer, config: TokenizerConfig, ordinary_size: int
) -> tokenizers.Tokenizer:
    """One tokenizer of `ordinary_size` tokens with the merges of both, interleaved by `merge.chinese_share`."""
    vocabulary = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    assert len(vocabulary) == BYTES
    merges: list[Merge] = []
    seen: set[Merge] = set()
    for pair in _interleave(merges_of(first), merges_of(second), config.merge.chinese_share):
        token = pair[0] + pair[1]
        if pair in seen or (token not in vocabulary and len(vocabulary) >= ordinary_size):
            continue
        if pair[0] in vocabulary and pair[1] in vocabulary:
            seen.add(pair)
            merges.append(pair)
            vocabulary.setdefault(token, len(vocabulary))
    return empty_byte_level(config, models.BPE(vocab=vocabulary, merges=merges))


def _interleave(first: list[Merge], second: list[Merge], share: float) -> Iterable[Merge]:
    """Both lists in their own order, `share` of what has been given at any time from the first."""
    keyed = [((i + 1) / share, 0, pair) for i, pair in enumerate(first)]
    keyed += [((i + 1) / (1 - share), 1, pair) for i, pair in enumerate(second)]
    return (pair for _, _, pair in sorted(keyed, key=lambda item: item[:2]))
