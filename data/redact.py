"""The redact stage: personal data replaced by typed placeholders.

Each kind is a pattern that Polars can search fast and a check that decides: the checksum of an identity card
(GB 11643-1999), Luhn's of a bank card (ISO/IEC 7812), the ranges of public addresses. The edges of a pattern are stated
in ASCII (no `\\b`), because a Han character counts as a letter and personal data stands right beside Han text. A number
that a cue word calls an order, a version, a checksum or an ISBN stays.
"""

from __future__ import annotations

import collections
import functools
import ipaddress
import operator
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


# Edges are stated in ASCII: nothing that a longer number, word or decimal fraction could go on with. Words that lead a
# number or the next one in may stand right beside it, as lines that were joined leave them ("Tel13800138000QQ：12345").
_LED_IN = "(?i:" + "|".join(
    f"(?<={word})" for word in (
        "tel", r"tel\.", "phone", "mobile", r"mob\.", "fax", "cell", "call", "number", r"no\.", "card", "qq",
        "mail", "host", "address",
    )
) + "|(?<![a-z]id)(?<=id)|(?<![a-z]ip)(?<=ip))"  # fmt: skip
_NEXT_LED_IN = (
    r"(?i:qq|id[^a-z]|ip[^a-z]|ipv[46]|tel|fax|(?:e-?)?mail|we-?chat|weixin|[vw]x[^a-z]|phone|mobile|cell[^a-z]|ext|card"
    r"|call|addr|contact|(?-i:[A-Z][a-z]{2}))"
)
_WORD_AFTER = rf"(?!{_NEXT_LED_IN})[0-9A-Za-z_]"
_DIGITS_BEFORE = rf"(?=[0-9])(?:(?<![0-9A-Za-z_])(?<![0-9A-Za-z_][.+-])|{_LED_IN})"
_DIGITS_AFTER = rf"(?!{_WORD_AFTER}|[.-][0-9])"
_PHONE_BEFORE = rf"(?=[0-9+＋(（])(?:(?<![0-9A-Za-z_+＋])(?<![0-9A-Za-z_]\.)|(?<=[A-Za-z])(?=[(（]|\+86)|{_LED_IN})"
_DASH = r"\-\u2010-\u2014\uff0d"
_CARD_CUE_END = r"[ ]?(?:[编編]?[号號][码碼]?|no\.?|number|num)?[ ]?[:：#是为為]?[ ]{0,2}"
_GAP = rf"[ .\u00a0{_DASH}]?"
_SEARCHED_DASH = r"\-\x{2010}-\x{2014}\x{ff0d}"  # the same for Rust's regex
_SEARCHED_GAP = rf"[ .\x{{a0}}{_SEARCHED_DASH}]?"
_CHINA = r"(?:[(（](?:[+＋]|00)86[)）]|[+＋][(（]86[)）]|(?:[+＋]|00)86)"
_AREA = r"(?:10|2\d|[3-9]\d{2})"
_EXTENSION = rf"(?:[ ]?(?:转|轉|分机号?|分機|,?[ ]?ext\.?|,?[ ]?x)[:： ]?\d{{1,6}}|[{_DASH}]\d{{1,5}})?"
_PHONE_CUE = (
    r"(?:(?<![A-Za-z])(?:telephone|tel|phone|fax|mobile|cell|hotline|whatsapp)(?:[ ]?(?:no\.?|number|\#))?[ .]?[:：]"
    r"|(?:电话|電話|座机|座機|热线|熱線|传真|傳真|手机|手機|联系方式)(?:号码?|號碼?)?[ ]?[:：为為是]"
    r"|(?:电话|電話|座机|座機|热线|熱線|传真|傳真)(?:号码?|號碼?)?)[ ]{0,2}"
)
_OTHER_NUMBER = re.compile(
    r"(?:(?<![a-z加])(?:order|invoice|tracking|serial|sku|ref|reference|build|version|versions|ver|v|release|revision|rev|"
    r"firmware|driver|patch|sdk|checksum|sha-?\d*|md5|crc\d*|isbn(?:-1[03])?|issn|doi|oid|rfc|pi|commit|id|barcode|"
    r"(?:ticket|part|case|item|model|batch|lot|product|catalog|receipt|transaction)(?=[ ]?(?:no|num|id|code|#))|ticket)"
    r"\.?[ ]{0,2}(?:no|number|num|id|code)?\.?"
    r"|(?:[单單编編批票货貨型]|序列|流水|交易|合同|版本|文件|案件|档案|订单编|商品|产品|条形?)[号號码碼]码?|订单|訂單|编码|"
    r"书号|版本|固件|驱动(?:程序)?|补丁|内核|升级到|更新到|升級到|校验[和码]?|哈希值?|对象标识符|号码牌|version)"
    r"[ \t:：#=为為是\"'`*]*$",
    re.IGNORECASE,
)
_OWN_CARD = re.compile(
    r"(?:身份证?件?|证件|證件|卡片?|[账帐賬]户|identity(?:[ ]card)?|identification|(?:id|bank|credit|debit)[ ]?card)"
    r"[ ]?(?:[编編]?[号號][码碼]?|no\.?|number|num)?[ \t:：#是为為]*$",
    re.IGNORECASE,
)
_IN_PATH = re.compile(
    r"[0-9A-Za-z_.~%-](?<!tel)(?<!phone)(?<!mobile)(?<!fax)(?<!wechat)(?<!qq)(?<!mail)(?<!ip)/$", re.IGNORECASE
)
_AFTER_ANOTHER = re.compile(r"(?:^|[^0-9A-Za-z_./-])\+?[0-9][0-9 .()-]{5,}[0-9]/$", re.ASCII)
_IS_VERSION = re.compile(r"[ ]?(?:版|及以[上后]|version|release|build|and (?:later|above|newer))", re.IGNORECASE)
_BEFORE_SECTION = re.compile(
    r"(?:(?:[第图圖表式§]|(?<![a-z])(?:sections?|sec|chapter|figure|fig|table|clause|appendix|part|step)\.?"
    r"|(?<![a-z])(?:windows|chrome|chromium|firefox|safari|edge|opera|android|ios|macos|office|oracle|java|jdk))[ ]?"
    r"|(?:^|\n)#{1,6}[ ])$",
    re.IGNORECASE,
)
_AFTER_SECTION = re.compile(r"[ ]?(?:[小章]?[节節]|[章条條款])")


