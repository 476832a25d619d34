"""The gates match the saved calibration, and a calibration can show that a gate is too narrow."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest

from parity.core.gates import FloatGate
from parity.runs.calibration import GATES, needs, summaries
from port import load_model

DTYPES = ["float32", "bfloat16", "float16"]


def data(dtype: str) -> dict[str, Any]:
    """The calibration that is kept for a dtype."""
    file = resources.files("parity.runs").joinpath(f"data/calibration-{dtype}.json")
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isolation", sorted(GATES))
def test_the_gates_are_wider_than_any_correct_run_needed(dtype: str, isolation: str) -> None:
    figures = data(dtype)["comparisons"][isolation]
    assert figures["m"] == GATES[isolation].m
    assert data(dtype)["ulps"] == GATES[isolation].ulps
    assert figures["false_alarms"] == 0
    assert 0 < figures["smallest_m"] < GATES[isolation].m


def test_the_calibration_stands_on_enough_correct_runs_also_of_other_libraries() -> None:
    engines = [made for dtype in DTYPES for made in data(dtype)["engines"]]
    libraries = [made for made in engines if made["run"].startswith("port, ") and "chunks" not in made["run"]]
    assert sum(made["runs"] for made in engines) >= 1000
    assert sum(made["runs"] for made in libraries) >= 300
    assert len({made["run"] for made in libraries}) >= 4


@pytest.mark.slow
def test_a_gate_that_is_too_narrow_would_be_found(run_port: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some correct run needs more than half its floor: such an m would give false alarms."""
    folder, inputs, stage = run_port.prepared("text")
    found = needs(inputs, stage, model=stage.reference.model, port=load_model(folder))
    assert len(found) == 3 * 13  # gates and runs
    assert max(need.m for need in found) > 0.5
    # A run that made a floor is not judged by its own: beside that, no row of it could need more than 1.
    assert max(need.m for need in found[:4]) > 1
    assert all(need.m < GATES[need.isolation].m for need in found)
    assert summaries(found)["accumulated"].false_alarms == 0
    monkeypatch.setitem(GATES, "accumulated", FloatGate(m=0.5, ulps=1.0))
    assert summaries(found)["accumulated"].false_alarms > 0
