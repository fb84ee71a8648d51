"""A quality model a language: a fastText classifier trained on good and bad documents; its score is a signal.

After CCNet (Wenzek et al. 2020) and DCLM (Li et al. 2024), which found a linear classifier over words and pairs of
words to order web pages well. Chinese is read by characters. fastText is an optional extra
(`pip install fasttext-numpy2-wheel`); without a model the column `quality_score` is null and no bound applies to it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

GOOD, BAD = "__label__good", "__label__bad"
WINDOW = 2000
"""Characters of a document that the model reads, from its beginning."""

_SPACED = r"([\x{2e80}-\x{9fff}\x{f900}-\x{faff}\x{20000}-\x{3ffff}])"


def _fasttext() -> Any:
    try:
        import fasttext
    except ImportError:
        raise ValueError("a quality model needs fastText: pip install fasttext-numpy2-wheel") from None
    return fasttext


def words_of(texts: pl.Series) -> pl.Series:
    """What the model reads: one line a text, lower case, Han characters and words apart by spaces."""
    return (
        texts.fill_null("")
        .str.slice(0, WINDOW)
        .str.to_lowercase()
        .str.replace_all(_SPACED, " $1 ")
        .str.replace_all(r"[^\p{L}\p{N}]+", " ")
        .str.strip_chars()
    )


def train(good: Iterable[str], bad: Iterable[str], output: Path, *, epochs: int = 5, seed: int = 0) -> dict[str, float]:
    """Train a model that tells good documents from bad ones and write it to `output`, whole or not at all.

    A tenth of the documents is held out. Returns their count and how many of them the model puts on the right side,
    as a share. ValueError if either side has fewer than 20 documents.
    """
    fasttext = _fasttext()
    rows = [(GOOD, text) for text in words_of(pl.Series(list(good), dtype=pl.String)) if text]
    goods = len(rows)
    rows += [(BAD, text) for text in words_of(pl.Series(list(bad), dtype=pl.String)) if text]
    if goods < 20 or len(rows) - goods < 20:
        raise ValueError(f"a quality model needs 20 documents a side: found {goods} good, {len(rows) - goods} bad")
    order = np.random.default_rng(seed).permutation(len(rows))
    held_out = max(2, len(rows) // 10)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        path = Path(folder) / "train.txt"
        path.write_text("".join(f"{rows[i][0]} {rows[i][1]}\n" for i in order[held_out:]), encoding="utf-8")
        # one thread, so that one input gives one model
        model = fasttext.train_supervised(
            str(path), epoch=epochs, wordNgrams=2, dim=64, minCount=3, bucket=1 << 18, thread=1, verbose=0, seed=seed
        )
        right = sum(model.predict(rows[i][1])[0][0] == rows[i][0] for i in order[:held_out])
        model.save_model(str(Path(folder) / "model.bin"))
        os.replace(Path(folder) / "model.bin", output)
    return {"documents": len(rows), "held_out": held_out, "accuracy": right / held_out}


@lru_cache(maxsize=4)
def _load(path: str, _modified: int) -> Any:
    return _fasttext().load_model(path)


def _good_scores(model: Any, texts: Iterable[str]) -> Iterator[float]:
    for text in texts:
        labels, probabilities = model.predict(text, k=2)
        yield next((float(p) for label, p in zip(labels, probabilities, strict=True) if label == GOOD), 0.0)


def score(texts: pl.Series, languages: pl.Series, models: dict[str, str]) -> pl.Series:
    """The probability of `good` of each text by its language's model; null in languages without one.

    ValueError if a model file does not exist.
    """
    scores = np.full(len(texts), np.nan, dtype=np.float32)
    for language, path in models.items():
        if not Path(path).is_file():
            raise ValueError(f"annotate.quality_models.{language}: no model at {path}")
        rows = (languages == language).arg_true()
        model = _load(path, Path(path).stat().st_mtime_ns)
        scores[rows.to_numpy()] = np.clip(list(_good_scores(model, words_of(texts.gather(rows)))), 0, 1)
    return pl.Series("quality_score", scores, dtype=pl.Float32).fill_nan(None)
