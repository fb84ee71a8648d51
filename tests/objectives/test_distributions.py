"""Draws over 100,000 rows against exact theory, which includes the overshoot of each piece's last span.

Every test prints its figures (`pytest -s`) and asks for p > 1e-4 under a fixed seed. Rows are one piece of 448 tokens
in a window of 512, which has room for 32 spans; the theory is that of rows which need no more, and rows which the room
limited are left out (`benchmarks/objectives.py --data` prints their share on real text).
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from objectives.blank_infilling import BlankInfilling, BlankTask, source_stride
from objectives.config import GLM_10B, GLM_130B, BlankInfillingConfig
from objectives.example import Batch
from objectives.random import as_floats, draw_bits, stream_key
from objectives.sentences import SentenceEnds
from objectives.source import SourceRows
from objectives.spans import span_length_distribution
from tokenizer.special_tokens import TEXT_OF_ROLE, SpecialTokens

SPECIAL = SpecialTokens(**{role: 5000 + number for number, role in enumerate(TEXT_OF_ROLE)})
ROWS = 100_000
WINDOW = 512
PLAIN = BlankInfillingConfig(
    mask_windows=1, sentence_fill=0.875, single_span_probability=0.0, short_sequence_probability=0.0
)


def batches(config: BlankInfillingConfig, task: BlankTask, sentences: SentenceEnds | None = None) -> Iterator[Batch]:
    """100,000 rows of one piece each, 500 at once, whose tokens are their own places."""
    builder = BlankInfilling(config, WINDOW, SPECIAL, sentences)
    stride = source_stride(config, task, WINDOW)
    source = SourceRows(np.tile(np.arange(stride), (500, 1)), np.zeros(0, np.int64), np.zeros(500, np.bool_))
    key = stream_key(2026, 11)
    for first in range(0, ROWS, 500):
        yield builder.build(task, source, draw_bits(key, np.arange(first, first + 500)))


@dataclasses.dataclass
class MaskDraws:
    """What the rows of a `[MASK]` run hold."""

    length: NDArray[np.int64]
    """Of every span, row after row in the order of Part B."""
    first: NDArray[np.int64]
    """Its first token."""
    row: NDArray[np.int64]
    """Its row, counted without those that the room limited."""
    rows: int

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.bincount(self.row, minlength=self.rows)

    @property
    def masked(self) -> NDArray[np.int64]:
        return np.bincount(self.row, self.length, self.rows).astype(np.int64)


@pytest.fixture(scope="module")
def masks() -> MaskDraws:
    lengths, firsts, rows = [], [], []
    free = 0
    for batch in batches(PLAIN, "mask"):
        tokens, targets = batch.tokens[~batch.limited], batch.targets[~batch.limited]
        row, column = np.nonzero(tokens == SPECIAL.sop)
        ends = np.flatnonzero(targets == SPECIAL.eop)
        lengths.append(ends - (row * WINDOW + column))
        firsts.append(targets[row, column])
        rows.append(row + free)
        free += len(tokens)
    print(f"\nrows limited by their room: {ROWS - free} of {ROWS:,}")
    return MaskDraws(np.concatenate(lengths), np.concatenate(firsts), np.concatenate(rows), free)


def goodness(name: str, observed: NDArray, expected: NDArray, lost: int = 1) -> float:
    """p of Pearson's test over cells of 10 or more expected; neighbouring cells are joined until they are."""
    cells: list[list[float]] = [[0.0, 0.0]]
    for o, e in zip(observed, expected, strict=True):
        cells[-1][0] += o
        cells[-1][1] += e
        if cells[-1][1] >= 10:
            cells.append([0.0, 0.0])
    last = cells.pop()
    cells[-1][0] += last[0]
    cells[-1][1] += last[1]
    o, e = np.array(cells).T
    statistic = float(((o - e) ** 2 / e).sum())
    p = float(stats.chi2.sf(statistic, len(cells) - lost))
    print(f"\n{name}: chi2 {statistic:.1f} over {len(cells)} cells, p = {p:.4f}")
    return p


