"""The laws of blank infilling, over random documents and over very many rows."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.blank_infilling import BlankInfilling, BlankTask, source_stride, windows_in_row
from objectives.config import GLM_10B, GLM_130B, BlankInfillingConfig
from objectives.example import Batch
from objectives.random import draw_bits, stream_key
from objectives.sentences import SentenceEnds
from objectives.source import SourceRows
from tokenizer.special_tokens import TEXT_OF_ROLE, SpecialTokens

FIRST_SPECIAL = 5000
SPECIAL = SpecialTokens(**{role: FIRST_SPECIAL + number for number, role in enumerate(TEXT_OF_ROLE)})
# Every seventh token ends a sentence.
SENTENCES = SentenceEnds(["。".encode() if token % 7 == 6 else "字".encode() for token in range(FIRST_SPECIAL)])
MASK_OF_TASK: dict[BlankTask, int] = {"mask": SPECIAL.mask, "sentence": SPECIAL.smask, "document": SPECIAL.gmask}


def make(
    config: BlankInfillingConfig, window: int, task: BlankTask, rows: int, ends_in_row: float, seed: int
) -> tuple[Batch, SourceRows]:
    """A batch whose source tokens are their own places in their rows, so that each token is told from all others."""
    stride = source_stride(config, task, window)
    chosen = np.random.default_rng(seed).random(rows * stride) < ends_in_row / stride
    source = SourceRows(
        np.tile(np.arange(stride, dtype=np.uint16), (rows, 1)), np.flatnonzero(chosen) + 1, np.zeros(rows, np.bool_)
    )
    keys = draw_bits(stream_key(seed, 0), np.arange(rows))
    return BlankInfilling(config, window, SPECIAL, SENTENCES).build(task, source, keys), source


def read_back(batch: Batch, row: int, task: BlankTask) -> list[list[int]]:
    """The documents of a row, by an independent reading: each span goes where its position says that its mask is."""
    documents = []
    tokens, targets = batch.tokens[row], batch.targets[row]
    for document in np.unique(batch.document[row]):
        columns = np.flatnonzero(batch.document[row] == document)
        if tokens[columns[0]] == SPECIAL.pad:
            assert len(columns) == 1
            continue
        context = [column for column in columns if column < batch.context_end[row, columns[0]]]
        answers: dict[int, list[int]] = {}
        mask_column = -1
        for column in columns[len(context) :]:
            assert batch.loss_weights[row, column] == 1
            if tokens[column] == SPECIAL.sop:
                where = batch.positions[row, column] - (1 if task == "document" else 0)
                mask_column = context[where]
                assert mask_column not in answers
                answers[mask_column] = []
            else:
                assert tokens[column] == answers[mask_column][-1]
            if targets[column] != SPECIAL.eop:
                answers[mask_column].append(int(targets[column]))
        text: list[int] = []
        for column in context:
            assert batch.loss_weights[row, column] == 0
            text += answers.pop(column) if tokens[column] == MASK_OF_TASK[task] else [int(tokens[column])]
        assert not answers
        documents.append(text)
    return documents


def pieces_of(source: SourceRows, row: int, windows: int, stride: int) -> list[list[int]]:
    """A row's source tokens, cut at windows and at document ends."""
    cuts = {window * (stride // windows) for window in range(windows)} | {stride}
    cuts |= {int(end) - row * stride for end in source.ends if row * stride < end <= (row + 1) * stride}
    bounds = sorted(cuts | {0})
    return [list(range(low, high)) for low, high in itertools.pairwise(bounds)]


@settings(deadline=None, max_examples=150)
@given(
    task=st.sampled_from(["mask", "sentence", "document"]),
    window=st.integers(64, 600),
    windows=st.integers(1, 4),
    ends_in_row=st.floats(0, 60),
    ratio=st.floats(0, 0.6),
    minimum=st.floats(0, 1),
    rule=st.sampled_from(["glm130b", "glm"]),
    seed=st.integers(0, 2**32),
)
def test_part_b_put_back_into_part_a_gives_the_documents(
    task: BlankTask, window: int, windows: int, ends_in_row: float, ratio: float, minimum: float, rule: str, seed: int
) -> None:
    config = BlankInfillingConfig(
        mask_windows=windows, sentence_windows=windows, sentence_share=0.3, mask_ratio=ratio, sentence_ratio=ratio,
        document_minimum=minimum, document_rule=rule, document_fill=0.9, sentence_fill=0.85,
        short_sequence_probability=0.0, single_span_probability=0.2,
    )  # fmt: skip
    batch, source = make(config, window, task, 3, ends_in_row, seed)
    stride = source.tokens.shape[1]
    for row in range(3):
        assert read_back(batch, row, task) == pieces_of(source, row, windows_in_row(config, task), stride)


def check_rows(batch: Batch, source: SourceRows, task: BlankTask, windows: int, cut_further: bool = False) -> None:
    """Every law that arrays can say at once; the source's tokens are their places in their rows.

    `cut_further`: short sequences cut some windows into more pieces.
    """
    rows, stride = source.tokens.shape
    row = np.arange(rows)[:, None]
    is_padding = batch.tokens == SPECIAL.pad
    in_part_b = batch.loss_weights == 1
    is_mask = batch.tokens == MASK_OF_TASK[task]
    is_sop = batch.tokens == SPECIAL.sop
    assert (in_part_b | (batch.loss_weights == 0)).all()
    assert not (in_part_b & (is_mask | is_padding)).any()

    # Each source token is shown in Part A or is a target of Part B, once.
    places = np.concatenate([
        (row * stride + batch.tokens)[~in_part_b & ~is_mask & ~is_padding],
        (row * stride + batch.targets)[in_part_b & (batch.targets < FIRST_SPECIAL)],
    ])  # fmt: skip
    assert (np.bincount(places, minlength=rows * stride) == 1).all()
    # One <sop> a mask, one <eop> a mask where there is one at all, and no other special token.
    masks = is_mask.sum(axis=1)
    assert (is_sop.sum(axis=1) == masks).all()
    assert ((in_part_b & (batch.targets == SPECIAL.eop)).sum(axis=1) == (0 if task == "document" else masks)).all()
    special = batch.tokens >= FIRST_SPECIAL
    assert (special == (is_mask | is_sop | is_padding)).all()
    if task != "sentence":
        assert not (is_mask[:, 1:] & is_mask[:, :-1] & (batch.document[:, 1:] == batch.document[:, :-1])).any()

    # Inputs of Part B are the targets one place before; a span's targets follow one another in the source.
    goes_on = in_part_b[:, 1:] & ~is_sop[:, 1:]
    assert (batch.tokens[:, 1:][goes_on] == batch.targets[:, :-1][goes_on]).all()
    inside = goes_on & (batch.targets[:, 1:] != SPECIAL.eop)
    assert (batch.targets[:, 1:][inside] == batch.targets[:, :-1][inside] + 1).all()

    # Nothing crosses a document or a window, and what the row calls one document is one piece.
    ends = np.zeros(rows * stride + 1, np.int64)
    ends[source.ends] = 1
    ends[np.arange(rows * windows) * (stride // windows)] = 1
    piece = np.cumsum(ends[:-1])
    shown = (~is_padding) & (np.where(in_part_b, batch.targets, batch.tokens) < FIRST_SPECIAL)
    identity = piece[(row * stride + np.where(in_part_b, batch.targets, batch.tokens))[shown]]
    document = (row * (batch.document.max() + 1) + batch.document)[shown]
    piece_of_document = np.full(rows * (int(batch.document.max()) + 1), -1)
    piece_of_document[document] = identity
    assert (piece_of_document[document] == identity).all()
    documents, pieces = int((piece_of_document >= 0).sum()), len(np.unique(identity))
    assert documents > pieces if cut_further else documents == pieces
    closing = np.zeros(rows * stride, np.bool_)
    closing[source.ends - 1] = True
    if task != "document":
        assert not closing[(row * stride + batch.targets)[in_part_b & (batch.targets < FIRST_SPECIAL)]].any()


@pytest.mark.parametrize("task", ["mask", "sentence", "document"])
def test_no_target_is_lost_over_100_000_rows(task: BlankTask) -> None:
    config = dataclasses.replace(GLM_130B, sentence_share=0.2, shortest_sequence=16)
    spare = 0
    for chunk in range(50):
        batch, source = make(config, 256, task, 2000, ends_in_row=2.0, seed=chunk)
        check_rows(batch, source, task, windows_in_row(config, task), cut_further=task == "mask")
        spare += int((~batch.limited).sum())
    assert spare > 50_000


@pytest.mark.slow
@pytest.mark.parametrize("preset", [GLM_130B, GLM_10B], ids=["glm-130b", "glm-10b"])
@pytest.mark.parametrize("task", ["mask", "sentence", "document"])
def test_no_target_is_lost_over_100_000_rows_of_full_length(preset: BlankInfillingConfig, task: BlankTask) -> None:
    window = 2048 if preset is GLM_130B else 512
    config = dataclasses.replace(preset, sentence_share=0.2, positions="glm130b", decoder_noise=0.0)
    for chunk in range(400):
        batch, source = make(config, window, task, 250, ends_in_row=2.0, seed=chunk)
        check_rows(batch, source, task, windows_in_row(config, task), cut_further=task == "mask")


def test_short_sequences_lose_nothing() -> None:
    config = dataclasses.replace(GLM_130B, short_sequence_probability=1.0)
    batch, source = make(config, 512, "mask", 50, ends_in_row=1.0, seed=3)
    plain, _ = make(dataclasses.replace(config, short_sequence_probability=0.0), 512, "mask", 50, 1.0, 3)
    for row in range(50):
        documents = read_back(batch, row, "mask")
        assert [token for document in documents for token in document] == source.tokens[row].tolist()
        assert len(documents) > len(read_back(plain, row, "mask"))


def test_decoder_noise_touches_inputs_alone() -> None:
    quiet, _ = make(GLM_10B, 512, "mask", 200, 1.0, seed=9)
    silent, _ = make(dataclasses.replace(GLM_10B, decoder_noise=0.0), 512, "mask", 200, 1.0, seed=9)
    changed = quiet.tokens != silent.tokens
    for name in ("targets", "loss_weights", "positions", "document", "context_end"):
        assert (getattr(quiet, name) == getattr(silent, name)).all()
    assert (quiet.tokens[changed] == SPECIAL.mask).all()
    may_change = (silent.loss_weights == 1) & (silent.tokens != SPECIAL.sop)
    assert not (changed & ~may_change).any()
    assert changed.sum() / may_change.sum() == pytest.approx(0.1, abs=0.005)


def test_a_row_depends_on_its_own_key_and_tokens_alone() -> None:
    builder = BlankInfilling(GLM_130B, 512, SPECIAL)
    whole, source = make(GLM_130B, 512, "mask", 40, 2.0, seed=1)
    keys = draw_bits(stream_key(1, 0), np.arange(40))
    stride = source.tokens.shape[1]
    for row in range(40):
        own = source.ends[(source.ends > row * stride) & (source.ends <= (row + 1) * stride)] - row * stride
        alone = builder.build(
            "mask", SourceRows(source.tokens[row : row + 1], own, np.zeros(1, np.bool_)), keys[row : row + 1]
        )
        for name, whole_array, alone_array in zip(Batch._fields, whole, alone, strict=True):
            assert (whole_array[row] == alone_array[0]).all(), name


def test_the_shortest_pieces_of_a_full_row_stay_context() -> None:
    config = dataclasses.replace(GLM_130B, document_fill=0.98)
    batch, _ = make(config, 512, "document", 100, ends_in_row=60, seed=2)
    assert batch.limited.any()
    assert (batch.unmasked[batch.limited] > 0).all()
    for row in np.flatnonzero(batch.limited):
        documents = batch.document[row][batch.tokens[row] != SPECIAL.pad]
        lengths = np.bincount(documents)
        with_blank = np.bincount(documents, batch.loss_weights[row][: len(documents)]) > 0
        assert lengths[with_blank].min() - 1 >= lengths[~with_blank].max()


@pytest.mark.parametrize("window", [16, 20, 30])
def test_a_window_too_small_is_refused_in_words(window: int) -> None:
    with pytest.raises(ValueError, match=r"data\.window"):
        source_stride(GLM_130B, "mask", window)
