"""Make one text of the many ways to write it down, and say what was changed.

Order matters: mojibake is undone before anything that would change its bytes, markup before white space. Chinese
punctuation stays as it is; NFKC, which would make ASCII of it, is not used (datatrove disables its width fix for the
same reason). Columns are treated whole by Polars; only suspect documents reach Python.
"""

from __future__ import annotations

import html
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import polars as pl

from data import mojibake
from data.character_kernels import CHARACTER_COUNTS, scan_characters
from data.text_kernels import text_buffers


@dataclass(frozen=True, kw_only=True)
class NormalizeConfig:
    """What normalisation changes in a text. Line ends, control characters, NFC and white space always are."""

    width: bool = True
    """Full-width Latin letters and digits become half-width; Chinese punctuation stays."""
    markup: bool = True
    """Left-over tags and entities are removed, outside code and where they are too many to be the subject."""
    mojibake: bool = True
    """Text decoded with the wrong charset is repaired where that is reversible, and flagged where it is not."""
    chinese: Literal["as_is", "t2s", "tw2s", "tw2sp", "hk2s"] = "as_is"
    """Traditional prose is made Simplified by this conversion of OpenCC: of characters and phrases (t2s), of Taiwan's
    or Hong Kong's (tw2s, hk2s), of Taiwan's with its vocabulary (tw2sp)."""


_ASCII = string.digits + string.ascii_letters
_WIDTH = {ord(character) + 0xFEE0: character for character in _ASCII}

CONTROLS = (
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x{80}-\x{9f}\x{ad}\x{200b}\x{200c}\x{200e}\x{200f}\x{202a}-\x{202e}"
    r"\x{2060}-\x{2064}\x{feff}]+"
)
SPACES = r"[\x{a0}\x{1680}\x{2000}-\x{200a}\x{202f}\x{205f}\x{3000}]"

_ELEMENTS = (
    "div|span|p|a|br|li|ul|ol|dl|dt|dd|td|th|tr|table|tbody|thead|img|script|style|strong|em|b|i|u|font|center|hr|pre|"
    "code|blockquote|h[1-6]|section|article|header|footer|nav|form|input|button|label|iframe|html|head|body|meta|link|"
    "sup|sub|small|o:p"
)
TAG = rf"</?(?:{_ELEMENTS})(?:\s[^<>]{{0,400}}|\s*)/?>"
ENTITY = (
    r"&(?:nbsp|lt|gt|amp|quot|apos|ldquo|rdquo|lsquo|rsquo|mdash|ndash|hellip|middot|copy|emsp|ensp"
    r"|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});"
)
_TAG = re.compile(TAG, re.IGNORECASE)
_BREAK = re.compile(
    r"<br\s*/?>|</(?:div|p|li|tr|h[1-6]|table|ul|ol|blockquote|section|article|dt|dd)\s*>", re.IGNORECASE
)
_HIDDEN = re.compile(r"<(script|style)\b[^>]{0,2000}>|<!--", re.IGNORECASE)
_HIDDEN_END = {
    "script": re.compile(r"</script\s*>", re.IGNORECASE),
    "style": re.compile(r"</style\s*>", re.IGNORECASE),
    "": re.compile("-->"),
}
_ENTITY = re.compile(ENTITY)
_ATTRIBUTE = re.compile(r"\s(?:style|class|id|href|src|align|width)\s*=", re.IGNORECASE)
_CODE = re.compile(r"(```.*?```|~~~.*?~~~|`[^`\n]+`)", re.DOTALL)
MARKUP_SHARE = 0.03
"""A text with this share of its characters in tags is a page that was taken for text."""


def strip_markup(text: str) -> str:
    """The text without left-over HTML. A few bare tags, and tags in code, are what the text is about and stay."""
    parts = _CODE.split(text)
    plain = "".join(parts[::2])
    tags = _TAG.findall(plain)
    closed = len(tags) >= 2 and "</" in plain
    if closed and sum(map(len, tags)) >= MARKUP_SHARE * len(plain):
        # So much of it that the page was taken whole as text: its code went through the same mill
        return _unescape(_without_tags(text))
    residue = closed and any(_ATTRIBUTE.search(tag) for tag in tags)
    for position in range(0, len(parts), 2):
        if residue:
            parts[position] = _without_tags(parts[position])
        parts[position] = _unescape(parts[position])
    return "".join(parts)


def _without_tags(text: str) -> str:
    return _TAG.sub("", _BREAK.sub("\n", _without_hidden(text)))


