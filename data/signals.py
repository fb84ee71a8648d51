"""The one table of quality signals: name, unit, definition, source, and the expression that computes it.

A signal is a column that `annotate` adds and `filter` sets bounds to. Everything else that speaks of signals reads
this table: the annotate stage evaluates `expression`, the report and `docs/signals.md` print the rest.

The expressions run over the count columns of the kernels (`CHARACTER_COUNTS`, `LINE_COUNTS`, `C4_COUNTS`,
`WORD_COUNTS`, `REPETITION_COUNTS`, `BLOCK_COUNTS`). A *word* here is a Han character, a kana, or a run of other letters
and digits. A *token* is a word, a punctuation mark or a symbol, which is what the word tokenizers of published
thresholds count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl

from data.phrases import POLICY_PHRASES
from data.repetition_kernels import DUPLICATE_SIZES, TOP_SIZES
from data.word_kernels import DISTINCT_WINDOW

GOPHER = "Gopher (Rae et al. 2021)"
C4 = "C4 (Raffel et al. 2020)"
FINEWEB = "FineWeb (Penedo et al. 2024)"
MATRIX = "Matrix (MAP-Neo, 2024)"
CWT = "ChineseWebText (2023)"
OURS = "Tiankong"


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One signal of a document."""

    name: str
    unit: Literal["count", "share", "characters", "per word", "yes or no", "score"]
    definition: str
    source: str
    expression: pl.Expr

    @property
    def dtype(self) -> type[pl.DataType]:
        """Int32 for counts, Boolean for yes or no, Float32 for all else."""
        return {"count": pl.Int32, "yes or no": pl.Boolean}.get(self.unit, pl.Float32)


def _ratio(numerator: pl.Expr | str, denominator: pl.Expr | str) -> pl.Expr:
    """numerator / denominator; 0 where there is nothing to divide by."""
    top = pl.col(numerator) if isinstance(numerator, str) else numerator
    bottom = pl.col(denominator) if isinstance(denominator, str) else denominator
    return pl.when(bottom > 0).then(top / bottom).otherwise(0.0)


_LETTERS = pl.col("han") + pl.col("kana") + pl.col("hangul") + pl.col("latin") + pl.col("letters")
_SOLID = pl.col("characters") - pl.col("spaces") - pl.col("newlines") - pl.col("controls")
_WITHIN_WORDS = pl.col("word_characters") - _LETTERS - pl.col("digits")  # the apostrophes of don't and l’eau
_TOKENS = pl.col("words") + pl.col("punctuation") - _WITHIN_WORDS + pl.col("symbols")
_LATIN_WORDS = pl.col("words") - pl.col("han") - pl.col("kana") - pl.col("number_words")


def _count(name: str, definition: str, source: str = OURS, expression: pl.Expr | None = None) -> Signal:
    return Signal(
        name=name,
        unit="count",
        definition=definition,
        source=source,
        expression=pl.col(name) if expression is None else expression,
    )


def _share(name: str, definition: str, source: str, numerator: pl.Expr | str, denominator: pl.Expr | str) -> Signal:
    return Signal(
        name=name, unit="share", definition=definition, source=source, expression=_ratio(numerator, denominator)
    )


