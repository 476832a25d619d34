"""Times the passes of a run: each as a whole, and its forwards alone, without recording and judging.

A pass is a prefill and its decode steps. Every value of a pass goes through a sink, which records or judges it. The
time in the sink is taken off, so that no forward has to run twice to be timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.engines.base import Sink
from parity.engines.device import wait_for


@dataclass(frozen=True)
class Pass:
    """One pass: its stage, what ran, its seconds, and how many of them went into recording and judging its values."""

    stage: str
    title: str
    seconds: float
    recording: float

    @property
    def alone(self) -> float:
        """The seconds of the forwards alone."""
        return self.seconds - self.recording


class TimedSink:
    """A sink that calls another sink, and adds up the seconds in it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.seconds = 0.0

    def __call__(self, name: str, tensor: Tensor) -> Tensor | None:
        if tensor.device.type != "cuda" or torch.cuda.is_initialized():  # a pretended device cannot wait
            wait_for(tensor.device)  # or the forward would be counted as recording
        start = time.perf_counter()
        try:
            return self._sink(name, tensor)
        finally:
            self.seconds += time.perf_counter() - start


@contextmanager
def timing_pass(stage: str, title: str, sink: Sink, done: Callable[[Pass], object]) -> Iterator[Sink]:
    """Give a sink for one pass, and call ``done`` with the pass at the end of the block, also if it raises."""
    timed = TimedSink(sink)
    start = time.perf_counter()
    try:
        yield timed
    finally:
        done(Pass(stage, title, time.perf_counter() - start, timed.seconds))


@dataclass(frozen=True)
class Spent:
    """What it took to come to a verdict: seconds since the command began, those for imports and for loading, and bytes.

    ``peak_bytes`` is the largest resident memory of the process so far, ``model_bytes`` the parameters of both models.
    """

    seconds: float
    imports: float
    loading: float
    peak_bytes: int | None
    model_bytes: int
