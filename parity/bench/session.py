"""A measuring session: limits, each work in pairs with a control, counts, growth curves and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from parity.bench.beside import Beside, beside_mistralrs
from parity.bench.counts import Counts, count
from parity.bench.limits import Limits, measure_limits
from parity.bench.memory import peak_memory
from parity.bench.names import WORK_NAMES
from parity.bench.ratios import (
    ClockName,
    Pairs,
    Ratio,
    pairs_wanted,
    ratio_of,
    repeated,
    runs_at_once,
    time_pairs,
    timed,
)
from parity.bench.taps import TapCost, tap_cost
from parity.bench.verdict import VerdictTime, time_to_verdict
from parity.bench.works import (
    Sides,
    Sizes,
    Work,
    decode_work,
    load_work,
    prefill_work,
    sizes_of,
    vision_work,
)
from parity.engines.device import finishing

_POINT_BUDGET = 0.15  # of a work's seconds, for each point of a curve


@dataclass(frozen=True)
class Measured:
    """One work: how many times faster the port is, and the control of the same session.

    ``counts`` and ``taps``, those of a run, are None for loading.
    """

    work: Work
    pairs: Pairs
    ratio: Ratio
    control: Ratio
    counts: Counts | None
    taps: TapCost | None


@dataclass(frozen=True)
class Point:
    """One size on a growth curve. ``expected`` is the time that the machine's limits allow, in seconds."""

    curve: str
    at: int
    port: float
    reference: float
    expected: float


@dataclass(frozen=True)
class Memory:
    """Additional bytes at the peak of loading and one forward."""

    port: int
    reference: int


@dataclass(frozen=True)
class BenchSession:
    """Everything that a session found."""

    limits: Limits
    measured: tuple[Measured, ...]
    curves: tuple[Point, ...]
    memory: Memory
    beside: tuple[Beside, ...] = ()
    verdict: VerdictTime | None = None


def run_session(
    sides: Sides,
    *,
    budget: float,
    curves: bool,
    clock: ClockName,
    progress: Callable[[str], None],
    only: Collection[str] = (),
    beside: bool = False,
    verdict: bool = False,
    finished: Callable[[Measured, float], None] = lambda _measured, _seconds: None,
) -> BenchSession:
    """Measure everything. ``budget``: about so many seconds for the pairs of each work, and as many for its control.

    ``only``: names of ``WORK_NAMES``, to measure these works and not all. With ``beside``, mistral.rs is timed too;
    with ``verdict``, a whole verdict. ``finished`` gets each work with the seconds that its measurement took.
    """
    sizes = sizes_of(sides.model)
    progress("limits of the machine")
    limits = measure_limits(sides.model.dtype, device=sides.device)
    measured = []
    for name, work in zip(WORK_NAMES, works(sides, sizes), strict=True):
        progress(work.title)
        if only and name not in only:
            continue
        start = time.perf_counter()
        measured.append(measure(sides, work, budget=budget, clock=clock))
        finished(measured[-1], time.perf_counter() - start)
    points: list[Point] = []
    if curves:
        for curve, at, work in curve_works(sides, sizes):
            progress(f"{curve} at {at}")
            points.append(_point(sides, curve, at, work, limits, budget=budget * _POINT_BUDGET, clock=clock))
    progress("memory")
    load = load_work(sides)
    memory = Memory(*(int(peak_memory(run(), sides.device)) for run in (load.port, load.reference)))
    others: tuple[Beside, ...] = ()
    if beside:
        progress("mistral.rs")
        others = beside_mistralrs(sides, sizes, budget=budget)
    whole = None
    if verdict:
        progress("time to a verdict")
        whole = time_to_verdict(sides.folder, sides.port.dtype, sides.device)
    return BenchSession(limits, tuple(measured), tuple(points), memory, others, whole)


def pieces(sizes: Sizes, *, curves: bool, beside: bool = False, verdict: bool = False) -> int:
    """How many times a session reports progress."""
    points = (sizes.sides, sizes.prompts, sizes.contexts, sizes.batches)
    return 7 + beside + verdict + (sum(map(len, points)) if curves else 0)


def works(sides: Sides, sizes: Sizes) -> Sequence[Work]:
    """What every session measures, in the order of ``WORK_NAMES``."""
    return (
        vision_work(sides, pictures=sizes.pictures, side=sizes.side),
        prefill_work(sides, tokens=sizes.prompt),
        decode_work(sides, batch=1, context=sizes.context, steps=sizes.steps),
        decode_work(sides, batch=sizes.batch, context=sizes.context, steps=sizes.steps),
        load_work(sides),
    )


def curve_works(sides: Sides, sizes: Sizes) -> Sequence[tuple[str, int, Work]]:
    """Curve, size and work of each point: vision over pixels, prefill over length, decode over context and batch."""
    pixels = sides.model.config.vision.patch_size
    return (
        *(("vision", (side * pixels) ** 2, vision_work(sides, pictures=1, side=side)) for side in sizes.sides),
        *(("prefill", tokens, prefill_work(sides, tokens=tokens)) for tokens in sizes.prompts),
        *(
            ("decode, context", context, decode_work(sides, batch=1, context=context, steps=sizes.steps))
            for context in sizes.contexts
        ),
        *(
            ("decode, batch", batch, decode_work(sides, batch=batch, context=sizes.context, steps=sizes.steps))
            for batch in sizes.batches
        ),
    )


def measure(sides: Sides, work: Work, *, budget: float, clock: ClockName) -> Measured:
    """Warm both sides up, then time pairs and the control."""
    port, reference = work.port(), work.reference()
    for run in (port, reference):
        finishing(run, sides.device)()
    warm = [timed(finishing(run, sides.device)) for run in (port, reference)]
    times = 1 if work.name == "load" else runs_at_once(warm[0])
    port, reference = (finishing(repeated(run, times), sides.device) for run in (port, reference))
    wanted = pairs_wanted(times * sum(warm), budget)
    pairs = time_pairs(port, reference, wanted, clock)
    control = time_pairs(port, port, wanted, clock)
    counts = taps = None
    if work.name != "load":
        counts, taps = count(sides.model, work.port), tap_cost(work.port())
    return Measured(work, pairs.divided(times), ratio_of(pairs), ratio_of(control), counts, taps)


def expected_seconds(counts: Counts, limits: Limits) -> float:
    """The time that the machine's limits allow: the slower of computing and reading."""
    return max(counts.flops / (limits.product_gflops * 1e9), counts.bytes_read / (limits.read_gbytes * 1e9))


def _point(sides: Sides, curve: str, at: int, work: Work, limits: Limits, *, budget: float, clock: ClockName) -> Point:
    port, reference = (finishing(prepared(), sides.device) for prepared in (work.port, work.reference))
    warm = sum(timed(run) for run in (port, reference))
    pairs = time_pairs(port, reference, min(pairs_wanted(warm, budget), 20), clock)
    expected = expected_seconds(count(sides.model, work.port), limits)
    return Point(curve, at, statistics.median(pairs.first), statistics.median(pairs.second), expected)


def slowed(work: Work, by: float) -> Work:
    """The same work with the port slower by a share ``by`` of its own time, for tests of the check."""

    def port() -> Callable[[], object]:
        run = work.port()

        def slow() -> None:
            seconds = timed(run, "processor")
            end = time.process_time() + by * seconds
            while time.process_time() < end:
                pass

        return slow

    return replace(work, port=port)
