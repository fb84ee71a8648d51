"""Held-out rows score the same tokens once, whatever the objective."""

import numpy as np
import pytest

from objectives.config import ObjectiveConfig
from objectives.example import visible
from objectives.heldout import heldout_rows
from tokenizer.special_tokens import TEXT_OF_ROLE, SpecialTokens

SPECIAL = SpecialTokens(**{role: 1000 + number for number, role in enumerate(TEXT_OF_ROLE)})
BYTES = np.concatenate([np.arange(1000) % 7 + 1, np.zeros(100)]).astype(np.int32)


def documents() -> list[np.ndarray]:
    random = np.random.default_rng(5)
    lengths = [1, 2, 3, 64, 63, 65, 200, 7, 0, 31]
    return [np.append(random.integers(0, 1000, length), SPECIAL.endoftext) for length in lengths]


@pytest.mark.parametrize("kind", ["blank_infilling", "causal"])
def test_second_halves_are_scored_once(kind: str) -> None:
    scored: list[int] = []
    for rows in heldout_rows(documents(), ObjectiveConfig(kind=kind), 64, SPECIAL, BYTES, rows_in_batch=3):
        scored += rows.batch.targets[rows.batch.loss_weights > 0].tolist()
        assert (
            rows.target_bytes[rows.batch.loss_weights > 0] == BYTES[rows.batch.targets[rows.batch.loss_weights > 0]]
        ).all()
        assert rows.target_bytes[rows.batch.loss_weights == 0].sum() == 0
    expected: list[int] = []
    for document in documents():
        text = document[:-1]
        if len(text) >= 2:
            for part in np.array_split(text, -(-len(text) // 63)):
                expected += part[len(part) // 2 :].tolist()
    assert scored == expected


@pytest.mark.parametrize("kind", ["blank_infilling", "causal"])
def test_a_scored_token_sees_what_stands_before_it_and_nothing_else(kind: str) -> None:
    """Of its part of the document, whose tokens all differ here: the context whole, the answer up to itself."""
    lengths = [2, 3, 64, 63, 65, 200, 7, 31]
    texts = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    parts = [part for text in texts for part in np.array_split(text, -(-len(text) // 63))]
    before = {int(token): part[:place].tolist() for part in parts for place, token in enumerate(part)}
    scored = 0
    for rows in heldout_rows(texts, ObjectiveConfig(kind=kind), 64, SPECIAL, np.ones(2000, np.int32)):
        batch = rows.batch
        sees = visible(batch.document, batch.context_end)
        for row, column in zip(*np.nonzero(batch.loss_weights), strict=True):
            seen = batch.tokens[row][sees[row, column]]
            assert sorted(seen[seen < 1000].tolist()) == before[int(batch.targets[row, column])]
            scored += 1
    assert scored == sum(len(part) - len(part) // 2 for part in parts)
