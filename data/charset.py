"""The charset of a page, from its bytes, its header and its meta tag, in that order of trust.

Bytes that read as UTF-8 are UTF-8, whatever the page says: no other charset's text of any length does by chance. After
that a declaration is believed if the bytes read well by it, and if not the charset is chosen by how well they read:
GB18030 and Big5 are told apart by everyday characters, Shift_JIS and EUC by kana and hangul. Labels are mapped as
browsers map them (WHATWG Encoding Standard): `gb2312` and `gbk` are GB18030, `iso-8859-1` is cp1252.
"""

from __future__ import annotations

import codecs
import re

import numpy as np

from data.character_classes import (
    DAMAGE,
    HAN,
    HANGUL,
    KANA,
    LATIN,
    RARE,
    TABLE_SIZE,
    character_classes,
    character_roles,
)

CANDIDATES = ("gb18030", "big5hkscs", "shift_jis", "euc_jp", "euc_kr", "cp1252")
_LABELS = {
    "gb2312": "gb18030", "gbk": "gb18030", "gb_2312-80": "gb18030", "x-gbk": "gb18030", "cp936": "gb18030",
    "big5": "big5hkscs", "big5-hkscs": "big5hkscs", "cn-big5": "big5hkscs", "x-x-big5": "big5hkscs",
    "cp950": "big5hkscs", "shift-jis": "shift_jis", "sjis": "shift_jis", "x-sjis": "shift_jis", "windows-31j": "cp932",
    "euc-jp": "euc_jp",
    "euc-kr": "euc_kr", "ks_c_5601-1987": "euc_kr", "iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252",
    "ascii": "cp1252", "hz-gb-2312": "hz", "utf8": "utf-8", "unicode": "utf-8", "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
}  # fmt: skip
_UTF16 = ("utf-16", "utf-16-le", "utf-16-be")
_PROBE = b'<meta charset="a-z"> 0123456789 AZ +ADw- \\u0041'
"""All charsets of the web but UTF-16 read ASCII as itself; EBCDIC, UTF-7, `unicode_escape` and `hex` do not."""
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_HEADER = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_META = re.compile(
    rb"<meta[^>]{0,400}?charset\s*=\s*[\"']?\s*([\w.:-]+)|<\?xml[^>]{0,100}encoding\s*=\s*[\"']([\w.:-]+)",
    re.IGNORECASE,
)

_SPACED_HAN = re.compile("(?<=[\u4e00-\u9fff]) (?=[\u4e00-\u9fff])")
_MARKS = ((0x2010, 0x2030), (0x3001, 0x3020), (0xFF01, 0xFF5E))  # general, Chinese and full-width punctuation
META_WINDOW = 4096
SAMPLE_BYTES = 60_000
BELIEVED = 0.9
"""A declared charset is believed when its bytes read this well; text that reads worse has another charset tried."""


def _resolve(label: str) -> str | None:
    """Python's name for a charset; None for a label that no page can be written by, though Python has such a codec."""
    label = label.strip().lower()
    name = _LABELS.get(label, label)
    if name in _UTF16:
        return name
    try:
        return name if _PROBE.decode(name, "replace") == _PROBE.decode("ascii") else None
    except (LookupError, UnicodeError):
        return None


def declared_charsets(payload: bytes, content_type: str | None) -> list[str]:
    """What the header and the meta tag declare, as Python's codec names; unknown labels are left out."""
    names: list[str | None] = []
    if content_type and (found := _HEADER.search(content_type)):
        names.append(_resolve(found.group(1)))
    if found_meta := _META.search(payload[:META_WINDOW]):
        name = _resolve((found_meta.group(1) or found_meta.group(2)).decode("ascii", "replace"))
        names.append(None if name in _UTF16 else name)  # a tag that was read byte by byte is not in UTF-16
    return list(dict.fromkeys(name for name in names if name is not None))


def reads_well(text: str, charset: str) -> float:
    """How well decoded text reads, 0 to 1: the share of its characters past ASCII that are usual in such text."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    points = points[(points >= 0x80) & (points != 0x3000)]
    if not len(points):
        return 1.0
    inside = points[points < TABLE_SIZE]
    kinds, roles = character_classes()[inside], character_roles()[inside]
    damaged = np.count_nonzero(roles & DAMAGE) + len(points) - len(inside)
    kana, hangul = np.count_nonzero(kinds == KANA), np.count_nonzero(kinds == HANGUL)
    han = np.count_nonzero(kinds == HAN)
    rare = np.count_nonzero(roles & RARE)
    marks = sum(np.count_nonzero((inside >= start) & (inside <= stop)) for start, stop in _MARKS)
    if charset in ("gb18030", "big5hkscs", "hz"):
        # Korean bytes read as GBK are everyday characters too, but with the spaces of Korean between them
        spaced = len(_SPACED_HAN.findall(text)) > 0.1 * han
        usual = (0.8 if spaced else 1) * _everyday(inside[kinds == HAN], charset) + marks
    elif charset in ("shift_jis", "euc_jp", "cp932"):
        usual = han - rare + kana + marks if kana * 8 > han else 0
    elif charset == "euc_kr":
        usual = hangul + marks if hangul > han else 0
    elif charset == "cp1252":
        # text in a Western language is ASCII for the most part
        usual = np.count_nonzero(kinds == LATIN) + marks if len(points) < 0.3 * len(text) else 0
    else:
        usual = len(points)
    return max(0.0, (usual - 5 * damaged) / len(points))


def _everyday(points: np.ndarray, charset: str) -> int:
    """How many Han characters are of the first level of the national standard, where everyday characters are."""
    legacy = (
        points.astype("<u2")
        .tobytes()
        .decode("utf-16-le")
        .encode("gb2312" if charset != "big5hkscs" else "big5", "ignore")
    )
    leads = np.frombuffer(legacy, dtype=np.uint8)[::2]
    last = 0xC6 if charset == "big5hkscs" else 0xD7
    return int(np.count_nonzero(leads <= last))


def decode(payload: bytes, content_type: str | None = None) -> tuple[str, str]:
    """The page's text and the charset it was read by. Bytes that are wrong in it become U+FFFD."""
    for mark, name in _BOMS:
        if payload.startswith(mark):
            return payload.decode(name, "replace"), "utf-8" if name == "utf-8-sig" else name
    try:
        return payload.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    sample = payload[:SAMPLE_BYTES]
    declared = declared_charsets(payload, content_type)
    scores = {name: reads_well(sample.decode(name, "replace"), name) for name in declared}
    believed = [name for name in declared if scores[name] >= BELIEVED]
    if believed:
        return payload.decode(believed[0], "replace"), believed[0]
    for name in ("utf-8", *CANDIDATES):
        if name not in scores:
            scores[name] = reads_well(sample.decode(name, "replace"), name)
    best = max(scores, key=lambda name: scores[name])
    return payload.decode(best, "replace"), best
