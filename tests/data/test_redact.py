"""Redaction: every kind in both languages and right beside Han text, and the look-alikes that must stay."""

from __future__ import annotations

import hashlib
import itertools
import random

import polars as pl
import pytest

from data.personal_data import KINDS
from data.personal_data_checks import is_bank_card, is_identity_card
from data.redact import RedactConfig, redact


def masked(text: str, **fields) -> str:
    return redact(pl.DataFrame({"text": [text]}), RedactConfig(**fields))["text"][0]


def luhn(prefix: str) -> str:
    return next(prefix + str(digit) for digit in range(10) if is_bank_card(prefix + str(digit)))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("email", "zhang.wei+news@mail.example.com.cn"),
        ("email", "a_b-1@example.org"),
        ("mobile", "13800138000"),
        ("mobile", "138-0013-8000"),
        ("mobile", "138 0013 8000"),
        ("mobile", "+86 13800138000"),
        ("mobile", "(+86)13800138000"),
        ("mobile", "+86-138-0013-8000"),
        ("mobile", "008613800138000"),
        ("landline", "010-55501234"),
        ("landline", "0571-5550123"),
        ("landline", "(021) 55501234"),
        ("landline", "400-810-5551"),
        ("international_phone", "+1 650 555 0132"),
        ("international_phone", "(212) 555-0115"),
        ("international_phone", "+44 20 7946 0958"),
        ("international_phone", "212-555-0115"),
        ("id_card", "11010519491231002X"),
        ("bank_card", "6228000072466231"),
        ("bank_card", "4111 1111 1111 1111"),
        ("ipv4", "203.0.113.77"),
        ("ipv6", "2001:db8::1039:36ff"),
        ("ipv6", "2001:0db8:85a3:0000:0000:8a2e:0370:7334"),
    ],
)
@pytest.mark.parametrize(
    "frame",
    ["{}", "联系{}即可", "联系：{}。", "Call {}, please.", "({})", "“{}”", "见{}\n下一行", "a,{}", "{}；{}"],
)
def test_personal_data_goes(kind: str, value: str, frame: str) -> None:
    text = frame.format(value, value)
    assert masked(text) == frame.format(f"<{kind}>", f"<{kind}>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("QQ：123456789", "QQ：<qq>"),
        ("加qq群 12345678 一起学", "加qq群 <qq> 一起学"),
        ("微信号：abc_12345，备注来意", "微信号：<wechat>，备注来意"),
        ("WeChat ID: zhang-wei88.", "WeChat ID: <wechat>."),
    ],
)
def test_numbers_with_their_cue(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "order 20240131000000017",
        "订单号：62280000724662310001",
        "pi 3.14159265358979323846",
        "version 10.15.7.1",
        "v1.2.3.4",
        "checksum 440000196704258721",
        "ISBN 978-7-111-54742-6",
        "ISBN 9787111547426",
        "port 127.0.0.1:8080",
        "内网 192.168.1.20 和 10.0.0.8",
        "RFC 5322",
        "git show deadbeef@{1}",
        "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "2024-01-31 12:30:45",
        "1949-10-01 至 2024-10-01",
        "price 13800138.00 yuan",
        "@property def name(self)",
        "icon@2x.png",
        "std::vector::iterator",
        "MAC 00:1b:44:11:3a:b7",
        "全长 13800138000000 米",
        "0.13800138000",
        "10.1038/s41586-021-03819-2",
        "GB/T 11643-1999",
        "110000198503120011 号",
        "我在QQ上说了微信是个好东西",
    ],
)
def test_look_alikes_stay(text: str) -> None:
    assert masked(text) == text