def _called_otherwise(text: str, start: int) -> bool:
    """Whether the words before say that the number is none of a person's, or it is a part of an address or path."""
    before = text[max(0, start - 20) : start]
    if _IN_PATH.search(before):
        return not _AFTER_ANOTHER.search(before)  # "13800138000/13900139000" is two numbers, not a path
    return bool(_OTHER_NUMBER.search(before))


def _called_own_card(text: str, start: int) -> bool:
    return bool(_OWN_CARD.search(text[max(0, start - 30) : start]))


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
    """How one kind is found: `search` selects documents (Rust's regex, no look-around), then `exact` and `check`.

    Any of `search` selects. They stand apart because each alone has a literal that the engine looks for first; joined
    into one expression they have none, and cost ten times as much.
    Where `exact` has a group `number`, that group alone is masked, else the whole match.
    """

    kind: PersonalData
    search: tuple[str, ...]
    exact: re.Pattern[str]
    check: Callable[[re.Match[str], RedactConfig], bool]


def _always(_match: re.Match[str], _config: RedactConfig) -> bool:
    return True


def _check_email(match: re.Match[str], _config: RedactConfig) -> bool:
    return not match.group().lower().endswith((".png", ".jpg", ".gif", ".svg", ".css", ".js"))


def _is_own_number(match: re.Match[str], _config: RedactConfig) -> bool:
    return not _called_otherwise(match.string, match.start()) or bool(
        re.search(r"(?<![a-z])v[ ]?[:：][ ]?$", match.string[max(0, match.start() - 4) : match.start()], re.IGNORECASE)
    )  # a mobile behind "V：" is a WeChat name, and no version


def _check_foreign_phone(match: re.Match[str], config: RedactConfig) -> bool:
    if re.fullmatch(r"\+[0-9]{1,3}\.[0-9]+", match.group()):  # a coordinate
        return False
    return 8 <= len(_digits(match.group())) <= 19 and _is_own_number(match, config)


def _check_identity_card(match: re.Match[str], _config: RedactConfig) -> bool:
    if not is_identity_card(match.group().translate({ord(" "): None, ord("-"): None})):
        return False
    cue = _OTHER_NUMBER.search(match.string[max(0, match.start() - 20) : match.start()])
    if cue and cue.group().lower().startswith("id"):  # "ID number" leads an identity card in, and no order
        return True
    return _called_own_card(match.string, match.start()) or not _called_otherwise(match.string, match.start())


