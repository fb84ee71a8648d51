"""Every text comes back as it went in, and three libraries give it the same ids."""

import json
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.load import Tokenizer, bytes_of_stand_ins

TEXTS = [
    "",
    " ",
    "  \n\n\t x\r\n\r  ",
    "你好，世界。",
    "我用 Python 3.12 写了 1234567 行代码！",
    "𠀀𪛖𫝀𮯠𰀀𱍊",  # Han beyond the basic plane: extensions B to G
    "👩‍👩‍👧‍👦🇨🇳🏳️‍🌈",
    "\x00\x01\x07\x1b\x7f\x85\u200b\u200e\ufeff\u2028",
    "▁▁ ▁a <0x41> <unk> <n>",
    "e\u0301 é ﬁ Å Å ﷺ",
    "\U0010ffff\ue000\ufdd0",
    "    def f(x):\n\t\treturn x  # 注释\n",
    "don't I'M he'steve ’s",
]


def _random_text(rng: random.Random) -> str:
    """Characters of any plane of Unicode, surrogates aside, with runs of common ones between."""
    parts = []
    for _ in range(rng.randint(1, 8)):
        kind = rng.random()
        if kind < 0.4:
            parts += [chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])) for _ in range(6)]
        elif kind < 0.6:
            parts += [chr(rng.randrange(0x4E00, 0xA000)) for _ in range(8)]
        elif kind < 0.8:
            parts += [chr(rng.randrange(0x20, 0x7F)) for _ in range(8)]
        else:
            parts += [rng.choice([" ", "\n", "\t", "\u3000", "，"]) for _ in range(rng.randint(1, 90))]
    return "".join(parts)


@pytest.mark.parametrize("text", TEXTS)
def test_decode_inverts_encode(any_tokenizer: Tokenizer, text: str) -> None:
    assert any_tokenizer.decode(any_tokenizer.encode(text)) == text
    assert any_tokenizer.decode(any_tokenizer.encode_prompt(text)) == text


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60))
def test_decode_inverts_encode_for_any_text(any_tokenizer: Tokenizer, text: str) -> None:
    assert any_tokenizer.decode(any_tokenizer.encode(text)) == text


def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(any_tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    for text in [*TEXTS, *(_random_text(rng) for _ in range(200))]:
        if not {"▁", "\ufdd0"} & set(text):  # SentencePiece writes these two escaped
            ids = any_tokenizer.encode(text)
            assert b"".join(any_tokenizer.token_bytes(i) for i in ids) == text.encode()
            assert any_tokenizer.byte_lengths[ids].sum() == len(text.encode())


def test_special_and_padding_ids_stand_for_no_bytes(bbpe: Tokenizer) -> None:
    assert bbpe.vocab_size % 128 == 0
    assert bbpe.byte_lengths.shape == (bbpe.vocab_size,)
    assert (bbpe.byte_lengths[sorted(bbpe.special_ids)] == 0).all()
    assert (bbpe.byte_lengths[bbpe.token_count :] == 0).all()
    assert bbpe.byte_lengths[: min(bbpe.special_ids)].min() == 1
    assert bbpe.decode(np.array([bbpe.vocab_size - 1])) == ""


def test_three_libraries_give_the_same_ids(any_tokenizer: Tokenizer, any_folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(any_folder, split_special_tokens=True)
    bare = tokenizers.Tokenizer.from_file(str(any_folder / "tokenizer.json"))
    bare.encode_special_tokens = True
    rng = random.Random(1)
    for text in [*TEXTS, *(_random_text(rng) for _ in range(150))]:
        ids = any_tokenizer.encode(text)
        assert bare.encode(text, add_special_tokens=False).ids == ids
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs.decode(ids) == text


def test_sentencepiece_gives_the_same_ids(any_tokenizer: Tokenizer, any_folder: Path, corpus_file: Path) -> None:
    """Of texts without the two escaped characters and without runs of more than 65 spaces."""
    if not (any_folder / "tokenizer.model").exists():
        pytest.skip("not a SentencePiece tokenizer")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(any_folder / "tokenizer.model"))
    rng = random.Random(1)
    texts = [json.loads(line)["text"] for line in corpus_file.read_text(encoding="utf-8").splitlines()]
    texts += [*TEXTS, *(_random_text(rng) for _ in range(200))]
    for text in texts:
        if not {"▁", "\ufdd0"} & set(text) and " " * 66 not in text:
            assert any_tokenizer.encode(text) == theirs.encode(text)


def test_a_lone_surrogate_is_no_text(bbpe: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"character 1 .*U\+D83D"):
        bbpe.encode("a\ud83d")
    with pytest.raises(ValueError, match=r"U\+D83D"):
        bbpe.encode_batch(["fine", "a\ud83d"])


def test_the_256_stand_ins_are_the_librarys() -> None:
    ours = bytes_of_stand_ins()
    assert sorted(ours.values()) == list(range(256))
    assert set(ours) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    letters = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for character in "é你😀\n ":
        ((stand_ins, _),) = letters.pre_tokenize_str(character)
        assert bytes(ours[c] for c in stand_ins) == character.encode()


@pytest.mark.slow
def test_a_hundred_thousand_strings_come_back(any_tokenizer: Tokenizer, any_folder: Path, corpus: Path) -> None:
    """Random strings over every plane, and lines of real text in both languages; and three libraries agree on all."""
    zstandard, transformers = pytest.importorskip("zstandard"), pytest.importorskip("transformers")
    rng = random.Random(2)
    texts = [_random_text(rng) for _ in range(50_000)]
    for name in ("heldout-zh", "heldout-en"):
        with zstandard.open(corpus / "pretrain" / f"{name}.jsonl.zst", "rt", encoding="utf-8") as stream:
            lines = [line for row in stream for line in json.loads(row)["text"].splitlines(keepends=True)]
        texts += lines[:25_000]
    assert len(texts) == 100_000
    assert {unicodedata.category(c)[0] for text in texts for c in text} >= {"L", "M", "N", "P", "S", "Z", "C"}
    assert {ord(c) >> 16 for text in texts for c in text} == set(range(17))
    theirs = transformers.AutoTokenizer.from_pretrained(any_folder, split_special_tokens=True)
    bare = tokenizers.Tokenizer.from_file(str(any_folder / "tokenizer.json"))
    bare.encode_special_tokens = True
    for start in range(0, len(texts), 10_000):
        part = texts[start : start + 10_000]
        ids = any_tokenizer.encode_batch(part)
        assert [any_tokenizer.decode(row) for row in ids] == part
        assert [encoding.ids for encoding in bare.encode_batch(part, add_special_tokens=False)] == ids
        assert theirs(part, add_special_tokens=False, return_attention_mask=False)["input_ids"] == ids