def test_the_check_digits_decide() -> None:
    assert is_identity_card("11010519491231002X")
    assert is_identity_card("11010519491231002x")
    assert not any(is_identity_card("11010519491231002" + digit) for digit in "0123456789")
    assert not is_identity_card("11010519491331002X")  # no thirteenth month
    assert is_bank_card("4111111111111111")
    assert not is_bank_card("4111111111111112")
    assert not is_bank_card("1111111111111117")  # Luhn holds, but no network issues the prefix
    generator = random.Random(1)
    for _ in range(200):
        card = luhn("622" + "".join(str(generator.randrange(10)) for _ in range(12)))
        position = generator.randrange(16)
        wrong = card[:position] + str((int(card[position]) + generator.randrange(1, 10)) % 10) + card[position + 1 :]
        assert is_bank_card(card)
        assert not is_bank_card(wrong)


def test_counts_are_told_by_document_and_kind() -> None:
    rows = ["好", "a@example.com 和 b@example.com，电话 13800138000", None]
    table = redact(pl.DataFrame({"id": [1, 2, 3], "text": rows}), RedactConfig())
    assert table["redactions"].to_list() == [0, 3, 0]
    assert table["redacted_email"].to_list() == [0, 2, 0]
    assert table["redacted_mobile"].to_list() == [0, 1, 0]
    assert (
        table["redactions"].to_list()
        == table.select(pl.sum_horizontal(f"redacted_{kind}" for kind in KINDS)).to_series().to_list()
    )
    assert redact(table, RedactConfig())["text"].equals(table["text"])  # a second time finds nothing
    assert redact(table.clear(), RedactConfig()).height == 0


def test_kinds_and_placeholder_are_settings() -> None:
    text = "a@example.com 13800138000 10.0.0.8"
    assert masked(text, types=["email"]) == "<email> 13800138000 10.0.0.8"
    assert masked(text, placeholder="[{type}]") == "[email] [mobile] 10.0.0.8"
    assert masked(text, private_addresses=True) == "<email> <mobile> <ipv4>"
    assert masked("00:09:27::", private_addresses=True) == "00:09:27::"  # a time is no address of any kind
    with pytest.raises(ValueError, match="types is empty"):
        RedactConfig(types=[])


DRAW = random.Random(20260101)


def digits(count: int) -> str:
    return "".join(str(DRAW.randrange(10)) for _ in range(count))


def mobile() -> str:
    return f"1{DRAW.choice('3456789')}{digits(9)}"


def card() -> str:
    return luhn(DRAW.choice(["62", "45", "51"]) + digits(13))


def identity_card() -> str:
    body = f"{DRAW.choice(['110105', '320106', '440300'])}{DRAW.randrange(1940, 2010)}{DRAW.randrange(1, 13):02d}"
    body += f"{DRAW.randrange(1, 29):02d}{digits(3)}"
    return next(body + check for check in "0123456789X" if is_identity_card(body + check))


def four_parts() -> str:
    return ".".join(str(DRAW.randrange(1, 200)) for _ in range(4))


def hexadecimal(count: int) -> str:
    return hashlib.sha512(digits(9).encode()).hexdigest()[:count]


def spelled(number: str, *gaps: str) -> str:
    """An 11-digit or 16-digit number with one of these gaps between its groups."""
    sizes = (3, 4, 4) if len(number) == 11 else (4, 4, 4, 4)
    ends = list(itertools.accumulate(sizes))
    return DRAW.choice(gaps).join(number[end - size : end] for end, size in zip(ends, sizes, strict=True))


