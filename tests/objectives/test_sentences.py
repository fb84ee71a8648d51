"""Sentences end where a reader of Chinese, English and code would say so."""

import re

import numpy as np
import pytest

from objectives.sentences import SentenceEnds


def tokens_of(text: str) -> list[str]:
    """Tokens as a byte-level BPE makes them: words with the space before them, marks, runs of line breaks."""
    return re.findall(r" ?[A-Za-z]+| ?\d+|[\r\n]+|[ \t]+(?=[ \t]\S)|[ \t]+|.", text, re.DOTALL)


def split(text: str, code: bool = False, tokens: list[str] | None = None) -> list[str]:
    pieces = tokens_of(text) if tokens is None else tokens
    assert "".join(pieces) == text
    vocabulary = sorted(set(pieces))
    ends = SentenceEnds([piece.encode() for piece in vocabulary]).find(
        np.array([[vocabulary.index(piece) for piece in pieces]]), np.array([code])
    )[0]
    ends[-1] = True
    sentences, start = [], 0
    for end in np.flatnonzero(ends) + 1:
        sentences.append("".join(pieces[start:end]))
        start = end
    return sentences


CASES = [
    ["今天天气很好。", "我们去公园吧！", "好吗？", "好……", "走"],
    ["他说：「我不去。」", "她走了。"],
    ["“真的吗？！”", "他问。", "（见下文。）", "完"],
    ["圆周率约为3.14，网址是example.com。", "对。"],
    ["第一段没有句号\n", "第二段。\n\n", "第三段"],
    ["It rained all day.", " We stayed in.", " Did you?", " No!"],
    ["Pi is 3.14 and e.g. this or v1.2.3 stays whole.", " Next."],
    ["Mr. Chen met Dr. Li.", " They spoke."],
    ["U.S. law differs.", " So it goes."],
    ['He said "Stop."', " Then he left.", " (It was late.)", " End."],
    ["A heading\n", "A line that is wrapped\nin the middle of a sentence.\n", "Another one."],
    ["中英混排 mixed text。", "Then English.", " 然后中文。", "完"],
]


@pytest.mark.parametrize("sentences", CASES)
def test_prose(sentences: list[str]) -> None:
    assert split("".join(sentences)) == sentences


def test_a_line_of_code_is_a_sentence() -> None:
    lines = ["def f(x):\n", "    return x.y; # 注释。还有\n", "\n", "print('a. B? c!')\n", "x = 3.14"]
    assert split("".join(lines), code=True) == ["def f(x):\n", "    return x.y; # 注释。还有\n\n", *lines[3:]]


def test_marks_merged_into_tokens() -> None:
    assert split("好。”他说", tokens=["好", "。”", "他说"]) == ["好。”", "他说"]
    assert split("好。他说", tokens=["好", "。他", "说"]) == ["好。他", "说"]
    assert split("End.\n\nNew", tokens=["End", ".\n\n", "New"]) == ["End.\n\n", "New"]
    assert split("Mr. Li", tokens=["Mr", ".", " Li"]) == ["Mr. Li"]


def test_every_token_has_an_answer_whatever_its_bytes() -> None:
    pieces = [bytes([byte]) for byte in range(256)] + [b"", "。".encode()[:2]]
    random = np.random.default_rng(0)
    tokens = random.integers(0, len(pieces), (100, 100))
    ends = SentenceEnds(pieces).find(tokens, random.random(100) < 0.5)
    assert ends.shape == tokens.shape
    assert 0 < ends.sum() < ends.size


def test_rows_know_nothing_of_each_other() -> None:
    """Closers, blanks and lower-case words, which say where the sentence before them ends, begin many of the rows."""
    pieces = ["。", "”", ".", " Word", " low", "low", "字", "\n", " "]
    finder = SentenceEnds([piece.encode() for piece in pieces])
    tokens = np.random.default_rng(0).integers(0, len(pieces), (400, 6))
    is_code = np.arange(400) % 5 == 0
    whole = finder.find(tokens, is_code)
    for row in range(400):
        assert (whole[row] == finder.find(tokens[row : row + 1], is_code[row : row + 1])[0]).all()
