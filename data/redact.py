"""The redact stage: personal data replaced by typed placeholders.

Each kind is a pattern that Polars can search fast and a check that decides: the checksum of an identity card
(GB 11643-1999), Luhn's of a bank card (ISO/IEC 7812), the ranges of public addresses. The edges of a pattern are stated
in ASCII (no `\\b`), because a Han character counts as a letter and personal data stands right beside Han text. A number
that a cue word calls an order, a version, a checksum or an ISBN stays.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

PersonalData = Literal[
    "email", "mobile", "landline", "international_phone", "id_card", "bank_card", "ipv4", "ipv6", "qq", "wechat"
]
KINDS: tuple[PersonalData, ...] = (
    "email", "id_card", "bank_card", "mobile", "landline", "international_phone", "ipv4", "ipv6", "qq", "wechat",
)  # fmt: skip
"""In the order in which they are masked: what is told surest goes first."""


@dataclass(frozen=True, kw_only=True)
class RedactConfig:
    """Which personal data is masked, and how."""

    types: list[PersonalData] = field(default_factory=lambda: list(KINDS))
    """The kinds to mask; those left out are let stand."""
    placeholder: str = "<{type}>"
    """What stands in the place of a masked span; `{type}` is its kind."""
    private_addresses: bool = False
    """Whether IP addresses that lead nowhere outside (loopback, private networks, unspecified) are masked too."""

    def __post_init__(self) -> None:
        if not self.types:
            raise ValueError("redact: types is empty; name at least one kind, or leave the stage out")


# Edges are stated in ASCII: nothing that a longer number, word or decimal fraction could go on with
_DIGITS_BEFORE, _DIGITS_AFTER = r"(?<![0-9A-Za-z_.+-])", r"(?![0-9A-Za-z_]|[.-][0-9])"
_GAP = r"[ \-.\u00a0\u2010-\u2013]?"
_CHINA = r"(?:[(（](?:\+|00)86[)）]|(?:\+|00)86)"
_AREA = r"(?:10|2\d|[3-9]\d{2})"
_OTHER_NUMBER = re.compile(
    r"(?:(?<![a-z])(?:order|invoice|tracking|serial|sku|ref|reference|build|version|versions|ver|v|release|revision|rev|"
    r"firmware|driver|patch|sdk|checksum|sha-?\d*|md5|crc\d*|isbn(?:-1[03])?|issn|doi|oid|rfc|pi|commit|id|barcode|"
    r"(?:ticket|part|case|item|model|batch|lot|product|catalog|receipt|transaction)(?=[ ]?(?:no|num|id|code|#)))"
    r"[ ]?(?:no|number|num|id|code)?\.?"
    r"|(?:[单單编編批票货貨型]|序列|流水|交易|合同|版本|文件|案件|档案|订单编|商品|产品|条形?)[号號码碼]码?|订单|訂單|编码|"
    r"书号|版本|固件|驱动(?:程序)?|补丁|内核|升级到|更新到|升級到|校验[和码]?|哈希值?|对象标识符|号码牌)"
    r"[ \t:：#=为為是]*$",
    re.IGNORECASE,
)
_IN_PATH = re.compile(r"(?<!tel)(?<!phone)(?<!mobile)(?<!fax)[0-9A-Za-z_.~%-]/$", re.IGNORECASE)
_IS_VERSION = re.compile(r"[ ]?(?:版|及以[上后]|version|release|build|and (?:later|above|newer))", re.IGNORECASE)


def _called_otherwise(text: str, start: int) -> bool:
    """Whether the words before say that the number is none of a person's, or it is a part of an address or path."""
    before = text[max(0, start - 20) : start]
    return bool(_OTHER_NUMBER.search(before) or _IN_PATH.search(before))


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def is_identity_card(number: str) -> bool:
    """GB 11643-1999: region, date of birth, and the check character modulo 11 of ISO 7064."""
    if not (11 <= int(number[:2]) <= 82 and number[6:8] in ("18", "19", "20")):
        return False
    if not (1 <= int(number[10:12]) <= 12 and 1 <= int(number[12:14]) <= 31):
        return False
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(int(digit) * weight for digit, weight in zip(number, weights, strict=False))
    return "10X98765432"[total % 11] == number[17].upper()


_CARD_PREFIXES = re.compile(
    r"62\d{14,17}"  # UnionPay
    r"|4\d{15}|5[1-5]\d{14}|2[2-7]\d{14}"  # Visa, Mastercard
    r"|3[47]\d{13}|35\d{14}|6(?:011|4[4-9]\d|5\d\d)\d{12}"  # American Express, JCB, Discover
    r"|(?:9558|9559|60\d\d|68\d\d)\d{12,15}"  # Chinese banks' own
)


def is_bank_card(number: str) -> bool:
    """Luhn's check, and a prefix and length that a card network issues."""
    if not _CARD_PREFIXES.fullmatch(number):
        return False
    total = 0
    for position, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if position % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