class Renewal:
    """Drawing lengths until their sum reaches `target`, given that it takes `most` spans at most: exact."""

    def __init__(self, probabilities: NDArray[np.float64], target: int, most: int) -> None:
        longest = len(probabilities)
        step = np.append(0.0, probabilities)
        below = np.zeros((most + 1, target))  # after so many spans, at such a sum below the target
        below[0, 0] = 1.0
        joint = np.zeros((most + 1, target + longest))
        for count in range(1, most + 1):
            after = np.convolve(below[count - 1], step)
            joint[count, target : len(after)] = after[target:]
            below[count] = after[:target]
        self.unlimited = float(joint.sum())
        """Probability of that condition."""
        self.spans = joint.sum(axis=1) / self.unlimited
        """Distribution of the number of spans."""
        self.masked = joint.sum(axis=0) / self.unlimited
        """Distribution of the sum."""
        within = np.zeros((most + 1, target + longest + 1))  # chance to end with so many more spans, from such a sum
        within[:, target:] = 1.0
        for more in range(1, most + 1):
            for total in range(target):
                within[more, total] = probabilities @ within[more - 1, total + 1 : total + 1 + longest]
        self.of_length = np.zeros(longest)
        """Expected number of spans of each length."""
        for count in range(1, most + 1):
            ending = np.lib.stride_tricks.sliding_window_view(within[most - count, 1:], longest)[:target]
            self.of_length += below[count - 1] @ ending * probabilities / self.unlimited


THEORY = Renewal(span_length_distribution(3.0, 39), target=int(0.15 * 448), most=32)


def test_the_length_distribution_is_the_papers() -> None:
    expected = stats.poisson.pmf(np.arange(1, 40), 3)
    assert span_length_distribution(3.0, 39) == pytest.approx(expected / expected.sum(), abs=1e-15)
    assert (np.arange(1, 40) * span_length_distribution(3.0, 39)).sum() == pytest.approx(3.157, abs=5e-4)


def test_span_lengths(masks: MaskDraws) -> None:
    # Counts of lengths less their expectation are a martingale over the draws, whose bracket is the multinomial's;
    # so Pearson's statistic over all spans has its usual law although the number of spans depends on their lengths.
    observed = np.bincount(masks.length, minlength=40)[1:]
    expected = THEORY.of_length / THEORY.of_length.sum()
    assert goodness("span lengths", observed, expected * observed.sum()) > 1e-4
    mean = (np.arange(1, 40) * expected).sum()
    print(f"{observed.sum():,} spans, mean length {masks.length.mean():.4f}, theory {mean:.4f}")


def test_spans_a_piece_with_the_last_spans_overshoot(masks: MaskDraws) -> None:
    observed = np.bincount(masks.counts, minlength=len(THEORY.spans))
    assert goodness("spans a piece", observed, THEORY.spans * masks.rows) > 1e-4
    print(f"mean {masks.counts.mean():.4f}, theory {THEORY.spans @ np.arange(len(THEORY.spans)):.4f}")
    assert binomial("rows not limited by their room", masks.rows, ROWS, THEORY.unlimited) > 1e-4


def test_masked_share_with_the_last_spans_overshoot(masks: MaskDraws) -> None:
    observed = np.bincount(masks.masked, minlength=len(THEORY.masked))
    assert goodness("masked tokens a piece", observed, THEORY.masked * masks.rows) > 1e-4
    mean = THEORY.masked @ np.arange(len(THEORY.masked)) / 448
    print(f"masked share {masks.masked.mean() / 448:.5f}, theory {mean:.5f}")


def test_part_b_stands_in_random_order(masks: MaskDraws) -> None:
    # Which of a piece's n spans, by place, comes first in Part B: uniform on 0 .. n - 1.
    opening = np.flatnonzero(np.append(True, masks.row[1:] != masks.row[:-1]))
    earlier = masks.first < np.repeat(masks.first[opening], masks.counts)
    rank = np.bincount(masks.row, earlier, masks.rows)
    uniform = (rank + as_floats(draw_bits(stream_key(5), np.arange(masks.rows)))) / masks.counts
    observed = np.histogram(uniform, 50, (0, 1))[0]
    assert goodness("first span of Part B", observed, np.full(50, masks.rows / 50)) > 1e-4


