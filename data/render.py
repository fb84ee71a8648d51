"""Write the main content of a page as plain text that keeps its shape.

Headings are marked with number signs, list items with hyphens, code is fenced, a table's row is a line with its cells
apart by bars. Paragraphs are separated by a blank line, whether the page made them of `p`, of `div`, of `section` or of
two line breaks. A line feed in the source between two Han characters is a typist's and vanishes; elsewhere it is a
space. Blocks that are links for the most part are left out, and so are short lines that stand in no paragraph where
the page is written in paragraphs.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from data.main_content import BLOCKS, HEADINGS, REMOVED, Element, MainContent, Weights

_WIDE = "\u2e80-\u303f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
_BREAK_IN_CHINESE = re.compile(rf"(?<=[{_WIDE}])[ \t\r]*\n\s*(?=[{_WIDE}])")
_PARAGRAPH_BREAK = re.compile(r"(?<=\S)[ \t\r\xa0\u3000]*\n[ \t\r\xa0\u3000]*\n\s*(?=\S)")
_BLANK_LINE = re.compile("(?:\v[ \t\r\n\xa0\u3000]*){2,}")
_SPACE = re.compile(r"[ \t\r\n\xa0]+")
_ENDED = re.compile("[。！？；…：～.!?;:～][\\s\"')\\]）」』”’»›】》\u2019\u201d]*$")
_SENTENCE = re.compile("[。！？；，…]|[,.;!?][\"')\u2019\u201d]*(?:\\s|$)")
_CODE_CLASS = re.compile(r"highlight|hljs|code|language-|prettyprint|syntax|brush", re.IGNORECASE)
_PARTED = re.compile("[|｜·•»›].*[|｜·•»›]|^[|｜»›]")
_EDIT_LINK = re.compile(r"[ ]*[\[［](?:编辑|編輯|edit|edit source)[\]］]$")
ENDS = 0.15
"""The share of a text that may be cut off its ends."""
LONG_LINE = 40
"""A line of this many characters is no menu, whatever stands in it; Han characters count twice."""


def _tidy(text: str) -> str:
    if "\n" in text:
        text = _BREAK_IN_CHINESE.sub("", text)
    lines = text.split("\v")  # a line break that the page asked for
    return "\n".join(_SPACE.sub(" ", line).strip() for line in lines).strip()


def _width(text: str) -> int:
    """Width of a text as a line, Han characters twice; of a long one its length, which is enough to tell it so."""
    return len(text) if len(text) >= 100 else len(text) + sum(character >= "\u2e80" for character in text)


class Block(NamedTuple):
    """A paragraph, list, table, piece of code or heading of the text."""

    text: str
    sure: bool
    """Whether a reader surely came for it; a heading, or a short line without an end, may be the page's."""
    level: int = 7
    """1 to 6 of a heading."""