@dataclass(frozen=True, kw_only=True)
class _Pattern:
    """How one kind is found: `search` selects documents (Rust's regex, no look-around), then `exact` and `check`."""

    search: str
    exact: re.Pattern[str]
    check: Callable[[re.Match[str], RedactConfig], bool]
    group: int = 0


def _always(_match: re.Match[str], _config: RedactConfig) -> bool:
    return True


def _check_email(match: re.Match[str], _config: RedactConfig) -> bool:
    return ".." not in match.group() and not match.group().lower().endswith(
        (".png", ".jpg", ".gif", ".svg", ".css", ".js")
    )


def _is_own_number(match: re.Match[str], _config: RedactConfig) -> bool:
    return not _called_otherwise(match.string, match.start())


def _check_identity_card(match: re.Match[str], _config: RedactConfig) -> bool:
    return is_identity_card(match.group()) and not _called_otherwise(match.string, match.start())


def _check_bank_card(match: re.Match[str], _config: RedactConfig) -> bool:
    return is_bank_card(_digits(match.group())) and not _called_otherwise(match.string, match.start())


def _check_address(match: re.Match[str], config: RedactConfig) -> bool:
    try:
        address = ipaddress.ip_address(match.group())
    except ValueError:
        return False
    if _called_otherwise(match.string, match.start()) or _IS_VERSION.match(match.string, match.end()):
        return False
    if config.private_addresses:
        return True
    if address.version == 4:
        first, second = int(match.group().split(".")[0]), int(match.group().split(".")[1])
        inside = (
            first in (0, 10, 127, 255)
            or (first, second) in ((192, 168), (169, 254))
            or (first == 172 and 16 <= second < 32)
            or match.group().startswith("1.3.6.")  # the root of most object identifiers
        )
        return not inside and first < 224
    return (
        not (address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast)
        and len(match.group()) > 6
    )


_PATTERNS: dict[PersonalData, _Pattern] = {
    "email": _Pattern(
        search=r"[0-9A-Za-z]@[0-9A-Za-z]",
        exact=re.compile(
            r"(?<![0-9A-Za-z._%+-])[0-9A-Za-z](?:[0-9A-Za-z._%+-]{0,62}[0-9A-Za-z_+-])?"
            r"@(?:[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?\.)+[A-Za-z]{2,24}(?![0-9A-Za-z-])"
        ),
        check=_check_email,
    ),
    "id_card": _Pattern(
        search=r"[0-9]{17}[0-9Xx]",
        exact=re.compile(_DIGITS_BEFORE + r"[1-8]\d{16}[0-9Xx]" + _DIGITS_AFTER, re.ASCII),
        check=_check_identity_card,
    ),
    "bank_card": _Pattern(
        search=r"[0-9]{15}|[0-9]{4}[ -][0-9]{4,6}[ -][0-9]{4,5}",
        exact=re.compile(
            _DIGITS_BEFORE
            + r"(?:\d{15,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{4}[ -]\d{6}[ -]\d{5})"
            + _DIGITS_AFTER,
            re.ASCII,
        ),
        check=_check_bank_card,
    ),
    "mobile": _Pattern(
        search=r"1[3-9][0-9][ \-.\x{a0}\x{2010}-\x{2013}]?[0-9]{4}[ \-.\x{a0}\x{2010}-\x{2013}]?[0-9]{4}",
        exact=re.compile(
            rf"(?<![0-9A-Za-z_+.])(?:{_CHINA}{_GAP}|86[ -])?1[3-9]\d{_GAP}\d{{4}}{_GAP}\d{{4}}{_DIGITS_AFTER}", re.ASCII
        ),
        check=_is_own_number,
    ),
    "landline": _Pattern(
        search=r"0[1-9][0-9]{1,2}[)）]?[ \-–—][2-9][0-9]{2,3}[ -]?[0-9]{4}|0(?:10|2[0-9])[2-9][0-9]{7}"
        r"|[)）][2-9][0-9]{2,3}[ -]?[0-9]{4}|400[ -][0-9]{3,4}[ -][0-9]|86[)）]?[ -]?[1-9][0-9]{1,2}[ -][2-9]",
        exact=re.compile(
            rf"(?<![0-9A-Za-z_.+])(?<![0-9]-)(?<!\+1[ .-])"
            rf"(?:(?:{_CHINA}[ -]?0?{_AREA}[ -]|[(（]0{_AREA}[)）][ -]?|0{_AREA}[ \-–—])"
            rf"[2-9]\d{{2,3}}[ -]?\d{{4}}"
            rf"|0(?:10|2\d)[2-9]\d{{7}}|400[ -]\d{{3,4}}[ -]\d{{3,4}})"
            rf"(?:[ -]?(?:转|轉|ext\.?)[ ]?\d{{1,6}})?{_DIGITS_AFTER}",
            re.ASCII,
        ),
        check=_is_own_number,
    ),
    "international_phone": _Pattern(
        search=r"\+[0-9][0-9 \-.()]{8}|[0-9]{3}[)] ?[0-9]{3}[-. ][0-9]{4}|[0-9]{3}-[0-9]{3}[-. ][0-9]{4}",
        exact=re.compile(
            r"(?<![0-9A-Za-z_.+])(?:\+\d{1,3}(?:[ \-.]?\(\d{1,4}\))?(?:[ \-.]?\d{2,5}){2,5}"
            rf"|(?:\+?1[ \-.]?)?(?:\([2-9]\d{{2}}\) ?|[2-9]\d{{2}}-)\d{{3}}[-. ]\d{{4}}){_DIGITS_AFTER}",
            re.ASCII,
        ),
        check=lambda match, config: 8 <= len(_digits(match.group())) <= 15 and _is_own_number(match, config),
    ),
    "ipv4": _Pattern(
        search=r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}",
        exact=re.compile(r"(?<![0-9A-Za-z_.-])(?:\d{1,3}\.){3}\d{1,3}(?![0-9A-Za-z_-]|\.\d)", re.ASCII),
        check=_check_address,
    ),
    "ipv6": _Pattern(
        search=r"(?:[0-9A-Fa-f]{1,4}:){4}|[0-9][0-9A-Fa-f]{0,3}::|[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}::",
        exact=re.compile(
            r"(?<![0-9A-Za-z_:.])[0-9A-Fa-f]{1,4}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![0-9A-Za-z_:])", re.ASCII
        ),
        check=_check_address,
    ),
    "qq": _Pattern(
        search=r"(?i)qq.{0,8}[1-9][0-9]{4}",
        exact=re.compile(
            r"(?<![A-Za-z])qq(?:群|号码|号|號)?(?:\s*[:：是为為]\s*|\s+|(?=\d))([1-9]\d{4,10})(?![0-9A-Za-z_]|\.\d)",
            re.ASCII | re.IGNORECASE,
        ),
        check=_always,
        group=1,
    ),
    "wechat": _Pattern(
        search=r"(?i)(?:微信|wechat|weixin|vx|v信|薇信|加微).{0,8}[0-9A-Za-z]",
        exact=re.compile(
            r"(?:微信(?:号|帳號|账号)?|wechat(?:\s+id)?|weixin|(?<![a-z])vx|v信|薇信|加微)(?:\s*[:：]\s*|\s*(?:是|为|為)\s*)"
            r"([a-z][-_a-z0-9]{5,19}|1[3-9]\d{9})(?![0-9A-Za-z_-])",
            re.ASCII | re.IGNORECASE,
        ),
        check=_always,
        group=1,
    ),
}


