"""The generator is SplitMix64, its streams are apart, and nothing of it depends on the order of asking."""

import numpy as np
from scipy import stats

from objectives.random import as_floats, as_integers, derive_keys, draw_bits, stream_key


def test_it_is_splitmix64() -> None:
    # The published first outputs for the seed 1234567 (Vigna's splitmix64.c).
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
                16408922859458223821]  # fmt: skip
    assert draw_bits(np.array([1234567], np.uint64), np.arange(5)).tolist() == expected


def test_draws_do_not_depend_on_each_other() -> None:
    keys = draw_bits(stream_key(1, 2), np.arange(50))
    whole = draw_bits(keys[:, None], np.arange(20))
    assert (whole[7, 13:] == draw_bits(keys[7:8], np.arange(13, 20))).all()
    assert (keys[30:] == draw_bits(stream_key(1, 2), np.arange(30, 50))).all()


def test_streams_of_samples_and_purposes_are_apart() -> None:
    keys = draw_bits(stream_key(0, 0), np.arange(2000))
    streams = np.concatenate([draw_bits(derive_keys(keys, purpose)[:, None], np.arange(50)) for purpose in range(1, 6)])
    assert len(np.unique(streams)) == streams.size
    floats = as_floats(streams)
    assert stats.kstest(floats.reshape(-1), "uniform").pvalue > 1e-4
    # Neighbours along a stream, between samples and between purposes are uncorrelated: |r| under 5 / sqrt(n).
    bound = 5 / np.sqrt(floats.size)
    for one, other in ((floats[:, 1:], floats[:, :-1]), (floats[1:], floats[:-1]), (floats[2000:], floats[:-2000])):
        assert abs(np.corrcoef(one.reshape(-1), other.reshape(-1))[0, 1]) < bound
    names = {stream_key(*path).item() for path in [(0,), (0, 0), (0, 1), (1, 0), (0, 0, 1), (0, 1, 0), (-1,)]}
    assert len(names) == 7


def test_integers_are_in_range_and_alike() -> None:
    bits = draw_bits(stream_key(9), np.arange(70_000))
    drawn = as_integers(bits, 7)
    assert stats.chisquare(np.bincount(drawn, minlength=7)).pvalue > 1e-4
    extremes = np.array([0, 2**64 - 1], np.uint64)
    assert as_integers(extremes, np.array([5, 2**31 - 1])).tolist() == [0, 2**31 - 2]
    assert as_floats(extremes).tolist() == [0.0, 1 - 2.0**-53]
