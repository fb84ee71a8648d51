"""The kernel gives the library's ids: for every rule, over every plane, for pieces seen, new, too long, too many."""

import random
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest
from tokenizers import Regex, pre_tokenizers

import data.encode_kernels as kernels
from data.encode_kernels import LONGEST_PIECE, FastEncoder, character_classes, fast_encoder
from data.text_kernels import text_buffers
from data.tokenize import Encoder
from tokenizer.config import HanRule, PretokenizationConfig, SampleConfig, TokenizerConfig
from tokenizer.load import Tokenizer, load_tokenizer
from tokenizer.train import train

HAN = "清晨的阳光照进窗户街上传来卖豆浆的声音他打开书读了一页又合上𠀀々〇"
EN = "the morning light came through the window and The street was full of voices".split()  # noqa: SIM905
MARKS = [*"，。、“…·!'=١² \n\t\u3000\u00a0", "''", "  ", "\r\n"]
ENDINGS = ["'s", "'S", "'ſ", "'ll", "'LL", "'re", "'d", "'t", ""]


def _text(rng: random.Random) -> str:
    parts = []
    for _ in range(rng.randint(1, 25)):
        kind = rng.random()
        if kind < 0.35:
            parts.append("".join(rng.choice(HAN) for _ in range(rng.randint(1, 12))))
        elif kind < 0.6:
            parts.append(rng.choice([" ", ""]) + rng.choice(EN) + rng.choice(ENDINGS))
        elif kind < 0.8:
            parts.append(rng.choice(MARKS) * rng.randint(1, 4))
        elif kind < 0.9:
            parts.append(str(rng.randrange(10**6)))
        else:
            parts += [chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])) for _ in range(5)]
    return "".join(parts)


def _texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [_text(rng) for _ in range(count)]


@pytest.fixture(scope="module", params=[*get_args(HanRule), "three", "run"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer of each rule for Han, and of each for digits."""
    folder = tmp_path_factory.mktemp(request.param)
    rng = random.Random(0)
    rows = []
    for _ in range(150):
        rows.append(
            {"text": "".join(rng.choice(HAN) * 2 + rng.choice(["", "，"]) for _ in range(60)), "language": "zh"}
        )
        rows.append({"text": " ".join(rng.choice(EN) for _ in range(60)) + "12345\n\n", "language": "en"})
    pl.DataFrame(rows).write_parquet(folder / "corpus.parquet")
    if request.param in ("three", "run"):
        cuts = PretokenizationConfig(digits=request.param, contractions=request.param == "run")
    else:
        cuts = PretokenizationConfig(han=request.param)
    config = TokenizerConfig(vocab_size=900, pretokenization=cuts, sample=SampleConfig(megabytes=1))
    train(config, [folder / "corpus.parquet"], folder / "tokenizer")
    return load_tokenizer(folder / "tokenizer")


def _encoder(tokenizer: Tokenizer) -> FastEncoder:
    encoder = fast_encoder(tokenizer)
    assert encoder is not None
    return encoder


def _encode(encoder: FastEncoder, texts: list[str]) -> list[list[int]]:
    ids, lengths = encoder.encode(*text_buffers(pl.Series(texts, dtype=pl.String)))
    assert int(np.maximum(lengths, 0).sum()) == len(ids)
    ends = np.cumsum(np.maximum(lengths, 0))
    return [ids[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]


def test_the_ids_are_the_librarys(tokenizer: Tokenizer) -> None:
    texts = ["", "'", "'s", "a", " ", "\n", *_texts(1500)]
    expected = [[*ids, tokenizer.special.endoftext] for ids in tokenizer.encode_batch(texts)]
    encoder = _encoder(tokenizer)
    assert _encode(encoder, texts) == expected
    assert _encode(encoder, texts) == expected  # now out of memory


def test_memory_may_fill_up(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SEEN_SLOTS", 256)
    texts = _texts(300, seed=1)
    encoder = _encoder(tokenizer)
    expected = [[*ids, tokenizer.special.endoftext] for ids in tokenizer.encode_batch(texts)]
    assert _encode(encoder, texts) == expected
    assert encoder.filled[0] <= 160


def test_long_pieces_are_the_librarys(tokenizer: Tokenizer) -> None:
    texts = ["short", "=" * LONGEST_PIECE, "文" * 900 + "a" * (LONGEST_PIECE + 1), "x " * 3000, "end"]
    _, lengths = _encoder(tokenizer).encode(*text_buffers(pl.Series(texts)))
    assert lengths[2] == -1
    assert (lengths[[0, 1, 3, 4]] > 0).all()
    ids, lengths = Encoder(tokenizer, "kernel").encode(pl.Series(texts))
    plain, plain_lengths = Encoder(tokenizer, "library").encode(pl.Series(texts))
    assert ids.tolist() == plain.tolist()
    assert lengths.tolist() == plain_lengths.tolist()


def test_only_known_cuts_are_taken(tokenizer: Tokenizer) -> None:
    changed = Tokenizer(tokenizer.definition.replace(r"\\s+(?!\\S)", r"\\s+(?=\\s)"), tokenizer.vocab_size)
    assert changed.definition != tokenizer.definition
    assert fast_encoder(changed) is None


def test_a_class_is_what_the_expressions_say() -> None:
    """Every character of planes 0 to 3 that the scripts of this project use, against the library one by one."""
    classes = character_classes()
    for expression, expected in ((r"[\p{L}\p{M}]", (0, 1)), (r"\p{N}", (2,)), (r"\s", (3, 4))):
        split = pre_tokenizers.Split(Regex(expression), "removed", invert=True)
        for point in [*range(0x20, 0x500), *range(0x2FF0, 0x3100), *range(0xFF00, 0xFFEF), 0x20000, 0x31350, 0xE0100]:
            assert bool(split.pre_tokenize_str(chr(point))) == (classes[point] in expected), hex(point)


@pytest.mark.slow
def test_the_rest_of_unicode_has_no_letters() -> None:
    points = [*range(0x32400, 0xE0000), *range(0xE0200, 0x110000)]
    split = pre_tokenizers.Split(Regex(r"[\p{L}\p{M}\p{N}\s]"), "removed", invert=True)
    assert split.pre_tokenize_str("".join(map(chr, points))) == []
    assert (character_classes()[points] == kernels.OTHER).all()


@pytest.mark.slow
def test_real_text(tokenizer: Tokenizer, corpus: Path) -> None:
    from tokenizer.corpus import Faults, read_documents

    texts = [document.text for document in read_documents([corpus / "documents", corpus / "noisy"], Faults())]
    ids, lengths = Encoder(tokenizer, "kernel").encode(pl.Series(texts))
    plain, plain_lengths = Encoder(tokenizer, "library").encode(pl.Series(texts))
    assert np.array_equal(lengths, plain_lengths)
    assert np.array_equal(ids, plain)
