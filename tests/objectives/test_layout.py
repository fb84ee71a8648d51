"""The worked examples of the objective's definition, token by token."""

import numpy as np
import pytest

from objectives.layout import Marks, Numbering, Pieces, Spans, lay_out

A, B, C, D, E, F, G, H, I, J = range(10)  # noqa: E741
MASK, GMASK, SOP, EOP, PAD = 20, 21, 22, 23, 24
MARKS = Marks(mask=MASK, sop=SOP, eop=EOP, pad=PAD)
TEXT = np.arange(10)


def one_piece(length: int) -> Pieces:
    return Pieces(np.array([0]), np.array([0]), np.array([length]))


def spans(*bounds: tuple[int, int], order: list[int]) -> Spans:
    starts = np.array([start for start, _ in bounds])
    return Spans(np.zeros_like(starts), starts, np.array([end for _, end in bounds]) - starts, np.array(order))


def test_worked_example_with_the_later_span_first() -> None:
    batch = lay_out(
        TEXT, one_piece(10), spans((2, 3), (5, 8), order=[1, 0]), MARKS,
        rows=1, window=14, closed=True, numbering="glm",
    )  # fmt: skip
    assert batch.tokens[0].tolist() == [A, B, MASK, D, E, MASK, I, J, SOP, F, G, H, SOP, C]
    assert batch.targets[0].tolist() == [A, B, MASK, D, E, MASK, I, J, F, G, H, EOP, C, EOP]
    assert batch.loss_weights[0].tolist() == [0] * 8 + [1] * 6
    assert batch.positions[0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 5, 5, 5, 5, 2, 2]
    assert batch.positions[0, 1].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 1, 2]
    assert batch.context_end[0].tolist() == [8] * 14
    assert batch.document[0].tolist() == [0] * 14


def test_worked_example_with_the_earlier_span_first() -> None:
    batch = lay_out(
        TEXT, one_piece(10), spans((2, 3), (5, 8), order=[0, 1]), MARKS,
        rows=1, window=14, closed=True, numbering="glm",
    )  # fmt: skip
    assert batch.tokens[0].tolist() == [A, B, MASK, D, E, MASK, I, J, SOP, C, SOP, F, G, H]
    assert batch.targets[0].tolist() == [A, B, MASK, D, E, MASK, I, J, C, EOP, F, G, H, EOP]
    assert batch.loss_weights[0].tolist() == [0] * 8 + [1] * 6
    assert batch.positions[0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 2, 2, 5, 5, 5, 5]
    assert batch.positions[0, 1].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("numbering", "expected"),
    [
        ("repeated", [0, 1, 2, 3, 4, 5, 6, 7, 5, 5, 5, 5, 2, 2]),
        ("multi_task", [0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8, 2, 3]),
        ("plain", list(range(14))),
    ],
)
def test_worked_example_in_one_dimension(numbering: Numbering, expected: list[int]) -> None:
    batch = lay_out(
        TEXT, one_piece(10), spans((2, 3), (5, 8), order=[1, 0]), MARKS,
        rows=1, window=14, closed=True, numbering=numbering,
    )  # fmt: skip
    assert batch.positions[0].tolist() == expected


@pytest.mark.parametrize(
    ("numbering", "expected"),
    [
        ("plain", [list(range(11))]),
        ("multi_task", [[0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9]]),
        ("glm", [[0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4], [0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6]]),
    ],
)
def test_worked_example_of_a_document_suffix(numbering: Numbering, expected: list[list[int]]) -> None:
    batch = lay_out(
        TEXT, one_piece(10), spans((4, 10), order=[0]), MARKS._replace(mask=GMASK),
        rows=1, window=11, closed=False, numbering=numbering,
    )  # fmt: skip
    assert batch.tokens[0].tolist() == [A, B, C, D, GMASK, SOP, E, F, G, H, I]
    assert batch.targets[0].tolist() == [A, B, C, D, GMASK, E, F, G, H, I, J]
    assert batch.loss_weights[0].tolist() == [0] * 5 + [1] * 6
    assert batch.context_end[0].tolist() == [5] * 11
    assert np.atleast_2d(batch.positions[0]).tolist() == expected


def test_two_pieces_a_row_and_padding() -> None:
    pieces = Pieces(np.array([0, 0, 2]), np.array([0, 4, 6]), np.array([4, 2, 4]))
    marked = Spans(np.array([0, 2]), np.array([1, 6]), np.array([2, 1]), np.array([0, 1]))
    batch = lay_out(TEXT, pieces, marked, MARKS, rows=3, window=10, closed=True, numbering="repeated")
    assert batch.tokens[0].tolist() == [A, MASK, D, SOP, B, C, E, F, PAD, PAD]
    assert batch.document[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 2, 3]
    assert batch.context_end[0].tolist() == [3, 3, 3, 3, 3, 3, 8, 8, 9, 10]
    assert batch.positions[0].tolist() == [0, 1, 2, 1, 1, 1, 0, 1, 0, 0]
    assert batch.loss_weights[0].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0]
    assert batch.tokens[1].tolist() == [PAD] * 10
    assert batch.document[1].tolist() == list(range(10))
    assert batch.tokens[2].tolist() == [MASK, H, I, J, SOP, G, PAD, PAD, PAD, PAD]
    assert batch.unmasked.tolist() == [2, 0, 0]


def test_a_row_that_would_overflow_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        lay_out(TEXT, one_piece(10), spans((2, 3), order=[0]), MARKS,
                rows=1, window=11, closed=True, numbering="repeated")  # fmt: skip
