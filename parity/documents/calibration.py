"""Builds the document of a calibration: the data on which the gate's m is based.

It has the runs and the date, but does not describe the machine, because it is published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from parity.cases.case import Case
from parity.core.gates import DEFAULT_GATE
from parity.documents.base import document
from parity.runs.calibration import Need, summaries

_WORST_SHOWN = 5
_PUBLISHED = ("created", "python", "threads", "packages")


def calibration_document(
    found: Sequence[Need], cases: Sequence[Case], *, dtype: str, seeds: int, environment: Mapping[str, Any]
) -> dict[str, Any]:
    """Each run is counted once, although it was compared twice."""
    made = summaries(found)
    return document(
        "calibration",
        {name: environment[name] for name in _PUBLISHED},
        dtype=dtype,
        cases=[case.name for case in cases],
        seeds=list(range(seeds)),
        ulps=DEFAULT_GATE.ulps,
        runs=len(found) // len(made),
        engines=[
            {
                "run": run,
                "runs": len(needs) // len(made),
                "smallest_m": {name: max(need.m for need in needs if need.isolation == name) for name in made},
            }
            for run, needs in _by_run(found).items()
        ],
        rows=sum(need.rows for need in found),
        comparisons={
            name: {
                "m": summary.gate.m,
                "smallest_m": summary.smallest_m,
                "false_alarms": summary.false_alarms,
                "worst": [asdict(need) for need in summary.worst[:_WORST_SHOWN]],
            }
            for name, summary in made.items()
        },
    )


def _by_run(found: Sequence[Need]) -> dict[str, list[Need]]:
    runs: dict[str, list[Need]] = {}
    for need in found:
        runs.setdefault(need.run, []).append(need)
    return runs
