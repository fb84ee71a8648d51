"""The cuts before byte-level BPE: nothing is lost between them, and each rule does what it is named for."""

import random
from typing import get_args

import pytest
from tokenizers import Regex, pre_tokenizers

from tokenizer.config import HanRule, PretokenizationConfig
from tokenizer.pretokenization import pattern

TEXT = "你好世界，我们abc去北京大学。（真的）12345号 I'm don't  café\n\n    return x == 1;\r\n\tfoo　全角 々〇"

# OpenAI's cl100k_base expression, which GLM-4 takes over, with possessive quantifiers written as plain ones.
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _pieces(text: str, expression: str) -> list[str]:
    split = pre_tokenizers.Split(Regex(expression), "isolated")
    return [piece for piece, _ in split.pre_tokenize_str(text)]


@pytest.mark.parametrize("han", get_args(HanRule))
@pytest.mark.parametrize("digits", ["one", "three", "run"])
def test_every_character_is_in_one_piece(han: HanRule, digits: str) -> None:
    rng = random.Random(0)
    expression = pattern(PretokenizationConfig(han=han, digits=digits))  # type: ignore[arg-type]
    for _ in range(50):
        text = "".join(rng.choice([rng.choice(TEXT), chr(rng.randrange(0x20, 0xD800))]) for _ in range(80))
        assert "".join(_pieces(text, expression)) == text


def test_with_letters_is_cl100k_on_plain_text() -> None:
    """But for combining marks, which stay with their letters here."""
    ours = pattern(PretokenizationConfig(han="with_letters", digits="three"))
    assert _pieces(TEXT, ours) == _pieces(TEXT, CL100K)


def test_how_each_rule_cuts_a_run() -> None:
    text = "你好世界，我们abc去"
    cuts = {han: _pieces(text, pattern(PretokenizationConfig(han=han))) for han in get_args(HanRule)}
    assert cuts["with_letters"] == ["你好世界", "，我们abc去"]
    assert cuts["with_punctuation"] == ["你好世界，我们", "abc", "去"]
    assert cuts["apart"] == cuts["runs_of_8"] == cuts["runs_of_4"] == ["你好世界", "，", "我们", "abc", "去"]
    assert cuts["runs_of_2"] == ["你好", "世界", "，", "我们", "abc", "去"]
    assert cuts["runs_of_1"] == ["你", "好", "世", "界", "，", "我", "们", "abc", "去"]


def test_digits_and_code() -> None:
    assert _pieces("12345", pattern(PretokenizationConfig())) == ["1", "2", "3", "4", "5"]
    assert _pieces("12345", pattern(PretokenizationConfig(digits="three"))) == ["123", "45"]
    assert _pieces("12345", pattern(PretokenizationConfig(digits="run"))) == ["12345"]
    assert _pieces("    return x", pattern(PretokenizationConfig())) == ["   ", " return", " x"]
    assert _pieces("don't", pattern(PretokenizationConfig())) == ["don", "'t"]
    assert _pieces("don't", pattern(PretokenizationConfig(contractions=False))) == ["don", "'t"]
    assert _pieces("he'steve", pattern(PretokenizationConfig())) == ["he", "'steve"]
