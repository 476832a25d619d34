"""The yardstick of a stage: the reference's trace, and how far correct runs are from it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parity.core.errors import ParityError
from parity.core.floors import Floors
from parity.core.folder import SpoolTrace
from parity.core.gates import DEFAULT_GATE, ISOLATED_GATE, FloatGate
from parity.core.trace import Description, Entry, SeamKey, Trace
from parity.engines.base import Sink
from parity.runs.clock import Pass, timing_pass
from parity.runs.recorder import OnValue, Recorder, both
from parity.runs.store import NOT_KEPT, Labels, TraceStore
from parity.seams.spec import Expected

Progress = Callable[[str], None]


@dataclass(kw_only=True)
class Yardstick:
    """The reference's trace with the floors and gates of both comparisons.

    ``runs`` names the correct runs that made the floors. ``isolated_floors`` are the floors of each part when it is fed
    the yardstick's inputs; a stage without parts has none. ``passes`` are the reference's own, with their times.
    ``spool`` is the temporary folder of the trace's files.
    """

    trace: Trace
    floors: Floors
    isolated_floors: Floors | None = None
    gate: FloatGate = DEFAULT_GATE
    isolated_gate: FloatGate = ISOLATED_GATE
    runs: Sequence[str] = ()
    passes: Sequence[Pass] = ()
    spool: tempfile.TemporaryDirectory[str] | None = None


@dataclass(frozen=True)
class ReferenceRun:
    """One run of the reference: its title, the description of its trace, and a function that runs it.

    ``nudge``: the seed with which its inputs are moved by one ulp, if they are.
    """

    title: str
    description: Description
    run: Callable[[Sink], object]
    nudge: int | None = None


def measure_yardstick(
    exact: ReferenceRun,
    correct: Sequence[ReferenceRun],
    expected: Sequence[Expected],
    labels: Callable[[], Labels],
    *,
    name: str = "reference",
    isolated: bool = True,
    progress: Progress = lambda _what: None,
    store: TraceStore = NOT_KEPT,
    stage: str = "",
) -> Yardstick:
    """Run the reference once for the yardstick, and each correct variant twice for the floors of both comparisons.

    Without ``isolated``, the variants run once, and there are no floors of the isolated comparison.
    Raises ParityError if the reference does not give exactly the expected seams: a bug at a missing seam would not be
    found.
    """
    progress(f"reference ({exact.title})")
    # The yardstick of a real model does not fit in memory. It is written to a temporary folder unless traces are kept.
    spool = None if store.folder is not None else tempfile.TemporaryDirectory(prefix="parity-yardstick-")
    folder = store.folder if spool is None else Path(spool.name)
    assert folder is not None
    seen: list[SeamKey] = []
    passes: list[Pass] = []
    with TraceStore(folder).recording(name, exact.description, expected, labels) as keep:
        recorder = Recorder(expected, both(lambda key, _array: seen.append(key), keep))
        with timing_pass(stage, exact.title, recorder, passes.append) as sink:
            exact.run(sink)
    _check_complete(expected, seen)
    trace = SpoolTrace(folder / name)
    floors, alone = Floors(trace), Floors(trace)
    for number, variant in enumerate(correct, start=1):
        progress(f"floor run ({variant.title})")
        with store.recording(f"floor-{number}", variant.description, expected, labels) as keep:
            on_value = both(observing(trace.entries(), floors), keep)
            recorder = Recorder(expected, on_value, copies=store.folder is not None)
            with timing_pass(stage, variant.title, recorder, passes.append) as sink:
                variant.run(sink)
        if isolated:
            on_value = observing(trace.entries(), alone)
            recorder = Recorder(expected, on_value, instead=trace, nudge=variant.nudge, copies=False)
            with timing_pass(stage, f"{variant.title}, each part isolated", recorder, passes.append) as sink:
                variant.run(sink)
    return Yardstick(
        trace=trace,
        floors=floors,
        isolated_floors=alone if isolated else None,
        runs=[variant.title for variant in correct],
        passes=passes,
        spool=spool,
    )


def observing(entries: Mapping[SeamKey, Entry], floors: Floors) -> OnValue:
    """Return a function that passes the values with float gates to the floors. Exact gates have no floors."""

    def on_value(key: SeamKey, array: np.ndarray) -> None:
        entry = entries.get(key)
        if entry is not None and entry.gate == "float":
            floors.observe(entry, array)

    return on_value


def _check_complete(expected: Sequence[Expected], seen: Sequence[SeamKey]) -> None:
    keys = {item.key for item in expected}
    missing = [str(key) for key in keys.difference(seen)]
    surplus = [str(key) for key in seen if key not in keys]
    if missing or surplus or len(seen) != len(keys):
        raise ParityError(
            f"the reference gave {len(seen)} seams, {len(expected)} are expected: missing {missing[:10]}, "
            f"unexpected {surplus[:10]}; this transformers version is not captured correctly, use a supported one"
        )
