"""Whether what looks like personal data is some: checksums, ranges, and what the words around it call it.

The checksum of an identity card is GB 11643-1999's, that of a bank card Luhn's (ISO/IEC 7812). A number that a cue word
calls an order, a version, a checksum or an ISBN is none of a person's. The functions that take a match are the checks
of `data/personal_data.py`, whose patterns they follow.
"""

from __future__ import annotations

import ipaddress
import re

NUMBER_WORD = r"(?:[编編]?[号號][码碼]?|no\.?|number|num)"
"""What may stand between a card's name and its number."""
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
    rf"[ ]?{NUMBER_WORD}?[ \t:：#是为為]*$",
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


def always(_match: re.Match[str]) -> bool:
    """What the pattern alone tells."""
    return True


def is_email(match: re.Match[str]) -> bool:
    """No file name such as `icon@2x.png`."""
    return not match.group().lower().endswith((".png", ".jpg", ".gif", ".svg", ".css", ".js"))


def is_own_number(match: re.Match[str]) -> bool:
    """No number that the words before it call something else."""
    return not _called_otherwise(match.string, match.start()) or bool(
        re.search(r"(?<![a-z])v[ ]?[:：][ ]?$", match.string[max(0, match.start() - 4) : match.start()], re.IGNORECASE)
    )  # a mobile behind "V：" is a WeChat name, and no version


def is_foreign_phone(match: re.Match[str]) -> bool:
    """A number of a telephone's length, and no coordinate."""
    if re.fullmatch(r"\+[0-9]{1,3}\.[0-9]+", match.group()):  # a coordinate
        return False
    return 8 <= len(_digits(match.group())) <= 19 and is_own_number(match)


def is_own_identity_card(match: re.Match[str]) -> bool:
    """A card's number by its check character, in words that do not call it something else."""
    if not is_identity_card(match.group().translate({ord(" "): None, ord("-"): None})):
        return False
    cue = _OTHER_NUMBER.search(match.string[max(0, match.start() - 20) : match.start()])
    if cue and cue.group().lower().startswith("id"):  # "ID number" leads an identity card in, and no order
        return True
    return _called_own_card(match.string, match.start()) or not _called_otherwise(match.string, match.start())


def is_own_bank_card(match: re.Match[str]) -> bool:
    """A card's number by its check digit, in words that do not call it something else."""
    return is_bank_card(_digits(match.group())) and (
        _called_own_card(match.string, match.start()) or not _called_otherwise(match.string, match.start())
    )


_DATE = re.compile(r"(?:19|20)[0-9]{2}[ -]?(?:0[1-9]|1[0-2])[ -]?[0-3][0-9]|(?:19|20)[0-9]{2}[ -](?:19|20)[0-9]{2}")
_TIME = re.compile(r"(?!.*[0-9]{3})[0-9:]+")  # "00:09:27::"
_HAS_DIGIT = re.compile(r"[0-9_]")
_LIKE_A_NAME = re.compile(r"[0-9].*[0-9].*[0-9]|^wxid_|[_-].*[0-9]", re.IGNORECASE)


def is_no_date(match: re.Match[str]) -> bool:
    """Eight digits behind a telephone's cue word are a number, unless they are a day or a span of years."""
    return not _DATE.fullmatch(match["number"])


def is_wechat_name(match: re.Match[str]) -> bool:
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


def is_address(match: re.Match[str]) -> bool:
    """An IP address, and no version, section or time of day."""
    try:
        ipaddress.ip_address(match.group())
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
    return not _TIME.fullmatch(match.group())


def is_public_address(match: re.Match[str]) -> bool:
    """An address that leads to a machine of someone's: not loopback, private, multicast or a network's own."""
    address = ipaddress.ip_address(match.group())
    if address.version == 6:
        inside = address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast
        return not inside and len(match.group()) > 6
    first, second = int(match.group().split(".")[0]), int(match.group().split(".")[1])
    inside = (
        first in (0, 10, 127, 255)
        or (first, second) in ((192, 168), (169, 254))
        or (first == 172 and 16 <= second < 32)
        or match.group().startswith("1.3.6.")  # the root of most object identifiers
        or match.group().endswith(".0.0")  # a network's or a version's, and no machine's
    )
    return not inside and first < 224