def _check_bank_card(match: re.Match[str], _config: RedactConfig) -> bool:
    return is_bank_card(_digits(match.group())) and (
        _called_own_card(match.string, match.start()) or not _called_otherwise(match.string, match.start())
    )


_DATE = re.compile(r"(?:19|20)[0-9]{2}[ -]?(?:0[1-9]|1[0-2])[ -]?[0-3][0-9]|(?:19|20)[0-9]{2}[ -](?:19|20)[0-9]{2}")
_HAS_DIGIT = re.compile(r"[0-9_]")
_LIKE_A_NAME = re.compile(r"[0-9].*[0-9].*[0-9]|^wxid_|[_-].*[0-9]", re.IGNORECASE)


def _check_wechat(match: re.Match[str], _config: RedactConfig) -> bool:
    """What leads the name in tells how much the name must look like one by itself."""
    name, cue = match["number"], (match["cue"] + match["led"]).lower()
    told = any(mark in cue for mark in ":：=(（「【[")
    if name.isdigit():  # a mobile, or a QQ number used as the name
        return told or "加" in cue or len(name) == 11
    if re.match(r"open_?id|union_?id|app_?id|android|iphone|webview|js-?sdk", name, re.IGNORECASE):
        return False
    if told:
        return bool(_HAS_DIGIT.search(name)) if re.match(r"[vw]x|weixin", cue) else True
    if re.fullmatch(r"[vw]x", cue):  # the head of a longer name, as of "wxid_"
        return False
    if re.search(r"[是为為]\s*$|[号號][码碼]?\s*$|加", cue):
        return bool(_HAS_DIGIT.search(name)) or (cue.endswith(("加微信", "是", "为", "為")) and name.islower())
    if re.search(r"\sis\s|\s(?:id|account|number|no\.?)\s", cue):
        return bool(_HAS_DIGIT.search(name))
    return bool(_LIKE_A_NAME.search(name))


def _check_address(match: re.Match[str], config: RedactConfig) -> bool:
    try:
        address = ipaddress.ip_address(match.group())
    except ValueError:
        return False
    if _called_otherwise(match.string, match.start()) or _IS_VERSION.match(match.string, match.end()):
        return False
    if (
        re.match(r"[1-4]?[0-9]\.", match.group())
        and (  # the number of a section, a heading or a product
            _BEFORE_SECTION.search(match.string[max(0, match.start() - 10) : match.start()])
            or _AFTER_SECTION.match(match.string, match.end())
        )
    ):
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
            or match.group().endswith(".0.0")  # a network's or a version's, and no machine's
        )
        return not inside and first < 224
    if re.fullmatch(r"[0-9:]+", match.group()) and not re.search(r"[0-9]{3}", match.group()):  # a time: "00:09:27::"
        return False
    return (
        not (address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast)
        and len(match.group()) > 6
    )