PERSONAL = {
    "email": lambda: f"{DRAW.choice(['wei', 'li.ming', 'a_b'])}{digits(2)}@{DRAW.choice(['a.example.com', 'b.cn'])}",
    "mobile": lambda: DRAW.choice(["", "+86 ", "+86-", "0086"]) + spelled(mobile(), "", "-", " "),
    "id_card": identity_card,
    "bank_card": lambda: spelled(card(), "", " ", "-"),
    "ipv4": lambda: f"{DRAW.choice(['203.0.113', '198.51.100', '192.0.2', '114.114.114'])}.{DRAW.randrange(1, 255)}",
    "ipv6": lambda: "2001:db8:" + ":".join(f"{DRAW.randrange(1, 65535):x}" for _ in range(6)),
    "landline": lambda: f"{DRAW.choice(['010-', '021-', '0571-', '0755 '])}{DRAW.choice('2345678')}{digits(7)}",
    "international_phone": lambda: f"+1 {DRAW.randrange(201, 989)}-{DRAW.randrange(200, 999)}-{digits(4)}",
}
ORDERS = [
    "订单号：", "订单编号", "运单号 ", "流水号是", "工单号为", "合同编号：", "发票号:", "序列号", "货号 ", "Order #",
    "order no. ", "Order number ", "invoice ", "Tracking number: ", "serial no. ", "SKU: ", "ref ",
    "Ticket no. ", "transaction ID: ",
]  # fmt: skip
VERSIONS = [
    "v", "version ", "Version: ", "版本", "版本号：", "Chrome/", "升级到 ", "固件 ", "驱动程序", "build ", "内核",
    "补丁", "SDK ",
]  # fmt: skip
LOOK_ALIKES = {
    "order": lambda: DRAW.choice(ORDERS) + DRAW.choice([mobile, card, lambda: digits(12), lambda: digits(18)])(),
    "version": lambda: DRAW.choice(VERSIONS) + four_parts(),
    "version before its name": lambda: f"{four_parts()} {DRAW.choice(['版', '及以上', 'release', 'and later'])}",
    "five parts": lambda: f"{four_parts()}.{DRAW.randrange(99)}",
    "object identifier": lambda: "1.3.6.1" + DRAW.choice(["", ".4.1.311", ".2.1.1.5"]),
    "hash": lambda: DRAW.choice(["", "commit ", "sha256 "]) + hexadecimal(DRAW.choice([7, 12, 32, 40, 64])),
    "uuid": lambda: "-".join(map(hexadecimal, (8, 4, 4, 4, 12))),
    "isbn": lambda: f"ISBN {DRAW.choice(['978-7-', '9787', '978-0-'])}{digits(3)}{DRAW.choice(['-', ''])}{digits(6)}",
    "issn": lambda: f"ISSN {digits(4)}-{digits(4)}",
    "pi": lambda: "3." + "14159265358979323846264338327950288419716939937510"[: DRAW.randrange(8, 50)],
    "decimal": lambda: f"{digits(2)}.{mobile()}",
    "time": lambda: f"20{digits(2)}-0{DRAW.randrange(1, 9)}-1{digits(1)} 1{digits(1)}:3{digits(1)}:4{digits(1)}",
    "doi": lambda: f"10.{digits(4)}/s{digits(5)}-{digits(3)}-{digits(5)}-{digits(1)}",
    "standard": lambda: f"GB/T {digits(5)}-{DRAW.randrange(1990, 2024)}",
    "address of a page": lambda: f"https://example.com/item/{mobile()}?id={card()}",
    "path": lambda: f"/home/user/{mobile()}.jpg",
    "identity card without its check": lambda: (lambda one: one[:17] + str((int(one[17], 11) + 1) % 10))(
        next(one for one in iter(identity_card, "") if one[17] not in "X9")
    ),
    "card without its check": lambda: (lambda one: one[:15] + str((int(one[15]) + 1) % 10))(card()),
    "long number": lambda: digits(24),
    "hexadecimal number": lambda: "0x" + digits(16),
    "package": lambda: f"{DRAW.choice(['lodash', 'vue', 'node'])}@{DRAW.randrange(1, 20)}.{DRAW.randrange(20)}.0",
}
FRAMES = ["{}", "见{}。", "，{}，", "the {} is", "({})", "“{}”", "\n{}\n", "是{}吗", "x={};", " {} 和 {} "]


