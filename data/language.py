"""The language and the script of a document.

Script counts decide Chinese, Japanese and Korean; English function words decide plain English; what is left of Latin
text is decided by py3langid's model, which ships inside its package. Hans and Hant are told apart by the characters
that OpenCC's tables change one way only. A document is `mixed` when both languages run in it: English is counted where
it runs for some words outside code, since commands, names and tables among Chinese are no second language.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import polars as pl

from data.phrases import ENGLISH_FUNCTION_WORDS
from data.text_kernels import Array


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """How language and script are decided."""

    mixed_share: float = 0.15
    """A document is `mixed` when Chinese and English each carry at least this share of its words."""
    script_share: float = 0.10
    """A Chinese document is of `mixed` script when the rarer of Hans and Hant has this share of what tells them."""
    foreign_share: float = 0.10
    """A document with Han characters is Japanese or Korean when kana or hangul are this share of its letters."""
    sample_characters: int = 600
    """How much of a Latin text the statistical model reads."""

    def __post_init__(self) -> None:
        for name in ("mixed_share", "script_share", "foreign_share"):
            if not 0 < getattr(self, name) <= 0.5:
                raise ValueError(f"language: {name} is {getattr(self, name)}, expected a share between 0 and 0.5")


ENGLISH_SURE = 0.25
"""Latin text whose words are function words of English to this share is English: no other language comes near it."""
ENGLISH_TYPICAL = 0.33
"""The share of function words in ordinary English, documentation included."""

ENGLISH_RUN, ENGLISH_IN_RUN = 5, 0.2
"""Running English has this many words between Chinese characters or line ends, and this share of function words."""

_CODE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1|\Z)", re.DOTALL | re.MULTILINE)
_APART = re.compile(r"[\u3001-\u303f\u3400-\u9fff\uf900-\ufaff\uff01-\uff5e\n|]+")
_WORD = re.compile(r"[A-Za-z]+(?:['’][a-z]+)?")
_FUNCTION_WORDS = frozenset(ENGLISH_FUNCTION_WORDS)


def _columns(counts: pl.DataFrame, *names: str) -> list[Array]:
    return [counts[name].to_numpy().astype(np.float64) for name in names]


def identify(texts: pl.Series, counts: pl.DataFrame, config: LanguageConfig) -> pl.DataFrame:
    """Language (zh, en, mixed, other) and script (Hans, Hant, mixed, neutral, Latn) of each text, from its counts."""
    han, kana, hangul, latin, other = _columns(counts, "han", "kana", "hangul", "latin", "letters")
    words, numbers, english = _columns(counts, "words", "number_words", "english_words")
    letters = np.maximum(han + kana + hangul + latin + other, 1)
    latin_words = np.maximum(words - han - kana - numbers, 0)
    asian = (kana / letters >= config.foreign_share) | (hangul / letters >= config.foreign_share)
    readable = (letters > 1) & ~asian & (other / letters < 0.5)
    # A Han character is about 0.6 words. Latin words among Chinese are names and identifiers unless English grammar
    # holds them together, so that running English is measured by its function words.
    chinese_words = 0.6 * han
    running_english = np.minimum(latin_words, english / ENGLISH_TYPICAL)
    chinese_share = chinese_words / np.maximum(chinese_words + running_english, 1)
    western = readable & (chinese_words < config.mixed_share * (chinese_words + latin_words)) & (latin / letters >= 0.5)
    sure = english >= ENGLISH_SURE * latin_words

    language = np.full(len(texts), "other", dtype=object)
    language[readable & ~western & (han > 0)] = "mixed"
    language[readable & ~western & (han > 0) & (chinese_share >= 1 - config.mixed_share)] = "zh"
    for row in np.flatnonzero(language == "mixed"):
        english_words = min(running_english[row], running_words(texts[int(row)]))
        if english_words < config.mixed_share * (chinese_words[row] + english_words):
            language[row] = "zh"
    language[western & sure] = "en"
    for row in np.flatnonzero(western & ~sure):
        if _latin_language(texts[int(row)], config.sample_characters) == "en":
            language[row] = "en"
    return pl.DataFrame(
        {"language": pl.Series(language.tolist(), dtype=pl.String), "script": _script(counts, language, config)}
    )


def running_words(text: str) -> int:
    """How many words of running English stand in a text, outside fenced code."""
    words = 0
    for run in _APART.split(_CODE.sub("\n", text)):
        found = _WORD.findall(run)
        solid = sum(map(len, found)) >= 0.6 * len(run.replace(" ", ""))  # code has its marks and digits
        if len(found) >= ENGLISH_RUN and solid:
            grammar = sum(word.lower() in _FUNCTION_WORDS for word in found)
            words += len(found) * (grammar >= ENGLISH_IN_RUN * len(found))
    return words


def _latin_language(text: str, sample_characters: int) -> str:
    """ISO 639-1 code that py3langid gives to a sample from the middle of the text, code left out if there is more."""
    import py3langid

    prose = _CODE.sub("\n", text).strip()
    text = prose if len(prose) >= 60 else text
    start = max(0, (len(text) - sample_characters) // 2)
    return str(py3langid.classify(text[start : start + sample_characters])[0])


def _script(counts: pl.DataFrame, language: Array, config: LanguageConfig) -> pl.Series:
    hans, hant, han = _columns(counts, "hans", "hant", "han")
    telling = np.maximum(hans + hant, 1)
    script = np.full(len(language), "Latn", dtype=object)
    script[(han > 0) & (language != "en")] = "neutral"
    told = (hans + hant > 0) & (script == "neutral")
    script[told & (hant / telling < config.script_share)] = "Hans"
    script[told & (hans / telling < config.script_share)] = "Hant"
    script[told & (np.minimum(hans, hant) / telling >= config.script_share)] = "mixed"
    return pl.Series("script", script.tolist(), dtype=pl.String)
