"""The stage of refusals: bad input is refused with a message that names the reason. Nothing runs on with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from parity.core.floors import Floors
from parity.core.trace import Description, MemoryTrace
from parity.engines.base import Engine, Sink
from parity.runs.stages.stage import Stage
from parity.runs.store import entry_of
from parity.runs.yardstick import Yardstick
from parity.seams.refusals import expected_refusals


class RefusingSubject(Engine, Protocol):
    """A subject that is given bad input."""

    def refuse(self, sink: Sink) -> None:
        """Send a tensor [1] for every kind of bad input that is refused, and [0] for the others."""
        ...


def refusals_stage(case: str, names: Sequence[str]) -> Stage[RefusingSubject]:
    """Expect every kind of bad input in ``names`` to be refused."""
    expected = expected_refusals(names)
    trace = MemoryTrace(Description("the contract of the port", "bad input is refused", "float32", case))
    for item in expected:
        array = np.ones(1, dtype=np.int64)
        trace.add(entry_of(item, array), array)
    return Stage(
        name="refusals",
        case=case,
        expected=expected,
        labels=dict,
        yardstick=Yardstick(trace=trace, floors=Floors(trace), runs=["refusals are exact"]),
        run=lambda subject, sink: subject.refuse(sink),
    )
