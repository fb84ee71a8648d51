"""What `benchmarks/corpus.py` sets beside this project: datatrove's filters and language identifiers."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import polars as pl

from data.annotate import AnnotateConfig, annotate

FINEWEB2_CHINESE: dict[str, Any] = {
    "stop_words": list("的年在月是和日了於·為有被人中为他與後也而由"),
    "top_n_grams": ((2, 0.256), (3, 0.201), (4, 0.171)),
    "dup_n_grams": ((5, 0.198), (6, 0.182), (7, 0.167), (8, 0.154), (9, 0.14), (10, 0.127)),
}
TOKEN = re.compile(
    r"[\u2e80-\u2fd5\u3005-\u3007\u3021-\u3029\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u3041-\u30ff]"
    r"|[^\W_\u2e80-\u9fff]+(?:['’][a-zA-Z][^\W_\u2e80-\u9fff]*)*|[^\w\s]|_"
)


def four_filters(language: str) -> Iterator[Any]:
    """datatrove's filters with FineWeb's settings for English (`en`) and FineWeb-2's `cmn_Hani` for Chinese (`zh`)."""
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    if language == "en":
        yield GopherRepetitionFilter()
        yield GopherQualityFilter()
        yield C4QualityFilter(filter_no_terminal_punct=False)
        yield FineWebQualityFilter()
        return
    grams = {name: FINEWEB2_CHINESE[name] for name in ("top_n_grams", "dup_n_grams")}
    yield GopherRepetitionFilter(
        language="cmn", dup_line_frac=0.287, dup_para_frac=0, dup_line_char_frac=0, dup_para_char_frac=0, **grams
    )
    yield FineWebQualityFilter(
        language="cmn", line_punct_thr=0.106, short_line_thr=999, char_duplicates_ratio=0.1, new_line_ratio=0.178
    )
    yield GopherQualityFilter(
        language="cmn",
        min_avg_word_length=1,
        max_avg_word_length=5,
        max_non_alpha_words_ratio=0.735,
        stop_words=FINEWEB2_CHINESE["stop_words"],
    )
    yield C4QualityFilter(language="cmn", filter_no_terminal_punct=False)


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
}  # fmt: skip


class Rule(NamedTuple):
    """A published rule: datatrove's filter with it alone switched on, and our signal with the same bounds."""

    signal: str
    low: float
    high: float
    filter: str
    settings: dict[str, Any]


# FineWeb-2 counts jieba's words, FineWeb spaCy's. Where a rule agrees better so, the presets restate it in our words:
# five words of jieba are eight to ten Han characters. Published rule -> the signal and the bound that stand for it.
RESTATED: dict[str, dict[str, tuple[str, float]]] = {
    "zh": {
        "top_3gram_share": ("top_2gram_share", 0.256),
        "top_4gram_share": ("top_3gram_share", 0.198),
        "duplicate_5gram_share": ("duplicate_10gram_share", 0.175),
        **{f"duplicate_{n}gram_share": ("duplicate_9gram_share", 0.267) for n in (6, 7, 8, 9)},
        "duplicate_10gram_share": ("duplicate_10gram_share", 0.25),
        "words": ("words", 80),
        "alphabetic_word_share": ("alphabetic_word_share", 0.815),
        "newlines_per_token": ("newlines_per_token", 0.114),
    },
    "en": {"alphabetic_word_share": ("alphabetic_word_share", 0.74)},
}


def _rules(language: str) -> list[Rule]:
    """The rules of FineWeb (`en`) or FineWeb-2's `cmn_Hani` (`zh`) with their published values."""
    english, inf = language == "en", math.inf
    top = ((2, 0.2), (3, 0.18), (4, 0.16)) if english else FINEWEB2_CHINESE["top_n_grams"]
    duplicate = (
        ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))
        if english
        else FINEWEB2_CHINESE["dup_n_grams"]
    )
    lines, alphabetic = (0.3, 0.8) if english else (0.287, 0.735)
    lengths = (3, 10) if english else (1, 5)
    ends, repeated, newlines = (0.12, 0.01, 0.3) if english else (0.106, 0.1, 0.178)
    stop_words = {"min_stop_words": 2} | ({} if english else {"stop_words": FINEWEB2_CHINESE["stop_words"]})
    repetition, quality, fineweb = "GopherRepetitionFilter", "GopherQualityFilter", "FineWebQualityFilter"
    rules = [Rule(f"top_{n}gram_share", -inf, x, repetition, {"top_n_grams": ((n, x),)}) for n, x in top]
    rules += [Rule(f"duplicate_{n}gram_share", -inf, x, repetition, {"dup_n_grams": ((n, x),)}) for n, x in duplicate]
    rules += [
        Rule("duplicate_line_share", -inf, lines, repetition, {"dup_line_frac": lines}),
        Rule("words", 50, 100_000, quality, {"min_doc_words": 50, "max_doc_words": 100_000}),
        Rule("mean_word_length", *lengths, quality,
             {"min_avg_word_length": lengths[0], "max_avg_word_length": lengths[1]}),
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
        ]
    return rules