def test_spans_are_placed_as_sorted_uniform_draws(masks: MaskDraws) -> None:
    # Tokens before the first span are the least of n uniform draws from 0 .. free.
    first = np.full(masks.rows, 448)
    np.minimum.at(first, masks.row, masks.first)
    places = 448 - masks.masked - masks.counts + 2
    above, at_or_above = ((places - first - 1) / places) ** masks.counts, ((places - first) / places) ** masks.counts
    uniform = above + (at_or_above - above) * as_floats(draw_bits(stream_key(6), np.arange(masks.rows)))
    # The last draw may be `free` itself, whose span ends the piece.
    touching = int((masks.first + masks.length == 448).sum())
    chance = 1 - (1 - 1 / places) ** masks.counts
    normal = (touching - chance.sum()) / np.sqrt((chance * (1 - chance)).sum())
    print(f"\nspans that end their piece: {touching}, theory {chance.sum():.1f}, z = {normal:.2f}")
    assert 2 * stats.norm.sf(abs(normal)) > 1e-4
    observed = np.histogram(uniform, 50, (0, 1))[0]
    assert goodness("place of the first span", observed, np.full(50, masks.rows / 50)) > 1e-4


@pytest.mark.parametrize(
    ("config", "least", "most"),
    [(GLM_130B, int(0.2 * 504), 504), (GLM_10B, int(0.25 * 504), 502)],
    ids=["glm-130b", "glm-10b"],
)
def test_lengths_of_documents(config: BlankInfillingConfig, least: int, most: int) -> None:
    assert source_stride(config, "document", WINDOW) == 504
    config = dataclasses.replace(config, sentence_share=0.0)
    lengths = np.concatenate([batch.loss_weights.sum(axis=1) for batch in batches(config, "document")]).astype(np.int64)
    assert lengths.min() == least
    assert lengths.max() == most
    observed = np.bincount(lengths - least)
    assert goodness("[gMASK] lengths", observed, np.full(len(observed), ROWS / len(observed))) > 1e-4


def test_sentences_are_taken_alike() -> None:
    # 64 sentences of 7 tokens: ten of them reach 15 %, each set of ten as likely as any other.
    ends = SentenceEnds(["。".encode() if token % 7 == 6 else "字".encode() for token in range(448)])
    taken = np.zeros(64)
    for batch in batches(dataclasses.replace(PLAIN, sentence_share=1.0), "sentence", ends):
        opened = batch.targets[batch.tokens == SPECIAL.sop]
        assert len(opened) == 10 * len(batch.tokens)
        taken += np.bincount(opened // 7, minlength=64)
    share = 10 / 64
    statistic = ((taken - ROWS * share) ** 2).sum() / (ROWS * share * (1 - share)) * 63 / 64
    p = stats.chi2.sf(statistic, 63)
    print(f"\nsentences: chi2 {statistic:.1f} over 64, p = {p:.4f}")
    assert p > 1e-4


def binomial(name: str, happened: int, trials: int, probability: float) -> float:
    p = float(stats.binomtest(happened, trials, probability).pvalue)
    print(f"\n{name}: {happened / trials:.5f} of {trials:,}, asked {probability}, p = {p:.4f}")
    return p


def test_rates() -> None:
    single = dataclasses.replace(PLAIN, single_span_probability=0.02)
    spans = np.concatenate([(batch.tokens == SPECIAL.sop).sum(axis=1) for batch in batches(single, "mask")])
    assert binomial("single spans", int((spans == 1).sum()), ROWS, 0.02) > 1e-4

    short = dataclasses.replace(PLAIN, short_sequence_probability=0.02)
    pieces = np.concatenate(
        [np.where(batch.tokens == SPECIAL.pad, 0, batch.document).max(axis=1) for batch in batches(short, "mask")]
    )
    assert binomial("short sequences", int((pieces > 0).sum()), ROWS, 0.02) > 1e-4

    noisy = dataclasses.replace(PLAIN, decoder_noise=0.1)
    changed = trials = 0
    for batch in batches(noisy, "mask"):
        readable = (batch.loss_weights == 1) & (batch.tokens != SPECIAL.sop)
        changed += int((batch.tokens[readable] == SPECIAL.mask).sum())
        trials += int(readable.sum())
    assert binomial("decoder noise", changed, trials, 0.1) > 1e-4
