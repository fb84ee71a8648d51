"""What personal data looks like: a table of patterns, each with the check that decides.

A pattern is searched twice: by Polars over whole columns (Rust's regex, which has no look-around), then exactly in the
texts found. The edges of a pattern are stated in ASCII (no `\\b`), because a Han character counts as a letter and
personal data stands right beside Han text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from data.personal_data_checks import (
    NUMBER_WORD,
    always,
    is_address,
    is_email,
    is_foreign_phone,
    is_no_date,
    is_own_bank_card,
    is_own_identity_card,
    is_own_number,
    is_public_address,
    is_wechat_name,
)

PersonalData = Literal[
    "email", "mobile", "landline", "international_phone", "id_card", "bank_card", "ipv4", "ipv6", "qq", "wechat"
]
KINDS: tuple[PersonalData, ...] = (
    "email", "id_card", "bank_card", "mobile", "landline", "international_phone", "ipv4", "ipv6", "qq", "wechat",
)  # fmt: skip
"""In the order in which they are masked: what is told surest goes first."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """How one kind is found.

    Any of `search` selects a document. They stand apart because each alone has a literal that the engine looks for
    first; joined into one expression they have none, and cost ten times as much. Where `exact` has a group `number`,
    that group alone is masked, else the whole match.
    """

    kind: PersonalData
    search: tuple[str, ...]
    """Rust's regular expressions."""
    exact: re.Pattern[str]
    check: Callable[[re.Match[str]], bool]
    """Whether a match of `exact` is personal data."""
    public: Callable[[re.Match[str]], bool] = always
    """Asked too, unless the user wants addresses masked that lead nowhere outside."""


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
_CARD_CUE_END = rf"[ ]?{NUMBER_WORD}?[ ]?[:：#是为為]?[ ]{{0,2}}"
_GAP = rf"[ .\u00a0{_DASH}]?"
_CHINA = r"(?:[(（](?:[+＋]|00)86[)）]|[+＋][(（]86[)）]|(?:[+＋]|00)86)"
_AREA = r"(?:10|2\d|[3-9]\d{2})"
_EXTENSION = rf"(?:[ ]?(?:转|轉|分机号?|分機|,?[ ]?ext\.?|,?[ ]?x)[:： ]?\d{{1,6}}|[{_DASH}]\d{{1,5}})?"
_LINES = "电话|電話|座机|座機|热线|熱線|传真|傳真"
_PHONES = rf"{_LINES}|手机|手機|联系方式"
_PHONE_CUE = (
    r"(?:(?<![A-Za-z])(?:telephone|tel|phone|fax|mobile|cell|hotline|whatsapp)(?:[ ]?(?:no\.?|number|\#))?[ .]?[:：]"
    rf"|(?:{_PHONES})(?:号码?|號碼?)?[ ]?[:：为為是]"
    rf"|(?:{_LINES})(?:号码?|號碼?)?)[ ]{{0,2}}"
)

