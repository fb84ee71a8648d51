"""Bits per byte of held-out text packed by xz: what a general compressor gets out of the text and nothing else."""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from evaluation.bits_per_byte import language_of
from tokenizer.load import Tokenizer


def xz_bits_per_byte(
    documents: Mapping[str, Iterable[NDArray[np.integer]]], tokenizer: Tokenizer, preset: int = 9
) -> dict[str, float]:
    """For each language, all its documents' text in one stream, compressed with `xz -9`."""
    texts: dict[str, list[bytes]] = {}
    for source in sorted(documents):
        own = texts.setdefault(language_of(source), [])
        own += [tokenizer.decode(document.tolist(), skip_special=True).encode() for document in documents[source]]
    joined = {language: b"\n".join(parts) for language, parts in texts.items()}
    return {
        language: 8 * len(lzma.compress(text, preset=preset)) / len(text) for language, text in joined.items() if text
    }
