"""Passes are timed with and without their sinks."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from parity.bench.models import BUDGET, timed_runs
from parity.runs.clock import Pass, timing_pass


def _busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_the_time_in_the_sink_is_taken_off() -> None:
    passes: list[Pass] = []

    def slow(_name: str, tensor: Tensor) -> Tensor:
        _busy(0.02)
        return tensor + 1

    with timing_pass("model", "a pass", slow, passes.append) as sink:
        _busy(0.01)
        replaced = sink("seam", torch.zeros(1))
    assert replaced is not None
    assert replaced.item() == 1
    (found,) = passes
    assert (found.stage, found.title) == ("model", "a pass")
    assert 0.02 <= found.recording <= found.seconds - 0.01
    assert found.alone == found.seconds - found.recording


def test_a_pass_that_raises_is_timed_too() -> None:
    passes: list[Pass] = []

    def fails(_name: str, _tensor: Tensor) -> None:
        _busy(0.01)
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"), timing_pass("model", "a pass", fails, passes.append) as sink:
        sink("seam", torch.zeros(1))
    assert passes[0].recording >= 0.01


@pytest.mark.parametrize(
    ("warm_up", "runs"), [(0.01, 3), (BUDGET / 3, 3), (BUDGET / 2, 2), (BUDGET, 1), (10 * BUDGET, 1)]
)
def test_long_runs_are_timed_less_often(warm_up: float, runs: int) -> None:
    assert timed_runs(3, warm_up) == runs
