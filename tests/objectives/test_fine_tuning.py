"""Fine-tuning pairs are read from left to right, and only targets and their end are predicted."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.example import visible
from objectives.fine_tuning import build_pairs, index_pairs
from objectives.pairs import PairIndex
from tokenizer.special_tokens import TEXT_OF_ROLE, SpecialTokens

SPECIAL = SpecialTokens(**{role: 5000 + number for number, role in enumerate(TEXT_OF_ROLE)})


def indexed(prompts: list[np.ndarray], targets: list[np.ndarray], window: int) -> PairIndex:
    lengths = [np.array([len(part) for part in parts]) for parts in (prompts, targets)]
    order = np.arange(len(prompts))
    return index_pairs(*lengths, order, window)


def test_a_row_is_as_drawn() -> None:
    prompts, targets = [np.array([1, 2, 3]), np.array([4])], [np.array([7, 8]), np.array([9])]
    batch = build_pairs(np.array([0]), indexed(prompts, targets, 10), prompts, targets, 10, SPECIAL)
    end, pad = SPECIAL.endoftext, SPECIAL.pad
    assert batch.tokens[0].tolist() == [1, 2, 3, 7, 8, 4, 9] + [pad] * 3
    assert batch.targets[0].tolist() == [1, 2, 7, 8, end, 9, end] + [pad] * 3
    assert batch.loss_weights[0].tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0, 0]
    assert batch.positions[0].tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 0, 0]
    assert batch.document[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 3, 4]
    # Causal within a pair, and no pair sees another.
    seen = visible(batch.document, batch.context_end)[0, :7, :7]
    assert (seen == np.tril(seen)).all()
    assert seen[:5, :5].sum() == 15
    assert not seen[5:, :5].any()


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 48)), min_size=1, max_size=30),
    window=st.integers(64, 96),
)
def test_every_token_of_a_target_is_predicted_once(lengths: list[tuple[int, int]], window: int) -> None:
    prompts = [np.full(prompt, 10 + pair) for pair, (prompt, _) in enumerate(lengths)]
    targets = [1000 + 100 * pair + np.arange(target) for pair, (_, target) in enumerate(lengths)]
    index = indexed(prompts, targets, window)
    batch = build_pairs(np.arange(index.rows), index, prompts, targets, window, SPECIAL)
    answers = batch.targets[batch.loss_weights > 0]
    assert sorted(answers[answers != SPECIAL.endoftext]) == sorted(np.concatenate(targets))
    assert (answers == SPECIAL.endoftext).sum() == len(targets)
    assert index.left_out == 0
    # What reads a target's token is the token before it; what is not predicted carries no other token's id.
    silent = batch.loss_weights == 0
    assert (batch.targets[silent] == batch.tokens[silent]).all()
    assert (batch.loss_weights.sum(axis=1) > 0).all()


def test_an_overlong_prompt_keeps_its_tail_and_an_overlong_target_is_set_aside() -> None:
    prompts = [np.arange(100), np.arange(5), np.arange(5)]
    targets = [np.array([900, 901]), np.arange(1000, 1012), np.arange(2000, 2016)]
    index = indexed(prompts, targets, 16)
    assert (index.shortened, index.left_out) == (2, 1)
    batch = build_pairs(np.arange(index.rows), index, prompts, targets, 16, SPECIAL)
    assert batch.tokens[0].tolist() == [*range(86, 100), 900, 901]
