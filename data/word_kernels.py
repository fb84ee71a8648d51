"""The Numba kernel that counts words: stop words, English grammar, distinct words, and phrases of boilerplate.

Words and phrases are looked up by the hashes of their units, so that one pass over the units finds all of them. The
lists that the tables are built from stand below; letter case does not count in phrases.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numba
import numpy as np

from data.text_kernels import Array, mix, units

GOPHER_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
FINEWEB2_STOP_WORDS = tuple("的年在月是和日了於為有被人中为他與後也而由")
ENGLISH_FUNCTION_WORDS = ["the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he", "i", "this", "are", "or", "his", "from", "at", "which", "but", "have", "an", "had", "they", "you", "were", "there", "one", "all", "we", "can", "her", "has", "their", "been", "if", "more", "when", "will", "would", "who", "so", "she", "my", "me", "him", "them", "your", "its", "our", "what", "up", "out", "do", "into", "any", "only", "than", "then", "these", "those", "some", "could", "may", "should", "about", "how", "other", "such", "must", "also", "over", "after", "between", "where", "while"]  # fmt: skip

BOILERPLATE_PHRASES = (
    "版权所有", "版權所有", "保留所有权利", "备案号", "ICP备", "上一篇", "下一篇", "返回列表", "返回顶部", "分享到", "分享至", "打印本页", "关闭窗口", "收藏本",
    "加入收藏", "设为首页", "责任编辑", "責任編輯", "猜你喜欢", "猜您", "相关推荐", "相关阅读", "相关文章", "相關文章", "点击下载", "点击查看", "阅读全文",
    "閱讀全文", "查看更多", "更多内容", "展开全文", "扫一扫", "关注我们", "联系我们", "聯絡我們", "网站地图", "網站地圖", "友情链接", "免责声明", "免責聲明",
    "隐私政策", "隱私權", "用户协议", "服务条款", "首页", "首頁", "转载请", "上一页", "下一页", "发表评论", "提交评论",
    "留下评论", "留言", "微信好友", "微信公众号", "新浪微博", "QQ空间", "当前位置", "您的位置", "返回首页",
    "all rights reserved", "copyright", "privacy policy", "terms of use", "terms of service", "cookie policy", "use cookies", "uses cookies",
    "sign in", "sign up", "log in", "read more", "read this next", "click here", "subscribe", "newsletter", "share on", "share this", "follow us",
    "contact us", "about us", "site map", "sitemap", "skip to", "back to top", "print this", "leave a comment", "post a comment", "previous post",
    "next post", "related posts", "related topics", "related articles", "advertisement", "powered by", "next page", "previous page",
)  # fmt: skip
"""Phrases of navigation, sharing bars and footers."""
POLICY_PHRASES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
"""The phrases for which C4 drops a line."""
_PHRASE_KINDS = (BOILERPLATE_PHRASES, POLICY_PHRASES, ("javascript",), ("lorem ipsum",))

WORD_COUNTS = (
    "words", "word_characters", "english_words", "gopher_stop_words", "fineweb2_stop_words", "distinct_words",
    "boilerplate_phrases", "policy_phrases", "javascript_mentions", "lorem_ipsum",
)  # fmt: skip
DISTINCT_WINDOW = 512
_TABLE = 4096
_ENGLISH = 1 << 40
_BEGINS_PHRASE = 1 << 41
_LONGEST_PHRASE = 6


def hash_units(text: str) -> list[int]:
    """The hashes of the units of one text."""
    encoded = np.frombuffer(text.encode(), dtype=np.uint8)
    return units(encoded, np.array([0, len(encoded)], np.int64))[0].tolist()


@numba.njit(cache=True, inline="always")
def _extend(running: np.uint64, key: np.uint64) -> np.uint64:
    return mix(running * np.uint64(0x9E3779B97F4A7C15) + key)


def _open_addressing(bits: dict[int, int]) -> tuple[Array, Array]:
    keys, values = np.zeros(_TABLE, np.uint64), np.zeros(_TABLE, np.int64)
    for key, value in bits.items():
        slot = key & (_TABLE - 1)
        while keys[slot]:
            slot = (slot + 1) & (_TABLE - 1)
        keys[slot], values[slot] = key, value
    return keys, values


def _written_forms(phrase: str) -> set[str]:
    """A phrase with each of its words in lower case, capitalised or in capitals: `Terms of Use` is one of them."""
    forms = [{word, word.capitalize(), word.upper(), word.replace("javas", "JavaS")} for word in phrase.split(" ")]
    return {" ".join(words) for words in product(*forms)}


@lru_cache(maxsize=1)
def _word_table() -> tuple[Array, Array]:
    """From the hash of a word or a phrase to its bits: keys uint64, bits int64, open addressing.

    Bits 0-7 are Gopher's stop words, 8-39 FineWeb-2's; then English function words, words that begin a phrase, and
    from bit 42 the kinds of phrases.
    """
    bits: dict[int, int] = {}

    def add(key: int, value: int) -> None:
        bits[key] = bits.get(key, 0) | value

    for position, word in enumerate((*GOPHER_STOP_WORDS, *FINEWEB2_STOP_WORDS)):
        add(hash_units(word)[0], 1 << position)
    for word in ENGLISH_FUNCTION_WORDS:
        for form in {word, word.capitalize(), word.upper()}:
            add(hash_units(form)[0], _ENGLISH)
    for kind, phrases in enumerate(_PHRASE_KINDS):
        for phrase in phrases:
            for form in _written_forms(phrase):
                keys = hash_units(form)
                add(keys[0], _BEGINS_PHRASE)
                running = np.uint64(0)
                for key in keys:
                    running = np.uint64(_extend(running, np.uint64(key)))
                add(int(running), 1 << (42 + kind))
    return _open_addressing(bits)


@numba.njit(cache=True, inline="always")
def _look_up(key: np.uint64, keys: Array, values: Array) -> int:
    mask = keys.shape[0] - 1
    slot = np.int64(key) & mask
    while keys[slot] != 0:
        if keys[slot] == key:
            return values[slot]
        slot = (slot + 1) & mask
    return 0


@numba.njit(cache=True)
def _scan_words(hashes: Array, lengths: Array, unit_offsets: Array, keys: Array, values: Array, counts: Array) -> None:
    seen = np.zeros(4 * DISTINCT_WINDOW, np.uint64)
    stamps = np.full(4 * DISTINCT_WINDOW, -1, np.int64)
    for document in range(unit_offsets.shape[0] - 1):
        row = counts[document]
        stop_words = np.int64(0)
        begin, stop = unit_offsets[document], unit_offsets[document + 1]
        for i in range(begin, stop):
            row[1] += lengths[i]
            bits = _look_up(hashes[i], keys, values)
            if bits != 0:
                stop_words |= bits
                row[2] += (bits >> 40) & 1
                if bits & _BEGINS_PHRASE != 0:
                    running = np.uint64(0)
                    for j in range(i, min(i + _LONGEST_PHRASE, stop)):
                        running = _extend(running, hashes[j])
                        found = _look_up(running, keys, values) >> 42
                        if found != 0:
                            for kind in range(4):
                                row[6 + kind] += (found >> kind) & 1
                            break
            if i - begin < DISTINCT_WINDOW:
                slot = np.int64(hashes[i] >> np.uint64(50)) & (4 * DISTINCT_WINDOW - 1)
                while stamps[slot] == document and seen[slot] != hashes[i]:
                    slot = (slot + 1) & (4 * DISTINCT_WINDOW - 1)
                if stamps[slot] != document:
                    stamps[slot], seen[slot] = document, hashes[i]
                    row[5] += 1
        row[0] = stop - begin
        for bit in range(8):
            row[3] += (stop_words >> bit) & 1
        for bit in range(8, 40):
            row[4] += (stop_words >> bit) & 1


def scan_words(hashes: Array, lengths: Array, unit_offsets: Array) -> Array:
    """Counts over the units of each document: int64 of shape (n, len(WORD_COUNTS))."""
    counts = np.zeros((unit_offsets.shape[0] - 1, len(WORD_COUNTS)), dtype=np.int64)
    _scan_words(hashes, lengths, unit_offsets, *_word_table(), counts)
    return counts
