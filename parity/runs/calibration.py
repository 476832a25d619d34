"""Calibrates m, so that no correct run is called wrong.

Every case is run in true float64, and then by many correct engines: the reference's variants, further variants that
made no floor, the port, and the port with the kernels of other libraries. Each is judged by the floors of four runs,
like a subject. A variant must not be judged by a floor that it made itself. A stand-in replaces it there, which
differs from it by its nudge or its threads. The largest m that any row of any run needs is the smallest m without a
false alarm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from parity.cases.case import Case, SeededCheckpoint
from parity.core.gates import AFTER_SOFTMAX, DEFAULT_GATE, ISOLATED_GATE, FloatGate
from parity.core.metrics import as_rows, row_errors
from parity.core.trace import PADDING, Entry, SeamKey, Trace
from parity.engines.base import ModelEngine
from parity.engines.port import PortEngine
from parity.engines.reference import ReferenceEngine
from parity.kernels.base import Kernels
from parity.kernels.plain import PlainKernels
from parity.runs.inputs import CaseInputs
from parity.runs.loader import Loader
from parity.runs.recorder import Recorder
from parity.runs.stages.model_stage import ModelStage, floor_variants, model_stage
from port import Qwen3VL
from reference.model import ReferenceModel

Rows = dict[SeamKey, np.ndarray]


@dataclass(frozen=True)
class Need:
    """The m that one correct run of one case needs. It is 0 if the gate's ulps are enough.

    ``isolation`` is a name of ``GATES``.
    """

    case: str
    run: str
    isolation: str
    m: float
    seam: str
    rows: int


def stand_ins(model: ReferenceModel) -> list[ReferenceEngine]:
    """Return a similar run for each of ``floor_variants``, in the same order."""
    return [
        ReferenceEngine(model, "eager", threads=1),
        ReferenceEngine(model, "sdpa", threads=1),
        ReferenceEngine(model, "sdpa", nudge=21, threads=1),
        ReferenceEngine(model, "eager", kernels=PlainKernels(), nudge=22),
    ]


def further_runs(model: ReferenceModel, port: Qwen3VL, kernels: Sequence[Kernels] = ()) -> list[ModelEngine]:
    """Return correct runs that neither make a floor nor are stand-ins. ``kernels``: those of other libraries."""
    return [
        ReferenceEngine(model, "sdpa", nudge=11),
        ReferenceEngine(model, "eager", nudge=12, threads=1),
        ReferenceEngine(model, "eager", kernels=PlainKernels()),
        PortEngine(port),
        PortEngine(port, chunk=13),
        *(PortEngine(port, kernels=library) for library in kernels),
    ]


ATTENTION = "isolated_attention"
GATES: Mapping[str, FloatGate] = {
    "accumulated": DEFAULT_GATE,
    "isolated": ISOLATED_GATE,
    ATTENTION: ISOLATED_GATE.of(AFTER_SOFTMAX),
}


@dataclass(frozen=True)
class Summary:
    """The m that all correct runs need with one of the gates. ``worst`` has all needs, the largest first."""

    gate: FloatGate
    smallest_m: float
    false_alarms: int
    worst: Sequence[Need]


def planned(cases: Sequence[Case], seeds: int) -> list[tuple[int, Case]]:
    """Return what is calibrated: each case on ``seeds`` checkpoints. There is only one trained model."""
    return [
        (seed, case)
        for seed in range(seeds)
        for case in cases
        if not seed or isinstance(case.checkpoint, SeededCheckpoint)
    ]


def calibrate_one(case: Case, seed: int, loader: Loader, *, dtype: str, kernels: Sequence[Kernels] = ()) -> list[Need]:
    """Return the need of every correct run of a case on the checkpoint of one seed."""
    spec = case.checkpoint
    if isinstance(spec, SeededCheckpoint):
        spec = replace(spec, seed=seed)
    folder = loader.checkpoint(spec)
    inputs = loader.inputs(replace(case, chunk=None), folder)
    model, port = loader.reference(folder, dtype), loader.port(folder, dtype)
    return needs(inputs, model_stage(inputs, model), model=model, port=port, kernels=kernels)


def summaries(found: Sequence[Need]) -> dict[str, Summary]:
    """Summarize the needs of each gate."""
    made = {}
    for isolation, gate in GATES.items():
        worst = sorted((need for need in found if need.isolation == isolation), key=lambda need: need.m, reverse=True)
        made[isolation] = Summary(gate, worst[0].m, sum(need.m > gate.m for need in worst), worst)
    return made


def needs(
    inputs: CaseInputs,
    stage: ModelStage,
    *,
    model: ReferenceModel,
    port: Qwen3VL,
    kernels: Sequence[Kernels] = (),
) -> list[Need]:
    """Return the needs of all correct runs of a case, in both comparisons: one for each of ``GATES``."""
    found: list[Need] = []
    makers, seconds = floor_variants(model), stand_ins(model)
    engines: list[ModelEngine] = [*makers, *seconds, *further_runs(model, port, kernels)]
    for isolation, instead in (("accumulated", None), ("isolated", stage.yardstick.trace)):

        def run(engine: ModelEngine, instead: Trace | None = instead, nudge: int | None = None) -> Rows:
            return _row_errors(engine, inputs, stage, instead, nudge)

        # Floors of the isolated comparison are measured with moved inputs; a subject gets the yardstick's own.
        first, second = ([run(engine, nudge=engine.nudge) for engine in some] for some in (makers, seconds))
        for index, engine in enumerate(engines):
            known = [*first, *second][index] if index < 2 * len(makers) else None
            moved = instead is not None and isinstance(engine, ReferenceEngine) and engine.nudge is not None
            judged = run(engine) if known is None or moved else known
            floors = [second[place] if place == index else rows for place, rows in enumerate(first)]
            found += _needs(_name(engine), isolation, judged, floors, stage)
    return found


def _name(engine: ModelEngine) -> str:
    if isinstance(engine, ReferenceEngine):
        return engine.variant
    assert isinstance(engine, PortEngine)
    if engine.kernels is not None:
        return f"port, {engine.kernels.name}"
    return "port" if engine.chunk is None else f"port, chunks of {engine.chunk}"


def _row_errors(
    engine: ModelEngine, inputs: CaseInputs, stage: ModelStage, instead: Trace | None, nudge: int | None
) -> Rows:
    """Return the relative error of every row of every float value. NaN at padding. For ``nudge`` see ``Recorder``."""
    rows: Rows = {}
    trace = stage.yardstick.trace
    entries = trace.entries()

    def measure(key: SeamKey, array: np.ndarray) -> None:
        entry = entries[key]
        if entry.gate == "float":
            reference = as_rows(trace.read(key), entry.token_axes)
            errors = row_errors(as_rows(array, entry.token_axes), reference)
            rows[key] = np.where(_compared(entry, trace), errors, np.nan)

    tokens = inputs.tensors["input_ids"].shape[1]
    chunk = engine.chunk if isinstance(engine, PortEngine) else None
    chunks = 1 if chunk is None else -(-tokens // chunk)
    sink = Recorder(inputs.expected, measure, chunks=chunks, instead=instead, nudge=nudge)
    engine.trace(inputs.tensors, stage.tokens, steps=inputs.decode_steps, sink=sink)
    return rows


def _compared(entry: Entry, trace: Trace) -> np.ndarray:
    if entry.rows is None:
        return np.ones(int(np.prod(entry.token_shape, dtype=np.int64)), dtype=bool)
    compared: np.ndarray = trace.labels(entry.rows).reshape(-1) != PADDING
    return compared


def _needs(
    name: str,
    isolation: str,
    rows: Rows,
    floors: Sequence[Mapping[SeamKey, np.ndarray]],
    stage: ModelStage,
) -> Iterator[Need]:
    """Yield the needs of a run in a comparison. Of ``GATES``, only the ulps are used, not the m."""
    worst: dict[str, tuple[float, str]] = {}
    count = 0
    for key, errors in rows.items():
        entry = stage.yardstick.trace.entries()[key]
        spread = np.max([floor[key] for floor in floors], axis=0)
        floor = np.maximum(spread, np.nanmedian(spread))
        beyond = errors - GATES[isolation].ulp_floor(stage.yardstick.floors.dtype(entry))
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = np.where(beyond > 0, beyond / floor, 0.0)
        count += int(np.isfinite(errors).sum())
        which = ATTENTION if isolation == "isolated" and key.name.endswith(AFTER_SOFTMAX) else isolation
        worst[which] = max(worst.get(which, (0.0, "")), (float(np.nanmax(needed)), str(key)))
    for which, (m, at) in worst.items():
        yield Need(stage.case, name, which, m, at if m else "", count if which != ATTENTION else 0)