PATTERNS: tuple[Pattern, ...] = (
    Pattern(
        kind="email",
        search=(r"[0-9A-Za-z_+-]@[0-9A-Za-z]", r"＠[0-9A-Za-z]"),
        exact=re.compile(
            r"(?<![0-9A-Za-z_])[0-9A-Za-z_](?:[0-9A-Za-z_%+-]|\.(?=[0-9A-Za-z_%+-])){0,63}"
            r"[@＠](?:[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?\.)+"
            r"(?:(?:com|net|org|edu|gov|cn)(?=[0-9])"
            rf"|(?:[A-Za-z]{{2,24}}?|xn--[0-9A-Za-z]{{2,40}}?)(?!{_WORD_AFTER.replace('_]', ']')}|-[0-9A-Za-z]))"
        ),
        check=is_email,
    ),
    Pattern(
        kind="id_card",
        search=(r"[0-9]{17}[0-9Xx]|[0-9]{6}[ -][0-9]{8}[ -][0-9]{3}[0-9Xx]",),
        exact=re.compile(_DIGITS_BEFORE + r"[1-8]\d{5}([ -]?)\d{8}\1\d{3}[0-9Xx]" + _DIGITS_AFTER, re.ASCII),
        check=is_own_identity_card,
    ),
    Pattern(
        kind="bank_card",
        search=(
            r"[0-9]{15}|[0-9]{4}[ -][0-9]{4,6}[ -][0-9]{4,5}",
            rf"[0-9]{{4}}[ \u00a0{_DASH}][0-9]{{4}}[ \u00a0{_DASH}][0-9]{{4}}",
            r"[0-9]{6} [0-9]{13}",
        ),
        exact=re.compile(
            _DIGITS_BEFORE
            + rf"(?:\d{{15,19}}|\d{{4}}([ \u00a0{_DASH}])\d{{4}}\1\d{{4}}\1\d{{4}}(?:\1\d{{1,3}})?"
            + r"|\d{4}[ -]\d{6}[ -]\d{5}|\d{6} \d{13})"
            + _DIGITS_AFTER,
            re.ASCII,
        ),
        check=is_own_bank_card,
    ),
    Pattern(  # with the cue, those of 15 digits too, and those whose check fails: the writer calls them so
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
        check=always,
    ),
    Pattern(
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
        check=always,
    ),
    Pattern(
        kind="mobile",
        search=(rf"1[3-9][0-9]{_GAP}[0-9]{{4}}{_GAP}[0-9]{{4}}",),
        exact=re.compile(
            rf"{_PHONE_BEFORE}(?:{_CHINA}{_GAP}|86[ {_DASH}]|(?<=[:：话話机機])86)?"
            rf"1[3-9]\d{_GAP}\d{{4}}{_GAP}\d{{4}}{_DIGITS_AFTER}",
            re.ASCII,
        ),
        check=is_own_number,
    ),
    Pattern(
        kind="landline",
        search=(
            rf"0[1-9][0-9]{{1,2}}[)）]? ?{_GAP} ?[1-9][0-9]{{2,3}}{_GAP}[0-9]{{4}}",
            rf"86[)）]?{_GAP}[(（]?0?[)）]?[1-9][0-9]{{1,2}}[)）]?{_GAP}[1-9][0-9]{{2}}",
            rf"[48]00[ {_DASH}][0-9]{{3,4}}",
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
        check=is_own_number,
    ),
    Pattern(
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
        check=is_foreign_phone,
    ),
    Pattern(  # what only its cue word tells, so after all that is told by itself
        kind="landline",
        search=(
            r"(?:[Tt]el|TEL|[Ff]ax|FAX|[Pp]hone|PHONE|[Mm]obile|MOBILE|[Cc]ell|[Hh]otline|WhatsApp|Whatsapp).{0,14}[0-9]{3}",
            rf"(?:{_PHONES}).{{0,7}}[+(0-9]",
        ),
        exact=re.compile(
            rf"{_PHONE_CUE}(?P<number>\d{{7,8}}|\d{{3,4}}[ -]\d{{4}}|0[3-9]\d{{8,10}}|[48]00\d{{7}}"
            rf"|0\d{{2,4}}[ -]?\d{{3,4}}[ -]?\d{{3,4}}|\(?[2-9]\d{{2}}\)?[ .-]?\d{{3}}[ .-]?\d{{4}}"
            rf"|(?:00[1-9]|\+)\d(?:[ -]?\d){{6,12}}){_EXTENSION}{_DIGITS_AFTER}",
            re.ASCII | re.IGNORECASE,
        ),
        check=is_no_date,
    ),
    Pattern(
        kind="ipv4",
        search=(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}",),
        exact=re.compile(
            rf"(?=[0-9])(?:(?<![0-9A-Za-z_])(?<![0-9A-Za-z_][.-])|(?<=\.\d-)|(?<=\.\d\d-)|(?<=\.\d\d\d-)|{_LED_IN})"
            rf"(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?!{_WORD_AFTER}|\.\d|-(?!\d{{1,3}}\.\d{{1,3}}\.)[0-9A-Za-z_])",
            re.ASCII,
        ),
        check=is_address,
        public=is_public_address,
    ),
    Pattern(
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
        check=is_address,
        public=is_public_address,
    ),
    Pattern(
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
        check=always,
    ),
    Pattern(
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
        check=is_wechat_name,
    ),
)
"""In the order in which they are looked for."""
