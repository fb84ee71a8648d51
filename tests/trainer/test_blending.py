"""Blends hold their shares on every prefix, and know any sample's place without a replay."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.blending import Blend, as_shares

WEIGHTS = st.lists(st.integers(0, 40), min_size=2, max_size=7).filter(lambda weights: sum(weights) > 0)


def largest_deviation(blend: Blend, samples: int) -> float:
    chosen, before = blend.locate(0, samples)
    assert (before == 0).all()
    counts = np.cumsum(chosen[:, None] == np.arange(blend.sources), axis=0)
    asked = np.array([[float(blend.asked(k, n)) for k in range(blend.sources)] for n in range(1, samples + 1)])
    return float(np.abs(counts - asked).max())


@settings(deadline=None, max_examples=60)
@given(weights=WEIGHTS, samples=st.integers(1, 700))
def test_every_prefix_is_within_a_sample(weights: list[int], samples: int) -> None:
    bound = 1 - 1 / (2 * len(weights) - 2)
    assert largest_deviation(Blend(weights), samples) <= bound + 1e-9


@settings(deadline=None, max_examples=60)
@given(data=st.data(), weights=WEIGHTS, ramp=st.integers(1, 400))
def test_every_prefix_is_within_a_sample_while_the_weights_ramp(
    data: st.DataObject, weights: list[int], ramp: int
) -> None:
    size = len(weights)
    initial = data.draw(st.lists(st.integers(0, 40), min_size=size, max_size=size).filter(lambda given: sum(given) > 0))
    blend = Blend(weights, initial, ramp)
    assert largest_deviation(blend, ramp + 200) <= 1 - 1 / (2 * size - 2) + 1e-9
    # The asked totals are the integral of the straight line between the two shares.
    first, final = initial[0] / sum(initial), weights[0] / sum(weights)
    assert float(blend.asked(0, ramp)) == pytest.approx(ramp * (first + final) / 2)
    assert float(blend.asked(0, ramp + 100) - blend.asked(0, ramp)) == pytest.approx(100 * final)


@settings(deadline=None, max_examples=60)
@given(weights=WEIGHTS, ramp=st.integers(0, 300), first=st.integers(0, 9000), count=st.integers(0, 300))
def test_any_sample_is_found_without_those_before_it(weights: list[int], ramp: int, first: int, count: int) -> None:
    initial = weights[::-1] if ramp else None
    whole, _ = Blend(weights, initial, ramp).locate(0, first + count)
    chosen, before = Blend(weights, initial, ramp).locate(first, count)
    assert (chosen == whole[first:]).all()
    assert (before == np.bincount(whole[:first], minlength=len(weights))).all()


def test_far_samples_cost_a_period_and_not_a_replay() -> None:
    blend = Blend([0.45, 0.45, 0.07, 0.03], [0.9, 0.1, 0.0, 0.0], 1000)
    far = 10**15
    chosen, before = blend.locate(far, 200)
    counts = before + np.cumsum(chosen[:, None] == np.arange(4), axis=0)
    for offset in range(200):
        for source in range(4):
            assert abs(counts[offset, source] - blend.asked(source, far + offset + 1)) < 1


def test_shares_are_exact_where_a_million_parts_can_say_them() -> None:
    assert as_shares([0.3, 0.3, 0.3]) == ([1, 1, 1], 3)
    assert as_shares([0.45, 0.5, 0.05]) == ([9, 10, 1], 20)
    numerators, denominator = as_shares([123456789.0, 987654321.0, 1.0])
    assert denominator == 1_000_000
    assert sum(numerators) == denominator
    assert numerators[2] == 1
    assert Fraction(numerators[0], denominator) == pytest.approx(0.111111, abs=1e-6)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0]])
def test_weights_that_give_no_shares_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        as_shares(weights)