SIGNALS: tuple[Signal, ...] = (
    _count("characters", "Unicode characters of the text"),
    _count("words", "Han characters, kana, and runs of other letters and digits", GOPHER),
    _count("lines", "lines that are not blank", GOPHER),
    _count("paragraphs", "stretches of text between blank lines", GOPHER),
    _count("sentences", "ends of sentences: 。！？… anywhere, .!? before a space or the end of a line", C4),
    _count("urls", "addresses that begin with http://, https:// or www."),
    Signal(
        name="mean_word_length",
        unit="characters",
        definition="characters in words over words (a Han character is a word of 1)",
        source=GOPHER,
        expression=_ratio("word_characters", "words"),
    ),
    _share(
        "alphabetic_word_share",
        "words with a letter over tokens",
        GOPHER,
        pl.col("words") - pl.col("number_words"),
        _TOKENS,
    ),
    _count("gopher_stop_words", "how many of the, be, to, of, and, that, have, with occur", GOPHER),
    _count("fineweb2_stop_words", "how many of 的年在月是和日了於為有被人中为他與後也而由 occur", FINEWEB),
    Signal(
        name="hashes_per_token",
        unit="per word",
        definition="number signs over tokens",
        source=GOPHER,
        expression=_ratio("hashes", _TOKENS),
    ),
    Signal(
        name="ellipses_per_token",
        unit="per word",
        definition="… and ... over tokens",
        source=GOPHER,
        expression=_ratio("ellipses", _TOKENS),
    ),
    _share("bullet_line_share", "lines that begin with • or - over all lines", GOPHER, "bullet_lines", "all_lines"),
    _share("ellipsis_line_share", "lines that end with … or ... over all lines", GOPHER, "ellipsis_lines", "all_lines"),
    _share("list_line_share", "lines that begin with any bullet or a digit over lines", MATRIX, "list_lines", "lines"),
    _share(
        "stop_line_share",
        "lines whose last character is a full stop, question or exclamation mark over lines",
        FINEWEB,
        "stop_lines",
        "lines",
    ),
    _share(
        "terminal_line_share",
        "lines that end with 。！？…；： or .!?; and any closing quotes or brackets over lines",
        OURS,
        "terminal_lines",
        "lines",
    ),
    _share("short_line_share", "lines of at most 30 characters over lines", FINEWEB, "short_lines", "lines"),
    _share(
        "narrow_line_share",
        "lines of at most 24 columns (a Han character is 2) over lines",
        OURS,
        "narrow_lines",
        "lines",
    ),
    Signal(
        name="newlines_per_token",
        unit="per word",
        definition="line feeds over tokens",
        source=FINEWEB,
        expression=_ratio("newlines", _TOKENS),
    ),
    _share(
        "prose_share",
        "characters, white space and addresses apart, in lines or cells that read as sentences: of 12 columns or more "
        "with a sentence's end, or of 48 or more, and with a pause every 150 columns",
        OURS,
        "prose_characters",
        _SOLID,
    ),
    _share("han_share", "Han characters over letters of all scripts", CWT, "han", _LETTERS),
    _share("latin_share", "Latin letters over letters of all scripts", OURS, "latin", _LETTERS),
    _share("kana_share", "kana over letters of all scripts", OURS, "kana", _LETTERS),
    _share("hangul_share", "hangul over letters of all scripts", OURS, "hangul", _LETTERS),
    _share("digit_share", "digits over characters without white space", MATRIX, "digits", _SOLID),
    _share(
        "symbol_share",
        "symbols (neither letters, digits nor punctuation) over characters without white space",
        MATRIX,
        "symbols",
        _SOLID,
    ),
    _share("punctuation_share", "punctuation over characters without white space", OURS, "punctuation", _SOLID),
    _share("capital_share", "capitals A-Z over Latin letters", OURS, "capitals", "latin"),
    _share(
        "bracketed_share", "characters within 【】 over characters without white space", MATRIX, "bracketed", _SOLID
    ),
    _share("url_share", "characters of addresses over characters without white space", OURS, "url_characters", _SOLID),
    _share(
        "function_character_share",
        "function characters of both scripts (的 是 在 之 …) over Han characters",
        OURS,
        "function_characters",
        "han",
    ),
    _share(
        "function_word_share",
        "English function words over words of letters other than Han and kana",
        OURS,
        "english_words",
        _LATIN_WORDS,
    ),
    _share(
        "distinct_word_share",
        f"distinct words among the first {DISTINCT_WINDOW} over these",
        MATRIX,
        "distinct_words",
        pl.min_horizontal("words", pl.lit(DISTINCT_WINDOW)),
    ),
    _share(
        "rare_han_share",
        "Han characters outside both GB 2312 and the first level of Big5 over Han characters",
        OURS,
        "rare_han",
        "han",
    ),
    _share(
        "damaged_share",
        "U+FFFD, 锟斤拷 and C1 controls over characters",
        OURS,
        "damaged",
        "characters",
    ),
    _count("curly_brackets", "opening curly brackets", C4),
    _count(
        "c4_sentences",
        "sentences in the lines that C4 keeps: of three words or more between white space, none of over 1,000 "
        "characters, without 'javascript' and without a phrase of cookie and privacy notices",
        C4,
    ),
    _count("c4_curly_brackets", "lines with an opening curly bracket among those that C4 looks at", C4),
    _count("policy_phrases", "phrases of cookie and privacy notices: " + ", ".join(POLICY_PHRASES), C4),
    _count("javascript_mentions", "occurrences of 'javascript'", C4),
    _count("lorem_ipsum", "occurrences of 'lorem ipsum'", C4),
    Signal(
        name="boilerplate_per_word",
        unit="per word",
        definition="phrases of navigation, sharing bars and footers over words",
        source=OURS,
        expression=_ratio("boilerplate_phrases", "words"),
    ),
    _count("prose_characters", "the characters that prose_share counts"),
    _share(
        "duplicate_line_share", "lines equal to an earlier line over lines", GOPHER, "duplicate_lines", "line_pieces"
    ),
    _share(
        "duplicate_line_character_share",
        "characters of lines equal to an earlier line over characters",
        GOPHER,
        "duplicate_line_characters",
        "characters",
    ),
    _share(
        "repeated_line_character_share",
        "the same over characters other than line feeds",
        FINEWEB,
        "duplicate_line_characters",
        pl.col("characters") - pl.col("newlines"),
    ),
    _share(
        "top_line_share",
        "characters of all copies of the line that fills most, among those that stand three times, over characters",
        OURS,
        "top_line_characters",
        "characters",
    ),
    _share(
        "duplicate_paragraph_share",
        "paragraphs equal to an earlier paragraph over paragraphs",
        GOPHER,
        "duplicate_paragraphs",
        "paragraphs",
    ),
    _share(
        "duplicate_paragraph_character_share",
        "characters of paragraphs equal to an earlier paragraph over characters",
        GOPHER,
        "duplicate_paragraph_characters",
        "characters",
    ),
    *(
        _share(
            f"top_{n}gram_share",
            f"characters of all copies of the commonest {n}-gram of words, a space between words, over characters",
            GOPHER,
            f"top_{n}gram",
            "characters",
        )
        for n in TOP_SIZES
    ),
    *(
        _share(
            f"duplicate_{n}gram_share",
            f"characters of {n}-grams of words that stood before, found greedily, over characters",
            GOPHER,
            f"duplicate_{n}gram",
            "characters",
        )
        for n in DUPLICATE_SIZES
    ),
)