@contextlib.contextmanager
def _words_from(words: dict[str, list[str]]) -> Iterator[None]:
    """datatrove's filters take these words of a text instead of tokenizing it again for each rule."""
    from datatrove.pipeline.filters import fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter

    modules = (fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter)
    before = [module.split_into_words for module in modules]
    for module in modules:
        module.split_into_words = lambda text, _language: words[text]
    try:
        yield
    finally:
        for module, function in zip(modules, before, strict=True):
            module.split_into_words = function


def agreement_by_rule(texts: list[str], language: str) -> dict[str, Any]:
    """Share of documents on which each rule of ours and datatrove's say the same.

    `our words`: datatrove is handed our words and both have the published values, so that nothing but the counting can
    differ. `its words`: datatrove tokenizes itself (spaCy, jieba), ours are the preset's bounds.
    """
    from datatrove.data import Document
    from datatrove.pipeline import filters as peers
    from datatrove.utils.text import split_into_words

    texts = list(dict.fromkeys(texts))
    table = annotate(pl.DataFrame({"text": texts}), AnnotateConfig())
    peer_language = {"zh": "cmn", "en": "eng"}[language]
    its_words = {text: split_into_words(text, peer_language) for text in texts}
    our_tokens = {text: TOKEN.findall(text) for text in texts}
    our_words = {text: [word for word in words if _is_word(word)] for text, words in our_tokens.items()}
    figures: dict[str, Any] = {"documents": len(texts)}
    verdicts: dict[str, list[list[bool]]] = {"its words": [], "our words": []}
    for rule in _rules(language):
        peer = getattr(peers, rule.filter)(**(OFF[rule.filter] | {"language": peer_language} | rule.settings))
        ours_alone = our_words if rule.filter == "GopherRepetitionFilter" else our_tokens
        signal, bound = RESTATED[language].get(rule.signal, (rule.signal, None))
        restated = (
            (rule.low, rule.high) if bound is None else (bound, math.inf) if rule.low > -1 else (-math.inf, bound)
        )
        row: dict[str, Any] = {}
        for source, words, (name, low, high) in (
            ("our words", ours_alone, (rule.signal, rule.low, rule.high)),
            ("its words", its_words, (signal, *restated)),
        ):
            with _words_from(words):
                theirs = [_rejects(peer, Document(text=text, id="")) for text in texts]
            values = table[name].cast(pl.Float64)
            ours = ((values < low - 1e-6) | (values > high + 1e-6)).to_list()
            row[source] = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(texts)
            row[f"rejected with {source}: datatrove, ours"] = f"{sum(theirs)}, {sum(ours)}"
            verdicts[source] += [theirs, ours]
        figures[rule.signal] = row
    for source, columns in verdicts.items():
        theirs, ours = ([any(row) for row in zip(*columns[side::2], strict=True)] for side in (0, 1))
        figures[f"all rules together, {source}"] = sum(a == b for a, b in zip(theirs, ours, strict=True)) / len(texts)
    return figures


def _is_word(token: str) -> bool:
    return any(character.isalnum() for character in token)


def _rejects(peer: Any, document: Any) -> bool:
    try:
        return peer.filter(document) is not True
    except ZeroDivisionError:  # datatrove divides by the number of words of a text that has none
        return True


def language_identifiers(lid: str | None) -> dict[str, Callable[[list[str]], list[str]]]:
    """Identifiers to set beside ours: texts to codes. lid.176.ftz only where its path is given."""
    from lingua import LanguageDetectorBuilder

    detector = LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()

    def lingua(texts: list[str]) -> list[str]:
        found = [detector.detect_language_of(text[:400]) for text in texts]
        return ["other" if language is None else language.iso_code_639_1.name.lower() for language in found]

    identifiers: dict[str, Callable[[list[str]], list[str]]] = {"lingua (low accuracy)": lingua}
    if lid is not None:
        import fasttext

        model = fasttext.load_model(lid)

        def lid176(texts: list[str]) -> list[str]:
            return [model.predict(text.replace("\n", " "))[0][0].removeprefix("__label__") for text in texts]

        identifiers["lid.176.ftz"] = lid176
    return identifiers
