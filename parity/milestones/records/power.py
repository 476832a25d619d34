"""What evidence is worth: the known mistakes that it caught, how seldom correct runs fail, and how far they are apart.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any

from parity.bundles.jsonfile import read_json
from parity.milestones.records.evidence import TESTS, row

KILL_MATRIX = "kill-matrix"
ELSEWHERE = "first divergence at "


def power(evidence: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of the kill matrices and of the floors in evidence, and the calibration of its dtypes."""
    dtypes = {found["key"].get("dtype") for name, found in evidence.items() if name.startswith("case:")}
    return {
        "known_mistakes": _known_mistakes(evidence),
        "correct_runs": [found for dtype in sorted(dtypes - {None}) if (found := _calibration(dtype)) is not None],
        "floors": _floors(evidence),
    }


def _known_mistakes(evidence: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    tests = {
        cells[0]: dict(zip(TESTS, cells, strict=True))
        for name, found in evidence.items()
        if name.startswith(KILL_MATRIX)
        for cells in found["tests"] or []
    }
    caught = [test for test in tests.values() if test["outcome"] == "caught"]
    return {
        "planted": len(tests),
        "caught": len(caught),
        "at_their_seam": sum(not test["note"].startswith(ELSEWHERE) for test in caught),
        "invisible": sum(test["outcome"] == "invisible" for test in tests.values()),
    }


def _floors(evidence: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """How many correct runs made the floors, and how much further the furthest is than the nearest. None without any.

    A value counts if the nearest run is not equal to the reference.
    """
    spreads, runs = [], []
    for found in evidence.values():
        values = [row(cells) for cells in found["values"] or []]
        ratios = [value["furthest_run"] / value["nearest_run"] for value in values if value["nearest_run"]]
        if ratios:
            spreads += ratios
            runs.append(len(found["floor_runs"]))
    if not spreads:
        return None
    return {
        "fewest_runs": min(runs),
        "most_runs": max(runs),
        "values": len(spreads),
        "typical_spread": median(spreads),
        "largest_spread": max(spreads),
    }


def _calibration(dtype: str) -> dict[str, Any] | None:
    """The figures of `parity calibrate` that are shipped for a dtype."""
    path = Path(str(resources.files("parity.runs"))) / "data" / f"calibration-{dtype}.json"
    if not path.is_file():
        return None
    document = read_json(path)
    comparisons: Sequence[Mapping[str, Any]] = list(document["comparisons"].values())
    return {
        "dtype": dtype,
        "runs": document["runs"],
        "rows": document["rows"],
        "largest_need": max(found["smallest_m"] / found["m"] for found in comparisons),
        "false_alarms": sum(found["false_alarms"] for found in comparisons),
    }
