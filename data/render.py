"""Write an extracted page's tree as plain text that keeps its shape.

Headings are marked with number signs, list items with hyphens, code is fenced, a table's row is a line with its cells
apart by bars. Paragraphs are separated by a blank line. A line feed in the source between two Han characters is a
typist's and vanishes; elsewhere it is a space.
"""

from __future__ import annotations

import re
from typing import Any

Element = Any  # lxml ships no types

_WIDE = "\u2e80-\u303f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
_BREAK_IN_CHINESE = re.compile(f"(?<=[{_WIDE}])[ \t]*\r?\n[ \t]*(?=[{_WIDE}])")
_PREFORMATTED = re.compile(r"(<(pre|textarea)\b.*?</\2\s*>)", re.IGNORECASE | re.DOTALL)
_BLANK_LINE = re.compile(r"\n[ \t\r\xa0\u3000]*\n")
_SPACE = re.compile(r"[ \t\r\n\xa0]+")
_INLINE = frozenset({"hi", "ref", "del", "span", "a", "em", "strong", "b", "i", "sub", "sup", "lb"})


def unwrap_chinese(page: str) -> str:
    """The HTML page without the line feeds that its author put between two Han characters to wrap a paragraph.

    They would be read as spaces. A blank line, and what is preformatted, stays.
    """
    if not _BREAK_IN_CHINESE.search(page):
        return page
    parts = _PREFORMATTED.split(page)  # text, element, name of the element, text, ...
    return "".join(
        _BREAK_IN_CHINESE.sub("", part) if place % 3 == 0 else part
        for place, part in enumerate(parts)
        if place % 3 != 2
    )


def _tidy(text: str) -> str:
    lines = text.split("\v")  # a line break that the page asked for
    return "\n".join(_SPACE.sub(" ", line).strip() for line in lines).strip()


def _is_inline(element: Element) -> bool:
    return element.tag in _INLINE or (element.tag == "code" and "\n" not in "".join(element.itertext()).strip())


def _inline_text(element: Element) -> str:
    """The text of an element as it runs on a line, `\\v` for line breaks."""
    if element.tag == "lb":
        return "\v"
    return (element.text or "") + "".join(_inline_text(child) + (child.tail or "") for child in element)


class _Writer:
    """Collects blocks; consecutive inline text forms one block."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.running = ""

    def flush(self) -> None:
        running, self.running = self.running, ""
        # blank lines inside an element part paragraphs where the page was taken as bare text
        self.blocks += [text for part in _BLANK_LINE.split(running) if (text := _tidy(part))]

    def block(self, text: str) -> None:
        self.flush()
        if text:
            self.blocks.append(text)

    def write(self, element: Element) -> None:
        tag = element.tag
        if not isinstance(tag, str):
            return
        if _is_inline(element):
            self.running += _inline_text(element)
        elif tag == "code":
            code = "".join(element.itertext()).strip("\n")
            self.block(f"```\n{code.rstrip()}\n```" if code.strip() else "")
        elif tag == "head":
            level = re.sub(r"\D", "", element.get("rend", "")) or "2"
            title = _tidy(_inline_text(element)).replace("\n", " ")
            self.block(f"{'#' * min(int(level), 6)} {title}" if title else "")
        elif tag == "list":
            self.block("\n".join(_list_lines(element, 0)))
        elif tag == "table":
            self.block("\n".join(_table_lines(element)))
        elif tag != "graphic":
            self.flush()
            self.children(element)
            self.flush()

    def children(self, element: Element) -> None:
        self.running += element.text or ""
        for child in element:
            self.write(child)
            self.running += child.tail or ""


def _list_lines(element: Element, level: int) -> list[str]:
    lines = []
    for item in element:
        if not isinstance(item.tag, str):
            continue
        writer = _Writer()
        writer.running += item.text or ""
        nested: list[str] = []
        for child in item:
            if child.tag == "list":
                nested += _list_lines(child, level + 1)
            else:
                writer.write(child)
            writer.running += child.tail or ""
        writer.flush()
        indent = "  " * level
        text = f"\n{indent}  ".join("\n".join(writer.blocks).split("\n"))
        if text:
            lines.append(f"{indent}- {text}")
        lines += nested
    return lines


def _table_lines(table: Element) -> list[str]:
    lines = []
    for row in table.iter("row"):
        cells = [" ".join(_tidy("".join(cell.itertext())).split("\n")) for cell in row.iter("cell")]
        if any(cells):
            lines.append(" | ".join(cells))
    return lines


def render(body: Element) -> str:
    """The text of trafilatura's tree: blocks apart by blank lines."""
    writer = _Writer()
    writer.children(body)
    writer.flush()
    return "\n\n".join(writer.blocks)
