"""The reference's trace of a case in true float64, and how far correct runs at the subject's dtype lie from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from parity.core.errors import ParityError
from parity.core.floors import Floors
from parity.core.trace import Entry, MemoryTrace, SeamKey
from parity.qwen3vl.engines import ReferenceEngine
from parity.qwen3vl.inputs import CaseInputs
from parity.qwen3vl.labels import row_labels
from parity.qwen3vl.recorder import Recorder, both, to_numpy
from parity.qwen3vl.seams import Expected
from parity.qwen3vl.store import NOT_KEPT, TraceStore, describe, entry_of
from reference.model import ReferenceModel

Progress = Callable[[str], None]


@dataclass
class Yardstick:
    """``tokens`` (B, steps) are the yardstick's greedy choice, fed to every other run. ``runs`` made the floors.

    ``isolated_floors`` are those of each part alone, fed with the yardstick's inputs.
    """

    engine: ReferenceEngine
    trace: MemoryTrace
    floors: Floors
    isolated_floors: Floors
    tokens: Tensor
    runs: list[str]


def floor_variants(model: ReferenceModel) -> list[ReferenceEngine]:
    """The correct runs, at the model's own dtype, whose distance from the yardstick is the floor."""
    return [
        ReferenceEngine(model, "eager"),
        ReferenceEngine(model, "sdpa"),
        ReferenceEngine(model, "sdpa", nudge=1, threads=1),
        ReferenceEngine(model, "eager", nudge=2),
    ]


def measure_yardstick(
    inputs: CaseInputs, model: ReferenceModel, *, progress: Progress, store: TraceStore = NOT_KEPT
) -> Yardstick:
    """Run the reference once in true float64 and once, at its own dtype, for each variant of ``floor_variants``.

    Raises ParityError when it does not give exactly the seams expected of it: a yardstick with a hole would let
    a bug through.
    """
    engine = ReferenceEngine(model, "eager", exact=True)
    progress(f"reference ({engine.variant})")
    expected = inputs.expected
    readings: dict[SeamKey, np.ndarray] = {}
    tokens = engine.trace(
        inputs.tensors,
        None,
        steps=inputs.decode_steps,
        sink=Recorder(expected, lambda key, array: readings.update({key: array})),
    )
    _check_complete(expected, readings)
    trace = MemoryTrace(describe(engine, inputs))
    for item in expected:
        array = readings.pop(item.key)
        trace.add(entry_of(item, array), array)
    arrays = {name: to_numpy(tensor) for name, tensor in inputs.tensors.items()}
    for key, kinds in row_labels(arrays, inputs.config, decode_steps=inputs.decode_steps).items():
        trace.add_labels(key, kinds)
    store.save("reference", trace)
    floors, isolated = Floors(trace), Floors(trace)
    variants = floor_variants(model)
    for number, variant in enumerate(variants, start=1):
        progress(f"floor run ({variant.variant})")
        with store.recording(f"floor-{number}", variant, inputs) as keep:
            sink = Recorder(expected, both(_FloatOnly(trace.entries(), floors), keep))
            variant.trace(inputs.tensors, tokens, steps=inputs.decode_steps, sink=sink)
        alone = Recorder(expected, _FloatOnly(trace.entries(), isolated), instead=trace)
        variant.trace(inputs.tensors, tokens, steps=inputs.decode_steps, sink=alone)
    return Yardstick(engine, trace, floors, isolated, tokens, [variant.variant for variant in variants])


class _FloatOnly:
    """Passes the readings with float gates on to the floors; exact gates have none."""

    def __init__(self, entries: Mapping[SeamKey, Entry], floors: Floors) -> None:
        self.entries, self.floors = entries, floors

    def __call__(self, key: SeamKey, array: np.ndarray) -> None:
        entry = self.entries.get(key)
        if entry is not None and entry.gate == "float":
            self.floors.observe(entry, array)


def _check_complete(expected: list[Expected], readings: Mapping[SeamKey, np.ndarray]) -> None:
    keys = {item.key for item in expected}
    missing = [str(item.key) for item in expected if item.key not in readings]
    surplus = [str(key) for key in readings if key not in keys]
    if missing or surplus:
        raise ParityError(
            f"the reference gave {len(readings)} seams, {len(expected)} are expected: missing {missing[:10]}, "
            f"unexpected {surplus[:10]}; this version of transformers is not read correctly"
        )
