"""What a verdict cost: the time to it, beside the forwards that the method needs, and the memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parity.bench.machine import instruction_set
from parity.runs.case_run import CaseRun
from parity.runs.clock import Pass, Spent
from port.kernels import kernels_of


def cost_section(run: CaseRun, spent: Spent | None) -> dict[str, Any] | None:
    """Return the section, or None if nothing was measured.

    ``forwards`` and ``ratio`` are None unless the model is what the case is about: another stage has forwards of its
    own, which are not timed alone.
    """
    if spent is None:
        return None
    passes = run.passes if set(run.case.stages) <= {"processor", "model"} else []
    alone, recording = sum(each.alone for each in passes), sum(each.recording for each in passes)
    parts = {"imports": spent.imports, "loading": spent.loading, "forwards alone": alone, "judging": recording}
    return {
        "seconds": spent.seconds,
        "ratio": spent.seconds / alone if passes else None,
        "forwards": {"passes": len(passes), "count": run.forwards, "seconds": alone} if passes else None,
        "parts": [
            *({"what": what, "seconds": seconds} for what, seconds in parts.items()),
            {"what": "all else", "seconds": max(0.0, spent.seconds - sum(parts.values()))},
        ],
        "passes": _passes(passes),
        "peak_bytes": spent.peak_bytes,
        "model_bytes": spent.model_bytes,
        "kept": None if run.model is None else run.model.kept,
    }


def kernels_section(run: CaseRun) -> dict[str, str] | None:
    """Return which kernels the port used, and the instructions of the processor; None if its model did not run."""
    if run.subject is None:
        return None
    return {"instructions": instruction_set(), **kernels_of(run.subject.model).describe()}


def _passes(passes: Sequence[Pass]) -> list[dict[str, Any]]:
    return [{"title": each.title, "seconds": each.seconds, "alone": each.alone} for each in passes]