class _Writer:
    """Collects blocks; consecutive inline text forms one block."""

    def __init__(self, content: MainContent, *, strict: bool = False, part: bool = False) -> None:
        self.content = content
        self.strict = strict
        """Whether short lines outside paragraphs are left out."""
        self.blocks: list[Block] = []
        self.running: list[str] = []
        self.linked = 0  # characters of the running text that are links
        self.part = part
        """Whether it writes a list item, a cell or a heading, where a text that is all link is no menu."""
        self.paragraph = int(part)  # how many paragraph elements are open

    def flush(self) -> None:
        if not self.running:
            return
        running, linked = "".join(self.running), self.linked
        self.running, self.linked = [], 0
        for part in _BLANK_LINE.split(running) if "\v" in running else (running,):
            text = _tidy(part)
            if not text:
                continue
            ended = bool(_ENDED.search(text))
            short = _width(text) < LONG_LINE
            if not self.part and self._is_menu(text, linked) and not (ended and self.paragraph and not short):
                continue
            if self.paragraph:
                menu = linked and not self.part and not ended and (_width(text) < 60 or _PARTED.search(text))
                if not menu or linked < 0.3 * len(text):
                    self.blocks.append(Block(text, ended or not short))
                continue
            loose = (linked and _width(text) < 80) or _PARTED.search(text) or (self.strict and short)
            if ended or not loose:
                self.blocks.append(Block(text, ended))

    def _is_menu(self, text: str, linked: int) -> bool:
        """Whether so much of a block is links that it is for going elsewhere."""
        if _SENTENCE.search(text):
            return len(text) < 60 and linked > 0.8 * len(text)
        return linked > 0.5 * len(text)

    def block(self, text: str) -> None:
        self.flush()
        if text:
            self.blocks.append(Block(text, True))

    def text(self, text: str | None, linked: bool) -> None:
        if text:
            if "\n" in text and not self.paragraph:  # text without any markup has its paragraphs so
                text = _PARAGRAPH_BREAK.sub("\v\v", text)
            self.running.append(text)
            if linked:
                self.linked += len(text.strip())

    def write(self, element: Element, linked: bool = False) -> None:
        tag = element.tag
        if not isinstance(tag, str) or element in self.content.junk:
            return
        if tag in REMOVED and element not in self.content.weights:
            if tag == "math":
                self.text(_formula(element), False)
            return
        if tag == "br":
            self.running.append("\v")
        elif tag not in BLOCKS and tag != "hr":
            if tag == "code" and "\n" in "".join(element.itertext()).strip():
                self.block(_fence(_lines(element, self.content.junk)))
            elif tag != "math":
                self.children(element, linked or (tag == "a" and element.get("href") is not None))
            else:
                self.text(_formula(element), False)
        elif tag in HEADINGS:
            self.heading(element)
        elif tag in ("ul", "ol", "dl"):
            self.block("" if self.is_menu(element) else "\n".join(self.list_lines(element, 0)))
        elif tag == "pre":
            self.block(_preformatted(element, self.content.junk))
        elif tag == "table":
            self.table(element)
        else:
            paragraph = tag in ("p", "blockquote", "li", "dd", "dt", "figcaption")
            self.flush()
            self.paragraph += paragraph
            self.children(element, linked)
            self.flush()
            self.paragraph -= paragraph

    def children(self, element: Element, linked: bool) -> None:
        self.text(element.text, linked)
        for child in element:
            self.write(child, linked)
            tail = child.tail
            if tail and child.tag == "a" and not tail.strip():
                tail = " "  # links on lines of their own are no text that was wrapped
            self.text(tail, linked)

    def inside(self, element: Element) -> _Writer:
        """A writer for the children of an element, which are paragraphs."""
        writer = _Writer(self.content, part=True)
        writer.children(element, False)
        writer.flush()
        return writer

    def heading(self, element: Element) -> None:
        title = " ".join(one.text.replace("\n", " ") for one in self.inside(element).blocks)
        title = _EDIT_LINK.sub("", title)
        self.flush()
        if title:
            level = int(element.tag[1])
            self.blocks.append(Block(f"{'#' * level} {title}", False, level))

    def is_menu(self, element: Element) -> bool:
        """Whether a list or table is links for the most part, and short ones."""
        own: Weights = self.content.weights[element]
        if not own.links or own.linked <= 0.8 * own.characters:
            return False
        return own.characters < 300 or own.linked < 30 * own.links

    def list_lines(self, element: Element, level: int) -> list[str]:
        lines: list[str] = []
        for item in element:
            if not isinstance(item.tag, str) or item in self.content.junk or item not in self.content.weights:
                continue
            if item.tag in ("ul", "ol", "dl"):
                lines += self.list_lines(item, level + 1)
                continue
            writer, nested = _Writer(self.content, part=True), []
            writer.text(item.text, False)
            for child in item:
                if child.tag in ("ul", "ol", "dl") and child not in self.content.junk:
                    if not self.is_menu(child):
                        nested += self.list_lines(child, level + 1)
                else:
                    writer.write(child)
                writer.text(child.tail, False)
            writer.flush()
            indent = "  " * level
            text = f"\n{indent}  ".join("\n".join(one.text for one in writer.blocks).split("\n"))
            if text:
                lines.append(f"{indent}- {text}")
            lines += nested
        return lines

    def table(self, table: Element) -> None:
        if self.is_menu(table):
            self.flush()
        elif is_layout(table, self.content):
            self.flush()
            self.children(table, False)  # rows and cells are blocks like any other
            self.flush()
        else:
            lines = []
            for row in table.iter("tr"):
                cells = [
                    " ".join(one.text.replace("\n", " ") for one in self.inside(cell).blocks)
                    for cell in row
                    if cell.tag in ("td", "th") and cell not in self.content.junk
                ]
                if any(cells):
                    lines.append(" | ".join(cells))
            self.block("\n".join(lines))


