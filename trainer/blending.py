"""Which source each sample comes from, so that every prefix of a run holds the asked shares to within one sample.

This is the chairman assignment problem (Tijdeman, "The chairman assignment problem", Discrete Mathematics 32, 1980):
with K sources, the j-th sample (from 0) of source k may come once the asked total of k has passed j + 1/(2K - 2), and
must come before it passes j + 1 - 1/(2K - 2); of those that may come, the one that must come first is taken. Then no
source is ever further than 1 - 1/(2K - 2) < 1 samples from what was asked, even while the weights change. Taking the
source that lags most does not keep this bound.

Arithmetic is exact, in integers: shares are fractions with one denominator, at most a million.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import isqrt, lcm
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from objectives.example import Int64Array

LARGEST_DENOMINATOR: Final = 1_000_000
_BLOCK: Final = 4096
_NEVER: Final = 2**62


def as_shares(weights: Sequence[float | Fraction]) -> tuple[list[int], int]:
    """Numerators and their sum, the denominator: `weights` as they are written, divided by their sum.

    Weights that would need a denominator above a million are rounded to millionths, a positive one never to nothing.
    """
    exact = [weight if isinstance(weight, Fraction) else Fraction(repr(float(weight))) for weight in weights]
    total = sum(exact, Fraction(0))
    if total <= 0 or min(exact) < 0:
        raise ValueError(f"the weights {list(weights)} must not be negative or all zero")
    shares = [weight / total for weight in exact]
    denominator = lcm(*[share.denominator for share in shares])
    if denominator > LARGEST_DENOMINATOR:
        denominator = LARGEST_DENOMINATOR
        numerators = [max(int(share * denominator), int(share > 0)) for share in shares]
        largest = numerators.index(max(numerators))
        numerators[largest] += denominator - sum(numerators)
        return numerators, denominator
    return [int(share * denominator) for share in shares], denominator


class Blend:
    """The schedule of one stage: for any sample its source, and how many samples of each source come before it."""

    def __init__(
        self,
        weights: Sequence[float | Fraction],
        initial: Sequence[float | Fraction] | None = None,
        ramp_samples: int = 0,
    ) -> None:
        """`weights` hold from sample `ramp_samples` on; before it they change linearly from `initial`."""
        final, self._period = as_shares(weights)
        first, first_denominator = as_shares(weights if initial is None else initial)
        self._ramp = 0 if initial is None else ramp_samples
        # Asked totals are integers in units of 1 / `_unit` of a sample, so that half a step of the ramp is one too.
        half_steps = 2 * max(self._ramp, 1)
        self._unit = half_steps * lcm(self._period, first_denominator)
        self._first = [share * (self._unit // first_denominator) for share in first]
        self._final = [share * (self._unit // self._period) for share in final]
        self._bend = [(b - a) // half_steps if self._ramp else 0 for a, b in zip(self._first, self._final, strict=True)]
        self.sources = len(final)
        """Number of sources."""
        self._chosen = bytearray()
        self._block_counts = [[0] * self.sources]
        self._taken = [0] * self.sources
        self._window = [self._next_window(source) for source in range(self.sources)] if self.sources > 1 else []
        self._period_state: list[int] | None = None if self._ramp else [0] * self.sources
        self._cycle: tuple[int, int] | None = None
        self._lock = Lock()

    def asked(self, source: int, samples: int) -> Fraction:
        """How many of the first `samples` samples the weights give to `source`, exactly."""
        return Fraction(self._asked(source, samples), self._unit)

    def final_share(self, source: int) -> Fraction:
        """The share of `source` once the weights no longer change."""
        return Fraction(self._final[source], self._unit)

    def locate(self, first: int, count: int) -> tuple[NDArray[np.int64], Int64Array]:
        """(count,) the sources of samples `first` and on, and (sources,) how many of each come before `first`."""
        if self.sources == 1:
            return np.zeros(count, np.int64), np.array([first])
        with self._lock:
            self._extend(first + count)
            index = np.arange(first, first + count)
            rounds = 0
            if self._cycle is not None:
                start, period = self._cycle
                rounds = max(0, (first - start) // period)
                index = np.where(index < start, index, start + (index - start) % period)
            begin = first - rounds * self._period
            block = begin // _BLOCK
            # What lies before the first sample in its block, and the samples themselves (one period at most).
            low = min(block * _BLOCK, int(index.min(initial=begin)))
            high = max(begin, int(index.max(initial=0)) + 1)
            chosen = np.frombuffer(bytes(self._chosen[low:high]), np.uint8)
        in_block = np.bincount(chosen[block * _BLOCK - low : begin - low], minlength=self.sources)
        before = np.array(self._block_counts[block]) + in_block
        shares = [rate * self._period // self._unit for rate in self._final]
        return chosen[index - low].astype(np.int64), before + rounds * np.array(shares)

    def _asked(self, source: int, samples: int) -> int:
        ramped = min(samples, self._ramp)
        return (self._first[source] + self._bend[source] * ramped) * ramped + self._final[source] * (samples - ramped)

    def _next_window(self, source: int) -> tuple[int, int]:
        """The first and the last sample, counted from 1, that may be the next one of `source`."""
        margin = 2 * self.sources - 2
        taken = self._taken[source] * margin
        release = self._first_reaching(source, -(-(taken + 1) * self._unit // margin))
        deadline = self._first_reaching(source, (taken + margin - 1) * self._unit // margin + 1)
        return deadline, release

    def _first_reaching(self, source: int, total: int) -> int:
        """The least number of samples after which `source` is asked for `total` (in units) or more."""
        ramp_total = self._asked(source, self._ramp)
        if total > ramp_total:
            rate = self._final[source]
            return self._ramp + -(-(total - ramp_total) // rate) if rate else _NEVER
        bend, rate = self._bend[source], self._first[source]
        if bend == 0:
            return -(-total // rate)
        samples = (isqrt(max(rate * rate + 4 * bend * total, 0)) - rate) // (2 * bend)
        samples = min(max(samples, 0), self._ramp)
        while self._asked(source, samples) < total:
            samples += 1
        while samples > 0 and self._asked(source, samples - 1) >= total:
            samples -= 1
        return samples

    def _extend(self, samples: int) -> None:
        """Write the schedule down to `samples`, or until it is known to repeat."""
        while len(self._chosen) < samples and self._cycle is None:
            number = len(self._chosen) + 1
            source = min(
                (source for source, (_, release) in enumerate(self._window) if release <= number),
                key=self._window.__getitem__,
            )
            self._chosen.append(source)
            self._taken[source] += 1
            self._window[source] = self._next_window(source)
            if number % _BLOCK == 0:
                self._block_counts.append(list(self._taken))
            if number >= self._ramp and (number - self._ramp) % self._period == 0:
                self._find_cycle(number)

    def _find_cycle(self, number: int) -> None:
        """With constant weights the choices depend on the lags alone: equal lags a period apart, equal choices."""
        state = [self._asked(source, number) - taken * self._unit for source, taken in enumerate(self._taken)]
        if state == self._period_state:
            self._cycle = (number - self._period, self._period)
        self._period_state = state
