"""What a stage's subject is judged by: the reference's trace, and how far correct runs lie from it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parity.core.errors import ParityError
from parity.core.floors import Floors
from parity.core.folder import FolderTrace
from parity.core.gates import DEFAULT_GATE, ISOLATED_GATE, FloatGate
from parity.core.trace import Description, Entry, SeamKey, Trace
from parity.engines.base import Sink
from parity.runs.recorder import OnValue, Recorder, both
from parity.runs.store import NOT_KEPT, Labels, TraceStore
from parity.seams.spec import Expected

Progress = Callable[[str], None]


@dataclass(kw_only=True)
class Yardstick:
    """The reference's trace with the floors and gates of both comparisons.

    ``runs`` names the correct runs that made the floors. ``isolated_floors`` are those of each part alone, fed the
    yardstick's inputs; a stage without parts has none. ``spool`` holds the trace's files as long as it is needed.
    """

    trace: Trace
    floors: Floors
    isolated_floors: Floors | None = None
    gate: FloatGate = DEFAULT_GATE
    isolated_gate: FloatGate = ISOLATED_GATE
    runs: Sequence[str] = ()
    spool: tempfile.TemporaryDirectory[str] | None = None


@dataclass(frozen=True)
class ReferenceRun:
    """One run of the reference: what sets it apart, in words, what its trace says of itself, and how to run it."""

    title: str
    description: Description
    run: Callable[[Sink], object]


def measure_yardstick(
    exact: ReferenceRun,
    correct: Sequence[ReferenceRun],
    expected: Sequence[Expected],
    labels: Callable[[], Labels],
    *,
    name: str = "reference",
    progress: Progress = lambda _what: None,
    store: TraceStore = NOT_KEPT,
) -> Yardstick:
    """Run the reference once for the yardstick, and each correct variant twice for the floors of both comparisons.

    Raises ParityError when it does not give exactly the seams expected of it: a yardstick with a hole would let
    a bug through.
    """
    progress(f"reference ({exact.title})")
    # A folder of its own unless the caller keeps the traces: the yardstick of a real model does not fit into memory.
    spool = None if store.folder is not None else tempfile.TemporaryDirectory(prefix="parity-yardstick-")
    folder = store.folder if spool is None else Path(spool.name)
    assert folder is not None
    seen: list[SeamKey] = []
    with TraceStore(folder).recording(name, exact.description, expected, labels) as keep:
        exact.run(Recorder(expected, both(lambda key, _array: seen.append(key), keep)))
    _check_complete(expected, seen)
    trace = FolderTrace(folder / name)
    floors, isolated = Floors(trace), Floors(trace)
    for number, variant in enumerate(correct, start=1):
        progress(f"floor run ({variant.title})")
        with store.recording(f"floor-{number}", variant.description, expected, labels) as keep:
            variant.run(Recorder(expected, both(observing(trace.entries(), floors), keep)))
        variant.run(Recorder(expected, observing(trace.entries(), isolated), instead=trace))
    return Yardstick(
        trace=trace,
        floors=floors,
        isolated_floors=isolated,
        runs=[variant.title for variant in correct],
        spool=spool,
    )


def observing(entries: Mapping[SeamKey, Entry], floors: Floors) -> OnValue:
    """Passes the values with float gates on to the floors; exact gates have none."""

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
            f"unexpected {surplus[:10]}; this version of transformers is not read correctly"
        )