_IN_LAYOUT = tuple(sorted(BLOCKS - {"td", "th", "tr", "tbody", "thead", "tfoot", "caption", "li", "dt", "dd"}))


def is_layout(table: Element, content: MainContent) -> bool:
    """Whether a table places the parts of a page instead of holding data: blocks or running text are in its cells."""
    if table.get("role") == "presentation":
        return True
    columns = 0
    for row in table.iter("tr"):
        cells = [cell for cell in row if cell.tag in ("td", "th")]
        columns = max(columns, len(cells))
        for cell in cells:
            own = content.weights.get(cell)
            if own is None or cell.tag == "th":
                continue
            blocks = [child.tag for child in cell.iter(*_IN_LAYOUT)]
            if (
                own.sentences > 400
                or "table" in blocks
                or "pre" in blocks
                or (len(blocks) > 1 and own.characters > 100)
            ):
                return True
    return columns < 2


def _formula(element: Element) -> str:
    """The TeX of a formula, where the page has it beside the formula's picture."""
    for annotation in element.iter("annotation"):
        if "tex" in (annotation.get("encoding") or "") and annotation.text:
            return f"${annotation.text.strip()}$"
    return "".join(element.itertext())


def _lines(element: Element, junk: set[Element]) -> str:
    """The text of a preformatted element, line for line, without the numbers of its lines."""
    parts = [element.text or ""]
    for child in element:
        if child.tag == "br":
            parts.append("\n")
        elif isinstance(child.tag, str) and child not in junk:
            parts.append(_lines(child, junk))
        parts.append(child.tail or "")
    return "".join(parts).replace("\r\n", "\n")


def _fence(code: str) -> str:
    code = code.strip("\n").rstrip()
    return f"```\n{code}\n```" if code else ""


def _preformatted(element: Element, junk: set[Element]) -> str:
    """Code between fences; prose that was set so, a poem or a letter, as its lines are."""
    text = _lines(element, junk).strip("\n")
    around = (element, element.getparent(), element[0] if len(element) else None)
    called = any(
        one is not None and (one.tag == "code" or _CODE_CLASS.search(one.get("class") or "")) for one in around
    )
    if called or sum(map(text.count, "{}()=<>;_/\\|$#")) > 0.02 * len(text):
        return _fence(text)
    return "\n".join(line.rstrip() for line in text.split("\n")).strip()


def render(content: MainContent, title: str | None = None) -> str:
    """The text of a page's main content: blocks apart by blank lines.

    The page's title, which has a column of its own, is left out where it stands above the text once more.
    """
    own = content.weights[content.element]
    writer = _Writer(content, strict=own.paragraphs > 0.5 * (own.characters - own.linked) and own.paragraphs > 150)
    writer.write(content.element) if content.element.tag != "pre" else writer.block(
        _preformatted(content.element, content.junk)
    )
    writer.flush()
    blocks = _without_ends(_without_empty_sections(_below_title(writer.blocks, title)))
    return "\n\n".join(one.text for one in blocks)


def _below_title(blocks: list[Block], title: str | None) -> list[Block]:
    """The blocks below the heading that repeats the page's title, if nothing sure stands above it."""
    for place, one in enumerate(blocks[:4]):
        if title and one.level < 7 and "".join(one.text.lstrip("#").split()) in "".join(title.split()):
            return blocks[place + 1 :] or blocks
        if one.sure:
            break
    return blocks


def _without_empty_sections(blocks: list[Block]) -> list[Block]:
    """The blocks without the headings of which nothing is left, such as that of a list of links."""
    kept: list[Block] = []
    below = 0  # level of the block below, 0 at the end
    for one in reversed(blocks):
        if one.level == 7 or below > one.level:
            kept.append(one)
            below = one.level
    return kept[::-1] or blocks


def _without_ends(blocks: list[Block]) -> list[Block]:
    """The blocks without what stands before the first heading or paragraph, and behind the last paragraph.

    Only where that is little: verses, too, are short and end without a mark.
    """
    first = next((place for place, one in enumerate(blocks) if one.sure or one.level < 7), 0)
    last = max((place for place, one in enumerate(blocks) if one.sure), default=len(blocks) - 1)
    sizes = [len(one.text) for one in blocks]
    if sum(sizes[:first]) + sum(sizes[last + 1 :]) > ENDS * sum(sizes):
        return blocks
    return blocks[first : last + 1]
