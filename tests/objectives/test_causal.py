"""Next tokens stay within their documents; fill-in-the-middle rearranges and loses nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.causal import build_causal
from objectives.config import CausalConfig
from objectives.example import visible
from objectives.fim import build_fim, fim_stride
from objectives.random import draw_bits, stream_key
from objectives.source import SourceRows
from tokenizer.special_tokens import TEXT_OF_ROLE, SpecialTokens

SPECIAL = SpecialTokens(**{role: 5000 + number for number, role in enumerate(TEXT_OF_ROLE)})


def rows_of(count: int, length: int, ends_in_row: float, seed: int) -> SourceRows:
    """Rows whose tokens are their own places; a document's last is `<|endoftext|>`."""
    ends = np.flatnonzero(np.random.default_rng(seed).random(count * length) < ends_in_row / length) + 1
    tokens = np.tile(np.arange(length), (count, 1))
    tokens.reshape(-1)[ends - 1] = SPECIAL.endoftext
    return SourceRows(tokens, ends, np.ones(count, np.bool_))


@settings(deadline=None, max_examples=100)
@given(length=st.integers(2, 100), ends_in_row=st.floats(0, 40), seed=st.integers(0, 2**32))
def test_every_token_but_the_closing_ones_predicts_the_next(length: int, ends_in_row: float, seed: int) -> None:
    source = rows_of(3, length, ends_in_row, seed)
    batch = build_causal(source, SPECIAL.pad)
    for row in range(3):
        document, start = 0, 0
        for column in range(length - 1):
            token = source.tokens[row, column]
            assert batch.tokens[row, column] == token
            assert batch.document[row, column] == document
            assert batch.positions[row, column] == column - start
            assert batch.context_end[row, column] == start
            if token == SPECIAL.endoftext:
                assert batch.loss_weights[row, column] == 0
                assert batch.targets[row, column] == SPECIAL.pad
                document, start = document + 1, column + 1
            else:
                assert batch.loss_weights[row, column] == 1
                assert batch.targets[row, column] == source.tokens[row, column + 1]
    sees = visible(batch.document, batch.context_end)
    assert (sees <= np.tril(np.ones(sees.shape[1:], np.bool_))).all()


@settings(deadline=None, max_examples=150)
@given(
    window=st.integers(40, 200), ends_in_row=st.floats(0, 30), rate=st.floats(0, 1), fill=st.floats(0.5, 0.9),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_fill_in_the_middle_put_back_gives_the_documents(
    window: int, ends_in_row: float, rate: float, fill: float, seed: int
) -> None:
    config = CausalConfig(fim_rate=rate, fim_fill=fill)
    stride = fim_stride(config, window)
    source = rows_of(3, stride + 1, ends_in_row, seed)
    batch = build_fim(source, draw_bits(stream_key(seed), np.arange(3)), config, window, SPECIAL)
    rearranged = 0
    for row in range(3):
        text: list[int] = []
        for document in np.unique(batch.document[row]):
            columns = np.flatnonzero(batch.document[row] == document)
            tokens = batch.tokens[row, columns].tolist()
            if tokens == [SPECIAL.pad]:
                assert batch.loss_weights[row, columns].sum() == 0
                continue
            assert batch.positions[row, columns].tolist() == list(range(len(columns)))
            closed = tokens[-1] == SPECIAL.endoftext
            expected = [*tokens[1:], None]
            if tokens[0] == SPECIAL.code_prefix:
                rearranged += 1
                suffix, middle = tokens.index(SPECIAL.code_suffix), tokens.index(SPECIAL.code_middle)
                end = len(tokens) - closed
                text += tokens[1:suffix] + tokens[middle + 1 : end] + tokens[suffix + 1 : middle] + tokens[end:]
                expected[-1] = None if closed else SPECIAL.endoftext
            else:
                text += tokens
                expected[-1] = None if closed else int(source.tokens[row, len(text)])
            for column, target in zip(columns, expected, strict=True):
                assert batch.loss_weights[row, column] == (target is not None)
                assert target is None or batch.targets[row, column] == target
        assert text == source.tokens[row, :stride].tolist()
    if rate == 0:
        assert rearranged == 0


def test_the_rate_and_the_cuts_of_fill_in_the_middle() -> None:
    config = CausalConfig(fim_rate=0.5, fim_fill=0.9)
    source = rows_of(20_000, 101, 0.0, 1)
    batch = build_fim(source, draw_bits(stream_key(4), np.arange(20_000)), config, 112, SPECIAL)
    chosen = batch.tokens[:, 0] == SPECIAL.code_prefix
    assert chosen.mean() == pytest.approx(0.5, abs=0.015)
    # The larger of two uniform draws from 0 .. 100 has the mean 67, the smaller 33.
    prefix = np.argmax(batch.tokens[chosen] == SPECIAL.code_suffix, axis=1) - 1
    suffix = np.argmax(batch.tokens[chosen] == SPECIAL.code_middle, axis=1) - prefix - 2
    assert prefix.mean() == pytest.approx(33.2, abs=1)
    assert suffix.mean() == pytest.approx(33.2, abs=1)
    assert prefix.min() == 0
    assert suffix.min() == 0
    assert prefix.max() >= 95


def test_a_row_without_room_for_three_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="fim_fill"):
        fim_stride(CausalConfig(fim_rate=0.5), 128)
