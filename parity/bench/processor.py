"""Times two processors in turn on the same files, including decoding."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from parity.cases.media_batch import MediaBatch
from port import Processor
from reference.processor import ReferenceProcessor


@dataclass(frozen=True)
class Throughput:
    """Median seconds of each side, and the median of the rounds' ratios (reference over port)."""

    title: str
    rounds: int
    port_seconds: float
    reference_seconds: float
    ratio: float


def measure_throughput(
    title: str, batch: MediaBatch, port: Processor, reference: ReferenceProcessor, *, rounds: int
) -> Throughput:
    """Run both processors once to warm up, then ``rounds`` times in turn."""
    conversations = batch.conversations
    sides: Sequence[Callable[[], object]] = (
        lambda: port(conversations, padding_side=batch.padding_side),
        lambda: reference.prepare(batch.rows, padding_side=batch.padding_side),
    )
    found: list[list[float]] = [[], []]
    for count in range(rounds + 1):
        # The side that goes first changes with every round.
        for side in (0, 1) if count % 2 else (1, 0):
            start = time.perf_counter()
            sides[side]()
            if count:
                found[side].append(time.perf_counter() - start)
    ratios = [reference_time / port_time for port_time, reference_time in zip(*found, strict=True)]
    return Throughput(
        title, rounds, statistics.median(found[0]), statistics.median(found[1]), statistics.median(ratios)
    )