def _without_hidden(text: str) -> str:
    """The text without scripts, style sheets and comments. Those that nothing closes stay.

    Each kind's end is looked for until there is none left, so that a text of a million openings takes no longer.
    """
    kept, end, place = [], 0, 0
    unclosed: set[str] = set()
    while opening := _HIDDEN.search(text, place):
        kind, place = (opening[1] or "").lower(), opening.end()
        closing = None if kind in unclosed else _HIDDEN_END[kind].search(text, place)
        if closing is None:
            unclosed.add(kind)
        else:
            kept.append(text[end : opening.start()])
            end = place = closing.end()
    return "".join(kept) + text[end:]


def _unescape(text: str) -> str:
    return _ENTITY.sub(lambda match: html.unescape(match.group()), text)


def _apply_to(texts: pl.Series, suspects: pl.Series, change: Callable[[str], str]) -> pl.Series:
    """`change` applied to the texts that are suspect."""
    rows = suspects.arg_true()
    if not len(rows):
        return texts
    changed = pl.Series([change(text) for text in texts.gather(rows)], dtype=pl.String)
    return texts.clone().scatter(rows, changed)


def normalize(table: pl.DataFrame, config: NormalizeConfig) -> pl.DataFrame:
    """`table` with `text` normalised and `normalize_changes`: the names of what changed, separated by commas.

    `mojibake_lost` among them says that the text holds the traces of bytes that cannot be had back.
    """
    texts = table["text"].fill_null("")
    changes: list[pl.Series] = []

    def step(name: str, changed: pl.Series) -> None:
        nonlocal texts
        changes.append(pl.Series(name, changed != texts))
        texts = changed

    step("line_ends", _replace(texts, r"\r\n?", "\n"))
    lost = pl.repeat(False, len(texts), dtype=pl.Boolean, eager=True)
    if config.mojibake:
        suspects = texts.str.contains(mojibake.SUSPECT)
        step("mojibake", _apply_to(texts, suspects, mojibake.repair))
        rows = suspects.arg_true()
        lost = lost.scatter(rows, [mojibake.is_beyond_repair(text) for text in texts.gather(rows)])
    if config.markup:
        suspects = texts.str.contains(f"(?i){TAG}|{ENTITY}")
        if "kind" in table.columns:
            suspects = suspects & (table["kind"] != "code").fill_null(True)
        step("markup", _apply_to(texts, suspects, strip_markup))
    step("controls", _replace(_replace(texts, r"[\x{85}\x{2028}\x{2029}]", "\n"), CONTROLS, ""))
    step("nfc", texts.str.normalize("NFC"))
    if config.width:
        step("width", _apply_to(texts, texts.str.contains("[０-９Ａ-Ｚａ-ｚ]"), lambda text: text.translate(_WIDTH)))
    spaced = _replace(_replace(texts, SPACES, " "), r"[ \t]+\n", "\n")
    step("white_space", _replace(spaced, r"\n{3,}", "\n\n").str.strip_chars("\n \t"))

    if config.chinese != "as_is":
        suspects = _is_traditional(texts)
        if "kind" in table.columns:
            suspects = suspects & (table["kind"] != "code").fill_null(True)
        step(config.chinese, _apply_to(texts, suspects, _converter(config.chinese).convert))

    changes.append(lost.alias("mojibake_lost"))
    names = [pl.when(pl.col(changed.name)).then(pl.lit(changed.name)) for changed in changes]
    joined = pl.DataFrame(changes).select(
        pl.concat_str(names, separator=",", ignore_nulls=True).alias("normalize_changes")
    )
    return table.with_columns(texts.alias("text"), joined["normalize_changes"])


TRADITIONAL = 0.1
"""Text is converted when this share of the characters that tell the scripts apart is Traditional."""
JAPANESE = 0.05
"""It is let be when this share of its characters is kana: Japanese has its own forms of Chinese characters."""


def _is_traditional(texts: pl.Series) -> pl.Series:
    counts = scan_characters(*text_buffers(texts))
    hans, hant, han, kana = (counts[:, CHARACTER_COUNTS.index(name)] for name in ("hans", "hant", "han", "kana"))
    told = (hant > 0) & (hant >= TRADITIONAL * (hans + hant)) & (kana < JAPANESE * np.maximum(han, 1))
    return pl.Series(told, dtype=pl.Boolean)


@lru_cache(maxsize=1)
def _converter(name: str) -> Any:
    import opencc

    return opencc.OpenCC(name)


def _replace(texts: pl.Series, pattern: str, replacement: str) -> pl.Series:
    """Every match replaced; a column without any is handed back as it is, which costs a search alone."""
    return texts.str.replace_all(pattern, replacement) if texts.str.contains(pattern).any() else texts
