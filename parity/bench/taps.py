"""Measures what the port's taps cost when nobody listens."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from port.tap import Tap, listening

_CALLS, _TIMES = 2000, 7


@dataclass(frozen=True)
class TapCost:
    """``calls`` of taps in a run, and the seconds that they take together."""

    calls: int
    seconds: float


def tap_cost(run: Callable[[], object]) -> TapCost:
    """Count the taps of one run, and time as many calls of a tap without a listener: the best of several tries."""
    calls = 0

    def counting(_: str, value: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return value

    with listening(counting):
        run()
    return TapCost(calls, calls * _seconds_of_a_call())


def _seconds_of_a_call() -> float:
    tap, value = Tap("text.layers.0."), torch.zeros(1)
    best = float("inf")
    for _ in range(_TIMES):
        start = time.perf_counter()
        for _ in range(_CALLS):
            tap("out", value)
        best = min(best, time.perf_counter() - start)
    return best / _CALLS
