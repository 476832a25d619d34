"""The values with which both sides of the generation stage go on."""

from __future__ import annotations

from parity.core.part import PartOfTrace
from parity.core.trace import Trace
from parity.seams.generation import FED


def fed(trace: Trace) -> PartOfTrace:
    """Return the logits, tokens and ends of a trace."""
    return PartOfTrace(trace, [key for key in trace.entries() if key.name in FED])