def redact_text(text: str, kinds: list[PersonalData], config: RedactConfig) -> tuple[str, dict[PersonalData, int]]:
    """The text with the personal data of these kinds masked, and how many spans of each were."""
    counts: dict[PersonalData, int] = {}
    for kind in kinds:
        pattern = _PATTERNS[kind]
        pieces, end, found = [], 0, 0
        for match in pattern.exact.finditer(text):
            if not pattern.check(match, config):
                continue
            start, stop = match.span(pattern.group)
            pieces += [text[end:start], config.placeholder.replace("{type}", kind)]
            end, found = stop, found + 1
        if found:
            text = "".join(pieces) + text[end:]
            counts[kind] = found
    return text, counts


def redact(table: pl.DataFrame, config: RedactConfig) -> pl.DataFrame:
    """`table` with personal data in `text` masked, `redactions` spans a document and `redacted_<kind>` of each kind."""
    texts = table["text"].fill_null("")
    kinds = [kind for kind in KINDS if kind in config.types]
    suspects = {kind: texts.str.contains(_PATTERNS[kind].search) for kind in kinds}
    found: dict[PersonalData, list[int]] = {kind: [0] * table.height for kind in kinds}
    hit = pl.select(pl.any_horizontal(*suspects.values()))[:, 0] if table.height else pl.Series(dtype=pl.Boolean)
    rows = hit.arg_true().to_list()
    changed = []
    for row, text in zip(rows, texts.gather(rows), strict=True):
        masked, counts = redact_text(text, [kind for kind in kinds if suspects[kind][row]], config)
        changed.append(masked)
        for kind, count in counts.items():
            found[kind][row] = count
    if rows:
        texts = texts.clone().scatter(rows, pl.Series(changed, dtype=pl.String))
    counts_by_kind = [pl.Series(f"redacted_{kind}", found[kind], dtype=pl.Int32) for kind in kinds]
    total = pl.select(pl.sum_horizontal(*counts_by_kind).cast(pl.Int32).alias("redactions"))["redactions"]
    return table.with_columns(texts.alias("text"), total.alias("redactions"), *counts_by_kind)
