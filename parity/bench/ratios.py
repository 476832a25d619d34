"""Ratios of paired times, with the confidence that they deserve on a noisy machine.

Each pair is timed right after one another, so whatever slows the machine down slows both. A pair gives the logarithm of
its ratio; the figure is the mean of the middle half of the pairs, with a bootstrap interval. A control times one side
against itself in the same session: how far its interval reaches from 1 is the noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from parity.core.errors import ParityError

# Of the intervals of a ratio and of its control. A ratio fails only if it is lower by more than both together, so an
# unchanged port fails far less often than one of these intervals misses.
CONFIDENCE = 0.9
# A run shorter than this is timed in 60 pairs.
SHORT = 0.25
_FEWEST, _FEWEST_LONG, _MOST = 60, 6, 60
_AT_LEAST = 0.1
_RESAMPLES = 2000

Run = Callable[[], object]
# Seconds as a user waits, or seconds that processors worked for this process. Other programs on the machine stretch the
# first and hardly the second, but only the first shows threads that wait for one another.
ClockName = Literal["wall", "processor"]
CLOCKS: dict[ClockName, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


@dataclass(frozen=True)
class Pairs:
    """Seconds of both sides, pair by pair."""

    first: tuple[float, ...]
    second: tuple[float, ...]

    def divided(self, times: int) -> Pairs:
        """Seconds of a single run, of pairs that timed several at once."""
        return Pairs(tuple(each / times for each in self.first), tuple(each / times for each in self.second))


@dataclass(frozen=True)
class Ratio:
    """How many times faster the first side is than the second: the middle of the pairs, and the interval around it."""

    middle: float
    low: float
    high: float
    pairs: int

    @property
    def noise(self) -> float:
        """How far the interval reaches from 1, as a factor of at least 1. For a control, the noise of the session."""
        return max(self.high, 1 / self.low, 1.0)


def timed(run: Run, clock: ClockName = "wall") -> float:
    """Seconds of one run."""
    now = CLOCKS[clock]
    start = now()
    run()
    return now() - start


def runs_at_once(seconds: float) -> int:
    """How many runs to time as one, so that an interruption of a few milliseconds does not decide a pair."""
    return max(1, math.ceil(_AT_LEAST / max(seconds, 1e-6)))


def repeated(run: Run, times: int) -> Run:
    """Run several times as one."""

    def together() -> None:
        for _ in range(times):
            run()

    return together


def pairs_wanted(seconds: float, budget: float) -> int:
    """How many pairs to time of runs that take ``seconds`` for both sides: planned before, never after looking."""
    fewest = _FEWEST if seconds < 2 * SHORT else _FEWEST_LONG
    return min(max(fewest, int(budget / max(seconds, 1e-9))), _MOST)


def time_pairs(first: Run, second: Run, pairs: int, clock: ClockName = "wall") -> Pairs:
    """Time both in the order first, second, second, first, until there are ``pairs`` of them. No warm-up."""
    left, right = [], []
    for number in range(pairs):
        if number % 2:
            right.append(timed(second, clock))
            left.append(timed(first, clock))
        else:
            left.append(timed(first, clock))
            right.append(timed(second, clock))
    return Pairs(tuple(left), tuple(right))


def ratio_of(pairs: Pairs, *, seed: int = 0) -> Ratio:
    """How many times faster the first side is. Raises ValueError without pairs."""
    logs = np.log(np.asarray(pairs.second)) - np.log(np.asarray(pairs.first))
    return ratio_of_logs(logs, seed=seed)


def ratio_of_logs(logs: Sequence[float] | np.ndarray, *, seed: int = 0) -> Ratio:
    """The ratio of pairs whose log-ratios are given."""
    try:
        from scipy.stats import bootstrap  # takes long to import
    except ImportError:
        raise ParityError("the statistics need scipy; install it with pip install 'qwen3vl-parity[bench]'") from None
    values = np.asarray(logs, dtype=float)
    if not len(values):
        raise ValueError("there are no pairs; a ratio needs at least one")
    middle = float(_middle(values))
    if len(values) == 1 or float(np.ptp(values)) == 0:
        return Ratio(math.exp(middle), math.exp(middle), math.exp(middle), len(values))
    found = bootstrap(
        (values,),
        _middle,
        confidence_level=CONFIDENCE,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Ratio(math.exp(middle), math.exp(float(found.low)), math.exp(float(found.high)), len(values))


def _middle(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean of the middle half: as robust as a median where a few pairs were disturbed, and steadier."""
    from scipy.stats import trim_mean

    middle: np.ndarray = trim_mean(values, 0.25, axis=axis)
    return middle


def is_slower(found: Ratio, control: Ratio, accepted: float) -> bool:
    """Whether the whole interval lies below the accepted ratio by more than the noise of the session."""
    return found.high < accepted / control.noise
