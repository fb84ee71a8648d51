"""How `benchmarks/presets.py` sets a preset beside datatrove: the published rules, one by one and together."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import polars as pl
from benchmark_peers import FINEWEB2_CHINESE, four_filters

from data.annotate import AnnotateConfig, annotate
from data.filter import Bound, FilterConfig, filter_documents

PRESETS: dict[str, Any] = {"en": "fineweb", "zh": "fineweb2-zh"}
PEER_LANGUAGE = {"en": "eng", "zh": "cmn"}
TOKEN = re.compile(
    r"[\u2e80-\u2fd5\u3005-\u3007\u3021-\u3029\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u3041-\u30ff]"
    r"|[^\W_\u2e80-\u9fff]+(?:['’][a-zA-Z][^\W_\u2e80-\u9fff]*)*"
    r"|[^\w\s\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]|_"
)
"""Our words and, one by one, punctuation and symbols (no controls): what `data/signals.py` calls tokens."""

OFF: dict[str, Any] = {
    "GopherRepetitionFilter": {
        "dup_line_frac": 0, "dup_para_frac": 0, "dup_line_char_frac": 0, "dup_para_char_frac": 0,
        "top_n_grams": (), "dup_n_grams": (),
    },
    "GopherQualityFilter": {
        "min_doc_words": 0, "max_doc_words": 0, "min_avg_word_length": 0, "max_avg_word_length": 0,
        "max_symbol_word_ratio": 0, "max_bullet_lines_ratio": 0, "max_ellipsis_lines_ratio": 0,
        "max_non_alpha_words_ratio": 0, "min_stop_words": 0,
    },
    "FineWebQualityFilter": {
        "line_punct_thr": 0, "short_line_thr": 999, "char_duplicates_ratio": 999, "new_line_ratio": 999,
    },
    "C4QualityFilter": {
        "filter_no_terminal_punct": False, "min_num_sentences": -1, "filter_lorem_ipsum": False,
        "filter_curly_bracket": False,
    },
}  # fmt: skip
"""The settings with which each of datatrove's filters rejects nothing."""

RESTATED: dict[str, dict[str, str]] = {
    "en": {},
    "zh": {
        "top_3gram_share": "top_2gram_share",
        "top_4gram_share": "top_3gram_share",
        **{f"duplicate_{n}gram_share": "duplicate_9gram_share" for n in range(5, 11)},
    },
}
"""Published rule to the signal that stands for it in the preset, where it is another: five words of jieba are eight
to ten Han characters."""


class Rule(NamedTuple):
    """A published rule: datatrove's filter with it alone switched on, and our signal with the same bounds."""

    signal: str
    low: float
    high: float
    filter: str
    settings: dict[str, Any]


def published_rules(language: str) -> list[Rule]:
    """The rules of FineWeb (`en`) or FineWeb-2's `cmn_Hani` (`zh`) with their published values."""
    english, inf = language == "en", math.inf
    duplicates = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))
    top = ((2, 0.2), (3, 0.18), (4, 0.16)) if english else FINEWEB2_CHINESE["top_n_grams"]
    duplicates = duplicates if english else FINEWEB2_CHINESE["dup_n_grams"]
    lines, alphabetic = (0.3, 0.8) if english else (0.287, 0.735)
    shortest, longest = (3, 10) if english else (1, 5)
    ends, repeated, newlines = (0.12, 0.01, 0.3) if english else (0.106, 0.1, 0.178)
    stop_words = {"min_stop_words": 2} | ({} if english else {"stop_words": FINEWEB2_CHINESE["stop_words"]})
    repetition, quality, fineweb, c4 = OFF
    rules = [Rule(f"top_{n}gram_share", -inf, x, repetition, {"top_n_grams": ((n, x),)}) for n, x in top]
    rules += [Rule(f"duplicate_{n}gram_share", -inf, x, repetition, {"dup_n_grams": ((n, x),)}) for n, x in duplicates]
    rules += [
        Rule("duplicate_line_share", -inf, lines, repetition, {"dup_line_frac": lines}),
        Rule("words", 50, 100_000, quality, {"min_doc_words": 50, "max_doc_words": 100_000}),
        Rule("mean_word_length", shortest, longest, quality,
             {"min_avg_word_length": shortest, "max_avg_word_length": longest}),
        Rule("hashes_per_token", -inf, 0.1, quality, {"max_symbol_word_ratio": 0.1}),
        Rule("bullet_line_share", -inf, 0.9, quality, {"max_bullet_lines_ratio": 0.9}),
        Rule("ellipsis_line_share", -inf, 0.3, quality, {"max_ellipsis_lines_ratio": 0.3}),
        Rule("alphabetic_word_share", alphabetic, inf, quality, {"max_non_alpha_words_ratio": alphabetic}),
        Rule("gopher_stop_words" if english else "fineweb2_stop_words", 2, inf, quality, stop_words),
        Rule("stop_line_share", ends, inf, fineweb, {"line_punct_thr": ends}),
        Rule("repeated_line_character_share", -inf, repeated, fineweb, {"char_duplicates_ratio": repeated}),
        Rule("newlines_per_token", -inf, newlines, fineweb, {"new_line_ratio": newlines}),
    ]  # fmt: skip
    if english:
        rules += [
            Rule("duplicate_line_character_share", -inf, 0.2, repetition, {"dup_line_char_frac": 0.2}),
            Rule("duplicate_paragraph_share", -inf, 0.3, repetition, {"dup_para_frac": 0.3}),
            Rule("duplicate_paragraph_character_share", -inf, 0.2, repetition, {"dup_para_char_frac": 0.2}),
            Rule("short_line_share", -inf, 0.67, fineweb, {"short_line_thr": 0.67}),
            Rule("c4_sentences", 5, inf, c4, {"min_num_sentences": 5}),
            Rule("c4_curly_brackets", -inf, 0, c4, {"filter_curly_bracket": True}),
            Rule("lorem_ipsum", -inf, 0, c4, {"filter_lorem_ipsum": True}),
        ]
    return rules


