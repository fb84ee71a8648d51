"""Text that was decoded with the wrong charset: found, undone where the bytes are still there, told where they are not.

Three mistakes make nearly all of it in Chinese and English pages: UTF-8 read as Latin-1 or cp1252 (`å¥½`, `â€™`),
GBK read as Latin-1 or cp1252 (`ºÃ`), UTF-8 read as GBK (`濂`). Each is undone by encoding the text as it was wrongly
read and decoding it rightly, stretch by stretch, and only where the result is plainly better. Bytes that became U+FFFD
or 锟斤拷 are gone; such a text is told by `is_beyond_repair` and judged by the signal `damaged_share`.
"""

from __future__ import annotations

import re

import ftfy

_CP1252_SPECIALS = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_HIGH = f"\u0080-\u00ff{_CP1252_SPECIALS}"
_CONTINUATION = f"\u0080-\u00bf{_CP1252_SPECIALS}"
_BYTES = {ord(character): character.encode("cp1252") for character in _CP1252_SPECIALS}
_BYTES |= {point: bytes([point]) for point in range(256)}

# Patterns without look-around, so that Polars can select suspects with them
UTF8_AS_LATIN = f"[Â-ß][{_CONTINUATION}]|[à-ï][{_CONTINUATION}][{_CONTINUATION}]|â€"
GBK_AS_LATIN = f"[{_HIGH}]{{6}}"
_GBK_MARKS = "[鐨锛銆涓鍦鏄浠鈥璇鍙鐢绗鏉鎴鍜屾垜閫氳繃]"  # what 的 ， 。 中 在 是 and their like turn into
UTF8_AS_GBK = f"{_GBK_MARKS}.{{0,6}}{_GBK_MARKS}.{{0,6}}{_GBK_MARKS}"
LOST = "\ufffd|锟斤拷|锟斤"
SUSPECT = f"{UTF8_AS_LATIN}|{GBK_AS_LATIN}|{UTF8_AS_GBK}|{LOST}"

_UTF8_STRETCH = re.compile(f"(?:[Â-ß][{_CONTINUATION}]|[à-ï][{_CONTINUATION}]{{2}}|[ð-ô][{_CONTINUATION}]{{3}})+")
_HIGH_STRETCH = re.compile(f"[{_HIGH}]")
_HAN = re.compile("[\u4e00-\u9fff]")
_GBK_SUSPECT = re.compile(UTF8_AS_GBK)
_GBK_AS_LATIN = re.compile(GBK_AS_LATIN)
_LATIN_SUSPECT = re.compile(UTF8_AS_LATIN)
_LOST = re.compile(LOST)


def _as_bytes(text: str) -> bytes | None:
    """The bytes that were read as Latin-1 or cp1252, or None if a character is neither."""
    try:
        return b"".join([_BYTES[ord(character)] for character in text])
    except KeyError:
        return None


def _common_share(text: str) -> float:
    """Share of the Han characters that are of GB 2312's first level or Big5's, the everyday ones."""
    han = _HAN.findall(text)
    if not han:
        return 0.0
    everyday = 0
    for character in han:
        simplified, traditional = character.encode("gb2312", "ignore"), character.encode("big5", "ignore")
        everyday += (bool(simplified) and simplified[0] <= 0xD7) or (bool(traditional) and traditional[0] <= 0xC6)
    return everyday / len(han)


def _undo_utf8_stretch(match: re.Match[str]) -> str:
    raw = _as_bytes(match.group())
    if raw is None:
        return match.group()
    try:
        fixed = raw.decode("utf-8")
    except UnicodeDecodeError:
        return match.group()
    # Two high characters may stand side by side in honest French or German. What they would decode to is believed only
    # if it is a Latin-1 character, which is what Western pages are made of.
    if len(raw) == 2 and not "\u00a0" <= fixed <= "\u00ff":
        return match.group()
    return fixed


def _decode_gbk(text: str) -> str | None:
    raw = _as_bytes(text)
    if raw is None:
        return None
    try:
        return raw.decode("gb18030")
    except UnicodeDecodeError:
        return None


def _undo_gbk_as_latin(text: str) -> str:
    """The text read as GBK, whole or line by line, if most of it is high characters that make everyday Chinese."""
    high = len(_HIGH_STRETCH.findall(text))
    if high < 6 or high < 0.2 * len(text):
        return text
    fixed = _decode_gbk(text)
    if fixed is None:
        lines = text.split("\n")
        fixed = "\n".join([_decode_gbk(line) or line for line in lines])
    return fixed if _common_share(fixed) >= 0.7 else text


def _undo_utf8_as_gbk(line: str) -> str:
    if not _HAN.search(line):
        return line
    try:
        fixed = line.encode("gb18030").decode("utf-8")
    except UnicodeError:
        return line
    return fixed if _common_share(fixed) > _common_share(line) or len(fixed) < len(line) else line


def repair(text: str) -> str:
    """The text as it was meant, where its bytes can be had back; otherwise as it is."""
    if _GBK_AS_LATIN.search(text):
        # UTF-8 read as Latin-1 looks so too, but then its stretches make sense as UTF-8
        fixed = _UTF8_STRETCH.sub(_undo_utf8_stretch, text)
        undone = len(_HIGH_STRETCH.findall(fixed)) < 0.5 * len(_HIGH_STRETCH.findall(text))
        text = fixed if undone and _common_share(fixed) >= 0.7 else _undo_gbk_as_latin(text)
    for _ in range(2):  # text goes wrong twice now and then
        if not _LATIN_SUSPECT.search(text):
            break
        fixed = _UTF8_STRETCH.sub(_undo_utf8_stretch, text)
        if fixed == text:
            fixed = ftfy.fix_encoding(text)
        if fixed == text:
            break
        text = fixed
    if _GBK_SUSPECT.search(text):
        text = "\n".join([_undo_utf8_as_gbk(line) for line in text.split("\n")])
    return text


def is_beyond_repair(text: str) -> bool:
    """Whether bytes of the text are lost, or it still reads as the wrong charset does."""
    return bool(_LOST.search(text) or _GBK_SUSPECT.search(text))