SUPPLIED_SIGNALS: tuple[Signal, ...] = (
    Signal(
        name="flagged_word_share",
        unit="share",
        definition="characters inside the words and phrases of the user's list over characters",
        source="Data-Juicer (2024)",
        expression=pl.lit(0.0),
    ),
    Signal(
        name="flagged_host",
        unit="yes or no",
        definition="whether the page's host, or one it is a subdomain of, stands on the user's list",
        source="RefinedWeb (Penedo et al. 2023)",
        expression=pl.lit(False),
    ),
    Signal(
        name="quality_score",
        unit="score",
        definition="probability of `good` by the user's fastText model for the language; null without one",
        source="CCNet, DCLM (2024)",
        expression=pl.lit(None),
    ),
)
"""Signals that need something from the user; their columns are always there, and neutral without it."""

SIGNAL_COLUMNS: dict[str, type[pl.DataType]] = {signal.name: signal.dtype for signal in (*SIGNALS, *SUPPLIED_SIGNALS)}
"""Name and dtype of every signal column, in order."""


def signal_table() -> str:
    """Every signal as a Markdown table: what `docs/signals.md` prints."""
    rows = ["| signal | unit | definition | source |", "|---|---|---|---|"]
    rows += [
        f"| `{signal.name}` | {signal.unit} | {signal.definition} | {signal.source} |"
        for signal in (*SIGNALS, *SUPPLIED_SIGNALS)
    ]
    return "\n".join(rows)
