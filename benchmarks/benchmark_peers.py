"""What `benchmarks/corpus.py` sets beside this project: datatrove's filters and language identifiers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

FINEWEB2_CHINESE: dict[str, Any] = {
    "stop_words": list("的年在月是和日了於·為有被人中为他與後也而由"),
    "top_n_grams": ((2, 0.256), (3, 0.201), (4, 0.171)),
    "dup_n_grams": ((5, 0.198), (6, 0.182), (7, 0.167), (8, 0.154), (9, 0.14), (10, 0.127)),
}


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
