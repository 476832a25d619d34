"""Whether traces belong together: floors, reference and subject of one case, one checkpoint, and the right dtypes.

A verdict is only as good as its floors. Floors that are wide, of another run, or the subject itself would let anything
pass, so they are refused before a number is judged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parity.core.errors import TraceError
from parity.core.floors import Floors
from parity.core.trace import Trace

# The widest floor of any row that a correct run of the reference showed on the cases of the suite was 3.5e-5 in
# float32, 0.06 in float16 and 0.27 in bfloat16 (an attention that is nearly tied in the trained model). What lies
# above these is no rounding noise. tf32 has the digits of float16.
WIDEST = {"float64": 1e-9, "float32": 1e-3, "tf32": 0.3, "float16": 0.3, "bfloat16": 0.9}


def check_binding(subject: Trace, reference: Trace, floors: Sequence[Trace]) -> None:
    """Raise TraceError with both values where traces do not belong together.

    A checkpoint that a trace does not name (null) is not compared; ids, pixels and embeddings then decide.
    """
    for what, trace in (("subject", subject), *(("floor", floor) for floor in floors)):
        _same(what, "case", trace.description.case, reference.description.case)
        mine, theirs = trace.description.checkpoint, reference.description.checkpoint
        if mine is not None and theirs is not None:
            _same(what, "checkpoint", mine, theirs)
    for floor in floors:
        _same("floor", "producer", floor.description.producer, reference.description.producer)
        if floor.description.dtype != subject.description.dtype:
            raise TraceError(
                f"the floor is {floor.description.dtype}, the subject {subject.description.dtype}; a floor is a "
                "correct run at the subject's dtype"
            )
        if _same_numbers(subject, floor, reference):
            raise TraceError("the floor is the subject's own trace; a floor is a run of the reference")


def check_width(floors: Floors, dtype: str) -> None:
    """Raise TraceError for a floor that is wider than rounding at ``dtype`` could make it."""
    widest = WIDEST.get(dtype)
    if widest is None:
        raise TraceError(f"there are no floors for {dtype}; the subject's dtype is one of {', '.join(WIDEST)}")
    for entry, spread in floors.measured():
        wide = float(np.nanmax(spread, initial=0.0)) if np.isfinite(spread).any() else np.inf
        if wide > widest:
            raise TraceError(
                f"a floor run is {wide:.2g} from the reference at {entry.key}, correct runs in {dtype} are at most "
                f"{widest:g}; it is no correct run of this reference"
            )


def _same(what: str, field: str, mine: str, theirs: str) -> None:
    if mine != theirs:
        raise TraceError(f"the {what} has the {field} {mine!r}, the reference {theirs!r}; they do not belong together")


def _same_numbers(subject: Trace, floor: Trace, reference: Trace) -> bool:
    """Whether two traces have the same bits at every float seam of the reference, and have any."""
    keys = [entry.key for entry in reference if entry.gate == "float"]
    shared = [key for key in keys if key in subject.entries() and key in floor.entries()]
    return bool(shared) and all(_same_bits(subject.read(key), floor.read(key)) for key in shared)


def _same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