@pytest.mark.parametrize("kind", PERSONAL)
def test_every_draw_of_personal_data_goes(kind: str) -> None:
    DRAW.seed(kind)
    draws = [(frame, PERSONAL[kind]()) for frame in FRAMES for _ in range(20)]
    table = redact(pl.DataFrame({"text": [frame.format(one, one) for frame, one in draws]}), RedactConfig())
    assert table["text"].to_list() == [frame.format(f"<{kind}>", f"<{kind}>") for frame, _ in draws]


@pytest.mark.parametrize("kind", LOOK_ALIKES)
def test_every_draw_of_a_look_alike_stays(kind: str) -> None:
    DRAW.seed(kind)
    texts = [frame.format(one, one) for frame in FRAMES for one in (LOOK_ALIKES[kind]() for _ in range(20))]
    table = redact(pl.DataFrame({"text": texts}), RedactConfig())
    assert table["text"].to_list() == texts
    assert table["redactions"].sum() == 0


# The law of frames: every spelling of a kind, behind every cue of its own or none, between any two neighbours
def groups(number: str, *sizes: int, gap: str) -> str:
    ends = itertools.accumulate(sizes)
    return gap.join(number[end - size : end] for end, size in zip(ends, sizes, strict=True))


def spelled_mobile() -> str:
    prefix = DRAW.choice(["", "", "+86 ", "+86-", "+86", "0086", "0086 ", "(+86)", "(+86) ", "（+86）", "86-", "86 "])
    sizes, gap = DRAW.choice([((11,), ""), ((3, 4, 4), " "), ((3, 4, 4), "-"), ((3, 4, 4), "."), ((3, 8), " ")])
    return prefix + groups(mobile(), *sizes, gap=gap)


