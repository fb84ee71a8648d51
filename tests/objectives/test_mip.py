"""Instruction pairs are packed greedily, keep their targets whole, and stand in the last masked position."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.config import BlankInfillingConfig
from objectives.mip import build_mip, index_pairs
from tokenizer.special_tokens import TEXT_OF_ROLE, SpecialTokens

SPECIAL = SpecialTokens(**{role: 5000 + number for number, role in enumerate(TEXT_OF_ROLE)})


def test_a_pair_is_read_and_predicted_as_defined() -> None:
    texts, targets = [np.array([1, 2, 3]), np.array([4])], [np.array([7, 8]), np.array([9])]
    index = index_pairs(np.array([3, 1]), np.array([2, 1]), np.array([0, 1]), 16, 1)
    expected = {
        "multi_task": [0, 1, 2, 3, 3, 4, 5, 0, 1, 1, 2, 0, 0, 0, 0, 0],
        "plain": [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 0, 0, 0, 0, 0],
    }
    for numbering, positions in expected.items():
        config = BlankInfillingConfig(mip_positions=numbering)
        batch = build_mip(np.array([0]), index, texts, targets, config, 16, SPECIAL)
        m, s, e, p = SPECIAL.mask, SPECIAL.sop, SPECIAL.eop, SPECIAL.pad
        assert batch.tokens[0].tolist() == [1, 2, 3, m, s, 7, 8, 4, m, s, 9] + [p] * 5
        assert batch.targets[0].tolist() == [1, 2, 3, m, 7, 8, e, 4, m, 9, e] + [p] * 5
        assert batch.loss_weights[0].tolist() == [0] * 4 + [1] * 3 + [0] * 2 + [1] * 2 + [0] * 5
        assert batch.positions[0].tolist() == positions
        assert batch.context_end[0, :11].tolist() == [4] * 7 + [9] * 4


@settings(deadline=None, max_examples=100)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=60),
    window=st.integers(32, 128),
    windows=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_every_usable_pair_stands_in_one_row_with_its_whole_target(
    lengths: list[tuple[int, int]], window: int, windows: int, seed: int
) -> None:
    text_lengths, target_lengths = np.array(lengths).T
    order = np.random.default_rng(seed).permutation(len(lengths))
    limit = window // windows
    usable = [
        pair for pair in order
        if target_lengths[pair] > 0 and target_lengths[pair] + 2 + min(text_lengths[pair], limit // 4) <= limit
    ]  # fmt: skip
    if not usable:
        with pytest.raises(ValueError, match="mip_files"):
            index_pairs(text_lengths, target_lengths, order, window, windows)
        return
    index = index_pairs(text_lengths, target_lengths, order, window, windows)
    assert index.pairs.tolist() == usable
    assert index.left_out == len(lengths) - len(usable)
    texts = [np.full(length, 10 + pair) for pair, length in enumerate(text_lengths)]
    targets = [np.full(length, 1000 + pair) for pair, length in enumerate(target_lengths)]
    batch = build_mip(np.arange(index.rows), index, texts, targets, BlankInfillingConfig(), window, SPECIAL)
    answers = batch.targets[(batch.loss_weights == 1) & (batch.targets != SPECIAL.eop)]
    assert (np.bincount(answers - 1000, minlength=len(lengths))[usable] == target_lengths[usable]).all()
    shown = batch.tokens[(batch.loss_weights == 0) & (batch.tokens < 1000)]
    kept = [min(text_lengths[pair], max(limit // 4, limit - 2 - target_lengths[pair])) for pair in usable]
    assert np.bincount(shown - 10, minlength=len(lengths))[usable].tolist() == kept
    # Greedy: what opens a row would not have fitted into the row before.
    used = (batch.tokens != SPECIAL.pad).sum(axis=1)
    for row in range(1, index.rows):
        first = index.pairs[index.row_ends[row - 1]]
        assert used[row - 1] + index.text_lengths[first] + target_lengths[first] + 2 > window