@contextlib.contextmanager
def words_from(words: dict[str, list[str]]) -> Iterator[None]:
    """datatrove's filters take these words of a text instead of tokenizing it again; other texts they tokenize."""
    from datatrove.pipeline.filters import fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter
    from datatrove.utils.text import split_into_words

    modules = (fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter)
    before = [module.split_into_words for module in modules]
    for module in modules:
        module.split_into_words = lambda text, language: words.get(text) or split_into_words(text, language)
    try:
        yield
    finally:
        for module, function in zip(modules, before, strict=True):
            module.split_into_words = function


def _rejects(peer: Any, text: str) -> bool:
    from datatrove.data import Document

    try:
        return peer.filter(Document(text=text, id="")) is not True
    except ZeroDivisionError:  # datatrove divides by the number of words of a text that has none
        return True


def _rejected_in_turn(language: str, text: str) -> bool:
    """Whether one of datatrove's four filters rejects the text, each reading what the one before handed on."""
    from datatrove.data import Document

    document = Document(text=text, id="")
    try:
        filters = list(four_filters(language))[: 4 if language == "en" else 3]  # FineWeb-2 does without C4's
        return not all(peer.filter(document) is True for peer in filters)
    except ZeroDivisionError:
        return True


def _outside(values: pl.Series, low: float | None, high: float | None) -> list[bool]:
    low, high = (-math.inf if low is None else low), (math.inf if high is None else high)
    return ((values < low - 1e-6) | (values > high + 1e-6)).to_list()


def _without_punctuation(tokens: list[str]) -> list[str]:
    return [token for token in tokens if any(map(str.isalnum, token))]


def _same(ours: list[bool], theirs: list[bool]) -> float:
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


def agreement_by_rule(texts: list[str], language: str) -> dict[str, Any]:
    """Share of documents on which each rule of ours and datatrove's say the same; `benchmarks/presets.py` says how."""
    from datatrove.pipeline import filters as peers
    from datatrove.utils.text import split_into_words

    config = FilterConfig(preset=PRESETS[language])
    preset: dict[str, Bound] = config.bounds.tables()[language]
    table = annotate(pl.DataFrame({"text": texts}), AnnotateConfig()).with_columns(language=pl.lit(language))
    its_words = {text: split_into_words(text, PEER_LANGUAGE[language]) for text in texts}
    our_tokens = {text: TOKEN.findall(text) for text in texts}
    our_words = {text: _without_punctuation(tokens) for text, tokens in our_tokens.items()}
    its_bare_words = {text: _without_punctuation(words) for text, words in its_words.items()}
    figures: dict[str, Any] = {"documents": len(texts)}
    any_published = [False] * len(texts)
    for rule in published_rules(language):
        off = OFF[rule.filter] | {"language": PEER_LANGUAGE[language]}
        peer = getattr(peers, rule.filter)(**(off | rule.settings))
        with words_from(its_words):
            theirs = [_rejects(peer, text) for text in texts]
        any_published = [a or b for a, b in zip(any_published, theirs, strict=True)]
        values = table[rule.signal].cast(pl.Float64)
        signal = RESTATED[language].get(rule.signal, rule.signal)
        bound = preset[signal]
        ours = _outside(table[signal].cast(pl.Float64), bound.min, bound.max)
        row: dict[str, Any] = {}
        if rule.filter != "C4QualityFilter":  # which has no words to be handed
            with words_from(our_words if rule.filter == "GopherRepetitionFilter" else our_tokens):
                counted = [_rejects(peer, text) for text in texts]
            row["counting"] = _same(_outside(values, rule.low, rule.high), counted)
        if "gram" in rule.signal:
            with words_from(its_bare_words):
                row["punctuation"] = _same(theirs, [_rejects(peer, text) for text in texts])
        row["published"] = _same(_outside(values, rule.low, rule.high), theirs)
        row["preset"] = _same(ours, theirs)
        row["rejected by datatrove"], row["rejected by the preset"] = sum(theirs), sum(ours)
        row["preset's rule"] = f"{signal} {bound.min if bound.min is not None else ''}..{bound.max or ''}"
        figures[rule.signal] = row
    kept, _ = filter_documents(table.with_row_index(), config)
    left = set(kept["index"])
    ours = [number not in left for number in range(len(texts))]
    with words_from(its_words):
        in_turn = [_rejected_in_turn(language, text) for text in texts]
    for name, theirs in (("all rules together", any_published), ("the filters in turn", in_turn)):
        figures[name] = {
            "preset": _same(ours, theirs),
            "rejected by datatrove": sum(theirs),
            "rejected by the preset": sum(ours),
        }
    return figures