def spelled_card() -> str:
    size = DRAW.choice([16, 19])
    prefix = DRAW.choice(["621700", "622202", "622848"] + ["411111", "510510"] * (size == 16))
    number = luhn(prefix + digits(size - 7))
    sizes = (4, 4, 4, 4, 3)[: (size + 3) // 4]
    return DRAW.choice([number, groups(number, *sizes, gap=" "), groups(number, *sizes, gap="-")])


def spelled_identity_card() -> str:
    number = identity_card()
    return DRAW.choice([number, number.lower(), groups(number, 6, 8, 4, gap=" "), groups(number, 6, 8, 4, gap="-")])


def spelled_landline() -> str:
    areas = [
        "010-",
        "021-",
        "0571-",
        "(010) ",
        "（021）",
        "(0755)",
        "0755 ",
        "010－",
        "+86 10 ",
        "+86-571-",
        "0086-21-",
    ]
    number = DRAW.choice("2345678") + DRAW.choice([digits(7), f"{digits(3)} {digits(4)}", f"{digits(3)}-{digits(4)}"])
    extension = DRAW.choice(["", "", "", "转801", "-8001", " 转 12", " ext. 12"])
    return DRAW.choice([*areas, "+86 (10) ", "86-10-"]) + number + extension


def spelled_foreign_phone() -> str:
    area, office, line = DRAW.randrange(201, 399), DRAW.randrange(200, 999), digits(4)
    return DRAW.choice([
        f"({area}) {office}-{line}", f"({area}){office}-{line}", f"{area}-{office}-{line}",
        f"+1 {area} {office} {line}", f"+1-{area}-{office}-{line}", f"1-{area}-{office}-{line}",
        f"+1 ({area}) {office}-{line}",
        f"{area}.{office}.{line}", f"+44 20 7{digits(3)} {digits(4)}", f"+852 9{digits(3)} {digits(4)}",
        f"+49 30 {digits(6)}", f"+81-3-{digits(4)}-{digits(4)}",
        f"+33 1 {digits(2)} {digits(2)} {digits(2)} {digits(2)}",
    ])  # fmt: skip


def spelled_email() -> str:
    name = DRAW.choice(["li.wei", "zhang_san", "j.doe", "a.b+c", "a-b", "_x", "o.x%y", "W"]) + DRAW.choice(["", "07"])
    return (
        name + DRAW.choice("@@@＠") + DRAW.choice(["example.com", "mail.example.org", "b.cn", "a-b.com.cn", "x.museum"])
    )


def spelled_ipv6() -> str:
    one, two = (f"{DRAW.randrange(1, 65535):x}" for _ in range(2))
    return DRAW.choice([f"2001:db8::{one}", f"2001:db8::{one}:{two}", PERSONAL["ipv6"](), f"240e:{one}:{two}::1"])


SPELLINGS = {
    "email": spelled_email,
    "mobile": spelled_mobile,
    "id_card": spelled_identity_card,
    "bank_card": spelled_card,
    "ipv4": PERSONAL["ipv4"],
    "ipv6": spelled_ipv6,
    "landline": spelled_landline,
    "international_phone": spelled_foreign_phone,
    "qq": lambda: DRAW.choice("123456789") + digits(DRAW.randrange(5, 10)),
    "wechat": lambda: DRAW.choice(["wx_", "abc", "lily", "li_ming", "Amy", "zhang-wei"]) + digits(DRAW.randrange(3, 7)),
}
CUES = {
    "email": "邮箱|邮箱：|E-mail: |Email:|电子邮件 |mailto:|<|联系 |Mail me at ",
    "mobile": "手机|手机：|电话|Tel: |Tel:|Tel|Tel.|Phone |Mobile: |请拨打|联系电话为|Call me at |微信/手机：|tel/|"
    "电话/",
    "id_card": "身份证号|身份证：|身份证号码为|ID number |ID Number: |ID: |ID card no. |ID No.|ID|证件号码|"
    "证件编号：|my id is ",
    "bank_card": "卡号|卡号：|银行卡|银行账户：|账号:|Card: |Card number |Card No.|工行|信用卡号为|Bank account: |"
    "银行卡编号：",
    "ipv4": "IP：|IP |IP|ip:|服务器地址|from |IP address: |登录 IP 为 |http://|ping |@|host ",
    "ipv6": "IPv6：|IPv6: |IPv6:|IP:|from |source address |地址|[|http://[",
    "landline": "座机：|座机|办公电话|传真 |传真:|热线：|Tel: |Tel:|Fax|Fax: |Tel.|电话|请致电|call |T: ",
    "international_phone": "Call |call|Phone: |Tel:|电话|电话：|WhatsApp: |fax |手机：|at |(office) ",
    "qq": "QQ：|QQ:|QQ |QQ|qq|加QQ|加qq：|加Q|加Q：|qq号 |QQ号码：|QQ群|QQ群号：|QQ交流群：|Q群：|QQ是|我的QQ号是|"
    "QQ number |my QQ is |QQ No. |扣扣：|企鹅号：|QQ（|QQ/微信：|QQ group: |群号：|QQ账号：",
    "wechat": "微信：|微信:|微信号：|微信号|加微信|加我微信|添加微信|微信 |微信|微信是|微信号为|微信ID：|微信（|"
    "WeChat: |wechat:|WeChat ID: |WeChat ID |wechat id is |my wechat is |"
    "Wechat |VX：|vx: |VX |V信|加V|加v：|加vx |加微|薇信：|"
    "weixin: |WX：|微信账号:|微信/电话：|手机/微信：|联系微信|WeChat me at ",
}
BEFORE = [
    "",
    "\n",
    "见",
    "，",
    "。",
    "The ",
    "x. ",
    "| ",
    "“",
    '"',
    "(",
    "（",
    "- ",
    "* ",
    "：",
    "; ",
    "…",
    "\t",
    "【",
    "、",
    "1. ",
    ">",
]
AFTER = [
    "", "\n", "。", ".", "，", ",", "）", ")", "；", ";", "：", "！", "!", "？", "?",
    "的", "吗", "联系", " and", " |", "”",
    '"', "'s", " ", "\t", "、", "/", "】", ". The", ".\n", "...", "<br>", "QQ：", "Tel: ", " ID", "，或", "（",
]  # fmt: skip


@pytest.mark.parametrize("kind", SPELLINGS)
def test_every_spelling_goes_in_every_frame(kind: str) -> None:
    DRAW.seed(f"{kind} in frames")
    own = CUES[kind].split("|")
    if kind not in ("qq", "wechat"):  # the others are told by themselves
        own += [""] * 5
    after = [
        one for one in AFTER if kind != "wechat" or one not in ("QQ：", "Tel: ")
    ]  # letters would go on with a name
    frames = [(DRAW.choice(BEFORE) + DRAW.choice(own), DRAW.choice(after)) for _ in range(600)]
    values = [SPELLINGS[kind]() for _ in frames]
    texts = [before + value + behind for (before, behind), value in zip(frames, values, strict=True)]
    table = redact(pl.DataFrame({"text": texts}), RedactConfig())
    assert table["text"].to_list() == [f"{before}<{kind}>{behind}" for before, behind in frames]
    assert table[f"redacted_{kind}"].sum() == len(texts)


@pytest.mark.parametrize("kind", LOOK_ALIKES)
def test_every_look_alike_stays_in_every_frame(kind: str) -> None:
    DRAW.seed(f"{kind} in frames")
    texts = [DRAW.choice(BEFORE) + LOOK_ALIKES[kind]() + DRAW.choice(AFTER) for _ in range(300)]
    assert redact(pl.DataFrame({"text": texts}), RedactConfig())["text"].to_list() == texts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("电话：55501234", "电话：<landline>"),
        ("Tel: 555-0132", "Tel: <landline>"),
        ("客服热线4008105551。", "客服热线<landline>。"),
        ("手机8613800138000", "手机<mobile>"),
        ("13800138000/13900139000", "<mobile>/<mobile>"),
        ("203.0.113.7-203.0.113.9", "<ipv4>-<ipv4>"),
        ("座机：028-55076666QQ：123456789", "座机：<landline>QQ：<qq>"),
        ("requirementsqq号 183732803", "requirementsqq号 <qq>"),
        ("加微信zhangsanfeng，", "加微信<wechat>，"),
        ("微信号13800138000", "微信号<mobile>"),
        ("a@example.com..b@example.org", "<email>..<email>"),
        ("ID number 11010519491231002X.", "ID number <id_card>."),
        ("身份证号：110105199003071234。", "身份证号：<id_card>。"),  # the check fails, but the writer calls it so
        ("身份证 110105491231002，", "身份证 <id_card>，"),  # of fifteen digits, as before 1999
        ("银行卡号：6222 0212 3456 7890 123。", "银行卡号：<bank_card>。"),
        ("credit card number 4111 1111 1111 1112", "credit card number <bank_card>"),
        ("加我V：13800138000", "加我V：<mobile>"),
        ("IP为203.0.113.7条件", "IP为<ipv4>条件"),
        ("Tel: 86-185-6828-2362Mail me", "Tel: <mobile>Mail me"),
    ],
)
def test_numbers_beside_each_other_and_told_by_their_cue(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "微信SDK 8.0.37", "微信iphone12", "微信openid字段", "wechat is popular", "WeChat Pay and Alipay", "vxworks653",
        "wx: 10px", "vx = velocity", "电话：2023-11-07", "热线 20231107", "Phone: 2019-2020", "手机3000000部",
        "QQ 2013 正式版", "第 6.3.1.1 节", "section 2.7.2.1", "## 3.8.0.7", "version='6.0.0.0'", "Oracle 11.2.0.2",
        'KeyFileVersion: "1.2.0.3"', "1.0.0.0", "pip21.2.3.4", "Windows Phone 8.1.14219.341", "grid4111111111111111",
        "order id 11010519491231002X", "img/13800138000.jpg", "2023/11/07/13800138000",
        "Lat: +69.244304 Lng: -53.548951", "09/24/2015-00:09:27:: e",
    ],
)  # fmt: skip
def test_words_beside_a_cue_stay(text: str) -> None:
    assert masked(text) == text
