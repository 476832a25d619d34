"""The check ``performance``: how fast the port is beside the reference, and counts of its work that may not grow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from parity.bench.check import read_accepted, shipped
from parity.bench.machine import machine_class
from parity.bench.ratios import ClockName
from parity.bench.session import Measured, measure, works
from parity.bench.works import Sides, loaded_sides, sizes_of
from parity.core.digest import checkpoint_digest
from parity.milestones.records.evidence import Content, of_error, of_tests
from parity.runs.loader import Loader
from reference.trained import trained_checkpoint

Test = tuple[str, str, float | None, float | None, str]
# Seconds that processors worked: other programs on the machine hardly change them.
_CLOCK: ClockName = "processor"
# Counts of the plain form are the same on every machine, the others within a class of machines.
_EVERYWHERE = ("flops", "bytes_read")


def performance(detail: Mapping[str, Any], _loader: Loader) -> Content:
    """Vision, prefill and decode of the trained model, in float32 on one thread, for about ``seconds`` each.

    The port may not be slower than the accepted ratio of this class of machine, or than the reference where none is
    accepted, by more than the noise of the session. No count may be larger than the accepted one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sides = loaded_sides(trained_checkpoint(), "float32", "fast")
        found = [
            measure(sides, work, budget=float(detail["seconds"]), clock=_CLOCK)
            for work in works(sides, sizes_of(sides.model))
            if work.name != "load"
        ]
    except Exception as error:  # the port may raise anything
        return of_error(f"{type(error).__name__}: {error}", side="subject")
    finally:
        torch.set_num_threads(threads)
    return judged(found, sides, read_accepted(shipped()))


def judged(found: list[Measured], sides: Sides, accepted: Mapping[str, Any]) -> Content:
    """Return the content of the evidence: times, whose figures no digest covers, and counts."""
    machine = machine_class(sides.model, threads=1, clock=_CLOCK)
    checkpoint = checkpoint_digest(sides.folder)
    of_class = accepted.get(machine, {}).get(checkpoint, {})
    others = [figures[checkpoint] for figures in accepted.values() if checkpoint in figures]
    times = [_time(each, of_class.get(each.work.name)) for each in found]
    counts = [test for each in found for test in _counts(each, of_class, others)]
    return of_tests([*times, *counts], timed=[name for name, *_ in times])


def _time(each: Measured, accepted: Mapping[str, Any] | None) -> Test:
    """Figure: what is asked for, as a multiple of the most that the port can have reached in this session."""
    wanted = 1.0 if accepted is None else float(accepted["ratio"])
    figure = wanted / (each.ratio.high * each.control.noise)
    of = "as fast as the reference is asked for" if accepted is None else f"{wanted:.2f} x is accepted"
    note = (
        f"{each.ratio.middle:.2f} x as fast as the reference [{each.ratio.low:.2f}, {each.ratio.high:.2f}], "
        f"noise {each.control.noise - 1:.1%}; {of}"
    )
    return (f"{each.work.name}: time", "kept" if figure <= 1 else "broken", figure, 1.0, note)


def _counts(each: Measured, of_class: Mapping[str, Any], others: list[Mapping[str, Any]]) -> Iterator[Test]:
    counts = {} if each.counts is None else each.counts.to_json()
    known = (of_class.get(each.work.name) or {}).get("counts") or {}
    for name, count in counts.items():
        elsewhere = [(work.get(each.work.name) or {}).get("counts") or {} for work in others]
        accepted = known.get(name)
        if accepted is None and name in _EVERYWHERE:
            accepted = max((counted[name] for counted in elsewhere if name in counted), default=None)
        if accepted is None and name in _EVERYWHERE:
            yield (f"{each.work.name}: {name}", "not exposed", None, None, "no count is accepted for this checkpoint")
        elif accepted is not None:
            yield (f"{each.work.name}: {name}", "kept" if count <= accepted else "broken", count, accepted, "")
