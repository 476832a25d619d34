"""Builds the document of a measuring session: how fast the port is, beside the reference and beside the machine."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parity.bench.beside import Beside
from parity.bench.check import Checked
from parity.bench.machine import instruction_set
from parity.bench.ratios import CONFIDENCE, Ratio
from parity.bench.session import BenchSession, Measured, expected_seconds
from parity.bench.works import Sides
from parity.core.digest import checkpoint_digest
from parity.documents.base import document, verdict_section
from parity.engines.base import Engine
from port.kernels import kernels_of


@dataclass(frozen=True)
class Settings:
    """How a session was run: the name of the model, the clock, and the class of the machine."""

    model: str
    clock: str
    machine: str


def bench_document(
    session: BenchSession,
    sides: Sides,
    settings: Settings,
    *,
    checked: Checked | None,
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the document. With ``checked`` it has a verdict."""
    judged = {}
    if checked is not None:
        judged = {
            "verdict": verdict_section(checked.verdict, checked.reason),
            "check": {"slower": list(checked.slower), "grown": list(checked.grown)},
        }
    return document(
        "bench",
        environment,
        machine={
            "class": settings.machine,
            "instructions": instruction_set(),
            "clock": settings.clock,
            "kernels": kernels_of(sides.model).describe(),
        },
        subject=_side(sides.port),
        reference=_side(sides.reference),
        checkpoint=_checkpoint(sides.folder, settings.model, sides),
        limits=asdict(session.limits),
        confidence=CONFIDENCE,
        works=[_work(each, session) for each in session.measured],
        curves=[asdict(point) for point in session.curves],
        memory=asdict(session.memory),
        beside=[_beside(each) for each in session.beside],
        time_to_verdict=None if session.verdict is None else asdict(session.verdict) | {"ratio": session.verdict.ratio},
        **judged,
    )


def _side(engine: Engine) -> dict[str, str]:
    return {"name": engine.name, "detail": engine.detail, "dtype": engine.dtype}


def _checkpoint(folder: Path, name: str, sides: Sides) -> dict[str, Any]:
    parameters = list(sides.model.parameters())
    return {
        "name": name,
        "sha256": checkpoint_digest(folder),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
    }


def _work(each: Measured, session: BenchSession) -> dict[str, Any]:
    port, reference = (statistics.median(side) for side in (each.pairs.first, each.pairs.second))
    expected = None if each.counts is None else expected_seconds(each.counts, session.limits)
    return {
        "name": each.work.name,
        "title": each.work.title,
        "amount": each.work.amount,
        "unit": each.work.unit,
        "port": port,
        "reference": reference,
        "ratio": _ratio(each.ratio),
        "control": _ratio(each.control),
        "noise": each.control.noise - 1,
        "counts": None if each.counts is None else each.counts.to_json(),
        "expected": expected,
        "of_limit": None if expected is None else expected / port,
        "taps": None if each.taps is None else {**asdict(each.taps), "of_port": each.taps.seconds / port},
        "seconds": {"port": list(each.pairs.first), "reference": list(each.pairs.second)},
    }


def _beside(each: Beside) -> dict[str, Any]:
    return {
        "engine": each.engine,
        "name": each.name,
        "title": each.title,
        "amount": each.amount,
        "unit": each.unit,
        "port": statistics.median(each.pairs.first),
        "other": statistics.median(each.pairs.second),
        "ratio": _ratio(each.ratio),
        "seconds": {"port": list(each.pairs.first), "other": list(each.pairs.second)},
    }


def _ratio(ratio: Ratio) -> dict[str, float | int]:
    return asdict(ratio)
