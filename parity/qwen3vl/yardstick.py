"""The reference's trace of a case in true float64, and how far correct runs at the subject's dtype lie from it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from parity.core.errors import ParityError
from parity.core.floors import Floors
from parity.core.folder import FolderTrace
from parity.core.trace import Entry, SeamKey, Trace
from parity.qwen3vl.engines import ReferenceEngine
from parity.qwen3vl.inputs import CaseInputs
from parity.qwen3vl.recorder import Recorder, both
from parity.qwen3vl.seams import Expected
from parity.qwen3vl.store import NOT_KEPT, TraceStore
from reference.model import ReferenceModel

Progress = Callable[[str], None]


@dataclass
class Yardstick:
    """``tokens`` (B, steps) are the yardstick's greedy choice, fed to every other run. ``runs`` made the floors.

    ``isolated_floors`` are those of each part alone, fed with the yardstick's inputs.
    """

    engine: ReferenceEngine
    trace: Trace
    floors: Floors
    isolated_floors: Floors
    tokens: Tensor
    runs: list[str]
    spool: tempfile.TemporaryDirectory[str] | None = None  # goes when the yardstick does


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
    # Its own folder unless the caller keeps the traces: a yardstick of a real model does not fit into memory.
    spool = None if store.folder is not None else tempfile.TemporaryDirectory(prefix="parity-yardstick-")
    kept = store if spool is None else TraceStore(Path(spool.name))
    expected = inputs.expected
    seen: list[SeamKey] = []
    with kept.recording("reference", *inputs.header(engine)) as keep:
        sink = Recorder(expected, both(lambda key, _array: seen.append(key), keep))
        tokens = engine.trace(inputs.tensors, None, steps=inputs.decode_steps, sink=sink)
    _check_complete(expected, seen)
    trace = FolderTrace((kept.folder or Path()) / "reference")
    floors, isolated = Floors(trace), Floors(trace)
    variants = floor_variants(model)
    for number, variant in enumerate(variants, start=1):
        progress(f"floor run ({variant.variant})")
        with store.recording(f"floor-{number}", *inputs.header(variant)) as keep:
            sink = Recorder(expected, both(_FloatOnly(trace.entries(), floors), keep))
            variant.trace(inputs.tensors, tokens, steps=inputs.decode_steps, sink=sink)
        alone = Recorder(expected, _FloatOnly(trace.entries(), isolated), instead=trace)
        variant.trace(inputs.tensors, tokens, steps=inputs.decode_steps, sink=alone)
    return Yardstick(engine, trace, floors, isolated, tokens, [variant.variant for variant in variants], spool)


class _FloatOnly:
    """Passes the readings with float gates on to the floors; exact gates have none."""

    def __init__(self, entries: Mapping[SeamKey, Entry], floors: Floors) -> None:
        self.entries, self.floors = entries, floors

    def __call__(self, key: SeamKey, array: np.ndarray) -> None:
        entry = self.entries.get(key)
        if entry is not None and entry.gate == "float":
            self.floors.observe(entry, array)


def _check_complete(expected: list[Expected], seen: Sequence[SeamKey]) -> None:
    keys = {item.key for item in expected}
    missing = [str(key) for key in keys.difference(seen)]
    surplus = [str(key) for key in seen if key not in keys]
    if missing or surplus:
        raise ParityError(
            f"the reference gave {len(seen)} seams, {len(expected)} are expected: missing {missing[:10]}, "
            f"unexpected {surplus[:10]}; this version of transformers is not read correctly"
        )