_PATTERNS: tuple[_Pattern, ...] = (
    _Pattern(
        kind="email",
        search=(r"[0-9A-Za-z_+-]@[0-9A-Za-z]", r"＠[0-9A-Za-z]"),
        exact=re.compile(
            r"(?<![0-9A-Za-z_])[0-9A-Za-z_](?:[0-9A-Za-z_%+-]|\.(?=[0-9A-Za-z_%+-])){0,63}"
            r"[@＠](?:[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?\.)+"
            r"(?:(?:com|net|org|edu|gov|cn)(?=[0-9])"
            rf"|(?:[A-Za-z]{{2,24}}?|xn--[0-9A-Za-z]{{2,40}}?)(?!{_WORD_AFTER.replace('_]', ']')}|-[0-9A-Za-z]))"
        ),
        check=_check_email,
    ),
    _Pattern(
        kind="id_card",
        search=(r"[0-9]{17}[0-9Xx]|[0-9]{6}[ -][0-9]{8}[ -][0-9]{3}[0-9Xx]",),
        exact=re.compile(_DIGITS_BEFORE + r"[1-8]\d{5}([ -]?)\d{8}\1\d{3}[0-9Xx]" + _DIGITS_AFTER, re.ASCII),
        check=_check_identity_card,
    ),
    _Pattern(
        kind="bank_card",
        search=(
            r"[0-9]{15}|[0-9]{4}[ -][0-9]{4,6}[ -][0-9]{4,5}",
            rf"[0-9]{{4}}[ \x{{a0}}{_SEARCHED_DASH}][0-9]{{4}}[ \x{{a0}}{_SEARCHED_DASH}][0-9]{{4}}",
            r"[0-9]{6} [0-9]{13}",
        ),
        exact=re.compile(
            _DIGITS_BEFORE
            + rf"(?:\d{{15,19}}|\d{{4}}([ \u00a0{_DASH}])\d{{4}}\1\d{{4}}\1\d{{4}}(?:\1\d{{1,3}})?"
            + r"|\d{4}[ -]\d{6}[ -]\d{5}|\d{6} \d{13})"
            + _DIGITS_AFTER,
            re.ASCII,
        ),
        check=_check_bank_card,
    ),
    _Pattern(  # with the cue, those of 15 digits too, and those whose check fails: the writer calls them so
        kind="id_card",
        search=(
            r"身份[证證].{0,8}[1-8][0-9]{13}",
            r"(?:ID|[Ii]d|[Ii]dentity) (?:[Nn]umber|[Cc]ard|No|no).{0,10}[1-8][0-9]{13}",
        ),
        exact=re.compile(
            rf"(?:身份[证證]件?|(?<![a-z])(?:id|identity)[ ](?=card|no|num)(?:card)?){_CARD_CUE_END}"
            r"(?P<number>[1-8]\d{5}(?:\d{2}|(?:18|19|20)\d{2}(?=\d{7}))"
            r"(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}"
            rf"(?:(?<=\d{{17}})[0-9Xx])?){_DIGITS_AFTER}",
            re.ASCII | re.IGNORECASE,
        ),
        check=_always,
    ),
    _Pattern(
        kind="bank_card",
        search=(
            r"(?:卡号|卡號|银行卡|銀行卡|信用卡|储蓄卡|银行账|银行帐|銀行帳).{0,8}[0-9]{4}",
            r"(?:[Bb]ank|[Cc]redit|[Dd]ebit) [Cc]ard.{0,12}[0-9]{4}",
        ),
        exact=re.compile(
            r"(?:卡(?=[号號])|[银銀]行卡|信用卡|储蓄卡|[银銀]行[账帐帳](?:户|戶|(?=[号號]))"
            r"|(?:bank|credit|debit)[ ]card)"
            rf"{_CARD_CUE_END}(?P<number>\d{{16,19}}|\d{{4}}(?:[ -]\d{{4}}){{3}}(?:[ -]\d{{1,3}})?){_DIGITS_AFTER}",
            re.ASCII | re.IGNORECASE,
        ),
        check=_always,
    ),
    _Pattern(
        kind="mobile",
        search=(rf"1[3-9][0-9]{_SEARCHED_GAP}[0-9]{{4}}{_SEARCHED_GAP}[0-9]{{4}}",),
        exact=re.compile(
            rf"{_PHONE_BEFORE}(?:{_CHINA}{_GAP}|86[ {_DASH}]|(?<=[:：话話机機])86)?"
            rf"1[3-9]\d{_GAP}\d{{4}}{_GAP}\d{{4}}{_DIGITS_AFTER}",
            re.ASCII,
        ),
        check=_is_own_number,
    ),
    _Pattern(
        kind="landline",
        search=(
            rf"0[1-9][0-9]{{1,2}}[)）]? ?{_SEARCHED_GAP} ?[1-9][0-9]{{2,3}}{_SEARCHED_GAP}[0-9]{{4}}",
            rf"86[)）]?{_SEARCHED_GAP}[(（]?0?[)）]?[1-9][0-9]{{1,2}}[)）]?{_SEARCHED_GAP}[1-9][0-9]{{2}}",
            rf"[48]00[ {_SEARCHED_DASH}][0-9]{{3,4}}",
        ),
        exact=re.compile(
            rf"{_PHONE_BEFORE}(?<![0-9]-)(?<!\+1[ .-])"
            rf"(?:(?:(?:{_CHINA}{_GAP}|86[ -])(?:[(（]0?{_AREA}[)）]|(?:[(（]0[)）]|0)?{_AREA}){_GAP}"
            rf"|[(（]0{_AREA}[)）]{_GAP}|0{_AREA}(?:[ ]?[{_DASH}][ ]?|[ ](?=[2-9])))"
            rf"[1-9]\d{{2,3}}[ {_DASH}]?\d{{4}}"
            rf"|0(?:10|2\d)[2-9]\d{{7}}|[48]00[ {_DASH}]\d{{3,4}}[ {_DASH}]\d{{3,4}})"
            rf"{_EXTENSION}{_DIGITS_AFTER}",
            re.ASCII | re.IGNORECASE,
        ),
        check=_is_own_number,
    ),
    _Pattern(
        kind="international_phone",
        search=(
            r"\+[0-9][0-9 \-.()]{8}|[0-9]{3}[-.)][ -]?[0-9]{3}[-. ][0-9]{4}",
            r"＋[0-9]",
        ),
        exact=re.compile(
            rf"{_PHONE_BEFORE}(?:[+＋]\d{{1,3}}(?:[ \-.]?\(\d{{1,4}}\)|[ \-.]\d)?(?:[ \-.]?\d{{2,5}}){{2,5}}"
            r"|(?:\+?1[ \-.]?)?(?:\([2-9]\d{2}\)[ -]?|[2-9]\d{2}-)\d{3}[-. ]\d{4}"
            rf"|(?:1[.])?[2-9]\d{{2}}\.[2-9]\d{{2}}\.\d{{4}}){_EXTENSION}{_DIGITS_AFTER}",
            re.ASCII,
        ),
        check=_check_foreign_phone,
    ),
    _Pattern(  # what only its cue word tells, so after all that is told by itself
        kind="landline",
        search=(
            r"(?:[Tt]el|TEL|[Ff]ax|FAX|[Pp]hone|PHONE|[Mm]obile|MOBILE|[Cc]ell|[Hh]otline|WhatsApp|Whatsapp).{0,14}[0-9]{3}",
            r"(?:电话|電話|座机|座機|热线|熱線|传真|傳真|手机|手機|联系方式).{0,7}[+(0-9]",
        ),
        exact=re.compile(
            rf"{_PHONE_CUE}(?P<number>\d{{7,8}}|\d{{3,4}}[ -]\d{{4}}|0[3-9]\d{{8,10}}|[48]00\d{{7}}"
            rf"|0\d{{2,4}}[ -]?\d{{3,4}}[ -]?\d{{3,4}}|\(?[2-9]\d{{2}}\)?[ .-]?\d{{3}}[ .-]?\d{{4}}"
            rf"|(?:00[1-9]|\+)\d(?:[ -]?\d){{6,12}}){_EXTENSION}{_DIGITS_AFTER}",
            re.ASCII | re.IGNORECASE,
        ),
        check=lambda match, _config: not _DATE.fullmatch(match["number"]),
    ),
    _Pattern(
        kind="ipv4",
        search=(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}",),
        exact=re.compile(
            rf"(?=[0-9])(?:(?<![0-9A-Za-z_])(?<![0-9A-Za-z_][.-])|(?<=\.\d-)|(?<=\.\d\d-)|(?<=\.\d\d\d-)|{_LED_IN})"
            rf"(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?!{_WORD_AFTER}|\.\d|-(?!\d{{1,3}}\.\d{{1,3}}\.)[0-9A-Za-z_])",
            re.ASCII,
        ),
        check=_check_address,
    ),
    _Pattern(
        kind="ipv6",
        search=(
            r"[0-9A-Fa-f]:[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:",
            r"[0-9][0-9A-Fa-f]{0,3}::[0-9A-Fa-f]",
            r"[0-9A-Fa-f]:[0-9A-Fa-f]{1,4}::",
        ),
        exact=re.compile(
            r"(?=[0-9A-Fa-f])(?:(?<![0-9A-Za-z_:.])|(?i:(?<=ip:)|(?<=ipv6:)|(?<=address:)|(?<=addr:)|(?<=host:)|(?<=from:)))"
            rf"[0-9A-Fa-f]{{1,4}}:(?:[0-9A-Fa-f]{{0,4}}:){{1,6}}(?:[0-9A-Fa-f]{{1,4}}|(?<=::))(?!{_WORD_AFTER}|:[0-9A-Fa-f:])",
            re.ASCII,
        ),
        check=_check_address,
    ),
    _Pattern(
        kind="qq",
        search=(
            r"(?i)qq.{0,20}[1-9][0-9]{4}",
            r"(?i)(?:加q|q群|q号|q號|q q).{0,20}[1-9][0-9]{4}",
            r"(?:扣扣|企鹅|群号|群號).{0,20}[1-9][0-9]{4}",
        ),
        exact=re.compile(
            r"(?:(?<![A-Za-z])q ?q|qq(?=[群号號:：])|(?-i:(?<=[a-z])(?:QQ|Q(?=[群号號])))"
            r"|加q|(?<![A-Za-z])q(?=[群号號])|扣扣|企鹅(?=[号:：])|(?=群[号號]))"
            r"(?:[ ]?[/、和或&][ ]?(?:微信|wechat|vx|电话|手机))?"
            r"(?:[交技官客学讨][流术方服习论])?(?:群|[ ]group)?"
            r"(?:[帐账]?[号號][码碼]?|[ ]?(?:no\.?|number|id)(?![a-z]))?"
            r"(?:\s*[:：=#是为為(（「【\[]+\s*|\s+(?:is|at):?\s+|\s+|[-–](?=\d{6})|(?=\d))"
            rf"(?P<number>[1-9]\d{{4,10}})(?!{_WORD_AFTER}|\.\d)",
            re.ASCII | re.IGNORECASE,
        ),
        check=_always,
    ),
    _Pattern(
        kind="wechat",
        search=(
            r"(?i)微信|wechat|we-chat|weixin|薇信|威信|v信|加[vx微]",
            r"(?i)[vw]x[号 :：=（(].{0,4}[0-9A-Za-z]",
        ),
        exact=re.compile(
            r"(?P<cue>(?:(?<!添)加(?:[我他她你]的?)?)?(?:微信|薇信|威信|v信)"
            r"(?:[号號][码碼]?|[帐账賬][号號]|[ ]?id(?![a-z]))?"
            r"|加(?:微|vx?|x)|we-?chat(?:[ -]?(?:id|account|number|no\.?)(?![a-z]))?|weixin"
            r"|(?<![0-9A-Za-z_.])[vw]x号?|(?-i:(?<=[a-z])[VW]X(?=[:：])))"
            r"(?:[ ]?[/、和或&][ ]?(?:电话|手机|qq|phone|mobile|tel)|联系|搜索?)?"
            r"(?P<led>\s*[:：=(（「【\[]+\s*|\s*[是为為][:：]?\s*|\s+is:?\s+|[ ](?:me[ ])?at[ ]|[ ]?[-–/][ ]?|\s*)"
            r"(?P<number>[a-z][-_a-z0-9]{5,19}|[1-9]\d{5,10})(?![0-9A-Za-z_-])",
            re.ASCII | re.IGNORECASE,
        ),
        check=_check_wechat,
    ),
)


