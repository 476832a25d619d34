"""Calibrating m: what correct runs need, so that none is called wrong.

Every case is run in true float64 and then by many correct engines: the reference's variants, further ones that made
no floor, and the port. Each is judged by four floors, as a subject is: a variant that made one of them by the other
three and a stand-in's, which differs from it by its nudge or its threads. The largest m that any row of any run needs
is the smallest m without a false alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.core.floors import Floors
from parity.core.gates import FloatGate
from parity.core.metrics import as_rows, row_errors
from parity.core.trace import PADDING, Entry, SeamKey, Trace
from parity.qwen3vl.engines import Engine, PortEngine, ReferenceEngine
from parity.qwen3vl.inputs import CaseInputs
from parity.qwen3vl.recorder import Recorder
from parity.qwen3vl.yardstick import Yardstick, floor_variants
from port import Qwen3VL
from reference.model import ReferenceModel

Rows = dict[SeamKey, np.ndarray]


@dataclass(frozen=True)
class Need:
    """What one correct run of one case needs; ``m`` is 0 where ulps alone cover it."""

    case: str
    run: str
    reading: str  # accumulated or isolated
    m: float
    seam: str
    rows: int


def stand_ins(model: ReferenceModel) -> list[Engine]:
    """One for each of ``floor_variants``, in their order: as much like it as another run can be."""
    return [
        ReferenceEngine(model, "eager", threads=1),
        ReferenceEngine(model, "sdpa", threads=1),
        ReferenceEngine(model, "sdpa", nudge=21, threads=1),
        ReferenceEngine(model, "eager", nudge=22),
    ]


def further_runs(model: ReferenceModel, port: Qwen3VL) -> list[Engine]:
    """Correct runs that neither make a floor nor stand in for one that does."""
    return [
        ReferenceEngine(model, "sdpa", nudge=11),
        ReferenceEngine(model, "eager", nudge=12, threads=1),
        PortEngine(port),
        PortEngine(port, chunk=13),
    ]


def needs(
    inputs: CaseInputs,
    yardstick: Yardstick,
    *,
    model: ReferenceModel,
    port: Qwen3VL,
    gate: FloatGate,
    progress: Callable[[str], None],
) -> list[Need]:
    """Every correct run of a case, in both readings. ``gate`` gives the ulps; its m is not used."""
    found = []
    standard = floor_variants(model)
    for reading, instead in (("accumulated", None), ("isolated", yardstick.trace)):
        errors: list[tuple[str, Rows]] = []
        for engine in [*standard, *stand_ins(model), *further_runs(model, port)]:
            progress(f"{inputs.name}: {_name(engine)}, {reading}")
            errors.append((_name(engine), _row_errors(engine, inputs, yardstick, instead)))
        makers, seconds = ([rows for _, rows in errors[start : start + len(standard)]] for start in (0, len(standard)))
        for index, (name, rows) in enumerate(errors):
            floors = [seconds[place] if place == index else maker for place, maker in enumerate(makers)]
            found.append(_need(name, reading, rows, floors, inputs, yardstick, gate))
    return found


def _name(engine: Engine) -> str:
    if isinstance(engine, ReferenceEngine):
        return engine.variant
    return "port" if not isinstance(engine, PortEngine) or engine.chunk is None else f"port, chunks of {engine.chunk}"


def _row_errors(engine: Engine, inputs: CaseInputs, yardstick: Yardstick, instead: Trace | None) -> Rows:
    """Relative error of every row of every float reading; NaN at padding."""
    rows: Rows = {}
    entries = yardstick.trace.entries()

    def measure(key: SeamKey, array: np.ndarray) -> None:
        entry = entries[key]
        if entry.gate == "float":
            reference = as_rows(yardstick.trace.read(key), entry.token_axes)
            errors = row_errors(as_rows(array, entry.token_axes), reference)
            rows[key] = np.where(_compared(entry, yardstick.trace), errors, np.nan)

    tokens = inputs.tensors["input_ids"].shape[1]
    chunk = engine.chunk if isinstance(engine, PortEngine) else None
    chunks = 1 if chunk is None else -(-tokens // chunk)
    sink = Recorder(inputs.expected, measure, chunks=chunks, instead=instead)
    engine.trace(inputs.tensors, yardstick.tokens, steps=inputs.decode_steps, sink=sink)
    return rows


def _compared(entry: Entry, trace: Trace) -> np.ndarray:
    if entry.rows is None:
        return np.ones(int(np.prod(entry.token_shape, dtype=np.int64)), dtype=bool)
    return trace.labels(entry.rows).reshape(-1) != PADDING


def _need(
    name: str,
    reading: str,
    rows: Rows,
    floors: Sequence[Mapping[SeamKey, np.ndarray]],
    inputs: CaseInputs,
    yardstick: Yardstick,
    gate: FloatGate,
) -> Need:
    worst, at, count = 0.0, "", 0
    for key, errors in rows.items():
        entry = yardstick.trace.entries()[key]
        spread = np.max([floor[key] for floor in floors], axis=0)
        floor = np.maximum(spread, np.nanmedian(spread))
        beyond = errors - gate.ulp_floor(_dtype(yardstick.floors, entry))
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = np.where(beyond > 0, beyond / floor, 0.0)
        largest = float(np.nanmax(needed))
        count += int(np.isfinite(errors).sum())
        if largest > worst:
            worst, at = largest, str(key)
    return Need(inputs.name, name, reading, worst, at, count)


def _dtype(floors: Floors, entry: Entry) -> str:
    return floors.dtype(entry)
