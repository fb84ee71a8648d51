"""HTML bytes to readable text: charset, main content, and the shape of what a reader saw.

The main content is found by `data/main_content.py` and written by `data/render.py`, so that headings, lists, tables
and code keep their shape and Chinese paragraphs are neither glued together nor spaced apart; or, where speed matters
more, both are resiliparse's. A page that is too large, too deep or takes too long costs itself alone.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Literal

import numpy as np
from lxml import etree, html

from data.charset import decode
from data.main_content import find_main_content
from data.render import render


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """How a page becomes text."""

    method: Literal["accurate", "fast"] = "accurate"
    """`accurate` is ours, by how much text reads like sentences; `fast` is resiliparse's: quicker, less precise."""
    max_bytes: int = 5_000_000
    """A page of more bytes is set aside unread."""
    max_depth: int = 200
    """A page whose elements nest deeper is set aside unread."""
    max_seconds: float = 5.0
    """A page that takes longer is set aside."""
    min_characters: int = 1
    """A page with less text than this is set aside as empty."""

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.max_depth < 1 or self.max_seconds <= 0:
            raise ValueError("extract: max_bytes, max_depth and max_seconds must be positive")


Status = Literal["ok", "too_large", "too_deep", "too_slow", "no_text", "unreadable"]


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What came of a page. `status` is `ok`, or the reason for which the page is set aside; `detail` its measure."""

    text: str | None
    title: str | None
    charset: str | None
    status: Status
    detail: str | None = None


class _TooSlowError(Exception):
    pass


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise _TooSlowError after `seconds` of this process's time, so that a busy machine drops no page.

    Only a process's main thread can be stopped so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise _TooSlowError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# The first two letters of elements that may be left unclosed, or never nest: a, area, base, br, col, dd, dt, hr, img,
# input, li, link, meta, option, param, p, script, source, style, table parts, track, wbr
_FLAT = np.zeros(1 << 16, dtype=bool)
for _names in (b"ar ba br co dd dt hr im in li me op pa sc so st tb td tf th tr wb p>".split(), (b"p ", b"a ")):
    _FLAT[[letters[0] << 8 | letters[1] for letters in _names]] = True


def nesting(payload: bytes) -> int:
    """How deep the elements of a page nest, about: tags opened and not yet closed, at most."""
    page = np.frombuffer(payload + b"   ", dtype=np.uint8)
    tags = np.flatnonzero(page[:-3] == ord("<"))
    closing = page[tags + 1] == ord("/")
    first, second = page[tags + 1 + closing], page[tags + 2 + closing]
    letters = ((first | 32) >= ord("a")) & ((first | 32) <= ord("z"))
    # a closing `</p>` and an opening `<p ...>` share the letters looked up; `>` and space are unchanged by | 32
    counted = letters & ~_FLAT[(first | 32).astype(np.int64) << 8 | (second | 32)]
    steps = np.where(counted, np.where(closing, -1, 1), 0)
    depth = np.cumsum(steps)
    return int((depth - np.minimum(np.minimum.accumulate(depth), 0)).max(initial=0))


def extract_html(payload: bytes, *, content_type: str | None = None, config: ExtractConfig | None = None) -> Extraction:
    """The readable text of a page, or the reason for which it has none. Never raises for what a page holds."""
    config = config or ExtractConfig()
    if len(payload) > config.max_bytes:
        return Extraction(text=None, title=None, charset=None, status="too_large", detail=f"{len(payload)} bytes")
    charset: str | None = None
    try:
        with _time_limit(config.max_seconds):
            depth = nesting(payload)
            if depth > config.max_depth:
                return Extraction(text=None, title=None, charset=charset, status="too_deep", detail=f"{depth} levels")
            page, charset = decode(payload, content_type)
            title, text = (_accurate if config.method == "accurate" else _fast)(page)
    except _TooSlowError:
        detail = f"{config.max_seconds:g} seconds"
        return Extraction(text=None, title=None, charset=charset, status="too_slow", detail=detail)
    except (
        etree.LxmlError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        AssertionError,
        RecursionError,
    ) as error:
        # the extractors are other people's code over hostile input: their errors are the page's
        return Extraction(text=None, title=None, charset=charset, status="unreadable", detail=type(error).__name__)
    if len(text) < config.min_characters:
        return Extraction(text=text, title=title, charset=charset, status="no_text", detail=f"{len(text)} characters")
    return Extraction(text=text, title=title, charset=charset, status="ok")


def _accurate(page: str) -> tuple[str | None, str]:
    parser = html.HTMLParser(
        encoding="utf-8", remove_comments=True, remove_pis=True, collect_ids=False, default_doctype=False
    )
    cleaned = page.replace("\x00", "").encode("utf-8", "replace")
    if not cleaned.strip():
        return None, ""
    tree = html.document_fromstring(cleaned, parser=parser, ensure_head_body=True)
    title = tree.find("head/title")
    body = tree.find("body")
    name = None if title is None else " ".join(title.text_content().split()) or None
    return name, render(find_main_content(body), name)


def _fast(page: str) -> tuple[str | None, str]:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(page)
    text = extract_plain_text(tree, main_content=True, preserve_formatting=True, alt_texts=False, links=False)
    return tree.title or None, text.strip()