def _redact_text(text: str, patterns: list[_Pattern], config: RedactConfig) -> tuple[str, collections.Counter[str]]:
    """The text with what these patterns find masked, and how many spans of each kind were."""
    counts: collections.Counter[str] = collections.Counter()
    for pattern in patterns:
        pieces, end, found = [], 0, 0
        for match in pattern.exact.finditer(text):
            if not pattern.check(match, config):
                continue
            start, stop = match.span("number" if "number" in pattern.exact.groupindex else 0)
            pieces += [text[end:start], config.placeholder.replace("{type}", pattern.kind)]
            end, found = stop, found + 1
        if found:
            text = "".join(pieces) + text[end:]
            counts[pattern.kind] += found
    return text, counts


def _suspects(texts: pl.Series, pattern: _Pattern) -> pl.Series:
    return functools.reduce(operator.or_, (texts.str.contains(search) for search in pattern.search))


def redact(table: pl.DataFrame, config: RedactConfig) -> pl.DataFrame:
    """`table` with personal data in `text` masked, `redactions` spans a document and `redacted_<kind>` of each kind."""
    texts = table["text"].fill_null("")
    patterns = [pattern for pattern in _PATTERNS if pattern.kind in config.types]
    suspects = [_suspects(texts, pattern) for pattern in patterns]
    found = {kind: [0] * table.height for kind in KINDS if kind in config.types}
    rows = functools.reduce(operator.or_, suspects).arg_true().to_list()
    changed = []
    for row, text in zip(rows, texts.gather(rows), strict=True):
        suspected = [pattern for pattern, rows_of_it in zip(patterns, suspects, strict=True) if rows_of_it[row]]
        masked, counts = _redact_text(text, suspected, config)
        changed.append(masked)
        for kind in found.keys() & counts.keys():
            found[kind][row] = counts[kind]
    if rows:
        texts = texts.clone().scatter(rows, pl.Series(changed, dtype=pl.String))
    counts_by_kind = [pl.Series(f"redacted_{kind}", found[kind], dtype=pl.Int32) for kind in found]
    total = pl.select(pl.sum_horizontal(*counts_by_kind).cast(pl.Int32).alias("redactions"))["redactions"]
    return table.with_columns(texts.alias("text"), total.alias("redactions"), *counts_by_kind)
