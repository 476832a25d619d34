"""Saving the traces of a run as folders, for another engine's CI or for judging again without running again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from parity.core.folder import TraceWriter
from parity.core.trace import Description, Entry, SeamKey, Trace, dtype_name
from parity.qwen3vl.engines import Engine
from parity.qwen3vl.inputs import CaseInputs
from parity.qwen3vl.labels import KINDS
from parity.qwen3vl.recorder import OnReading
from parity.qwen3vl.seams import Expected


class TraceStore:
    """``folder/<name>`` for every run of a case; without a folder, nothing is kept."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    @contextmanager
    def recording(self, name: str, engine: Engine, inputs: CaseInputs) -> Iterator[OnReading]:
        """Readings go to disk as they come; the folder appears when the block ends well."""
        if self.folder is None:
            yield lambda _key, _array: None
            return
        expected = {item.key: item for item in inputs.expected}
        with TraceWriter(self.folder / name, describe(engine, inputs)) as writer:

            def add(key: SeamKey, array: np.ndarray) -> None:
                if key in expected:
                    writer.add(entry_of(expected[key], array), array)

            yield add

    def save(self, name: str, trace: Trace) -> None:
        """Write a trace that is in memory, with its row labels."""
        if self.folder is None:
            return
        with TraceWriter(self.folder / name, trace.description) as writer:
            for entry in trace:
                writer.add(entry, trace.read(entry.key))
            for key in dict.fromkeys(entry.rows for entry in trace):
                if key is not None:
                    writer.add_labels(key, trace.labels(key))


NOT_KEPT = TraceStore()


def describe(engine: Engine, inputs: CaseInputs) -> Description:
    return Description(engine.name, engine.detail, engine.dtype, inputs.name, kinds=KINDS)


def entry_of(item: Expected, array: np.ndarray) -> Entry:
    """The trace entry of an expected reading."""
    spec = item.spec
    return Entry(
        key=item.key,
        step=item.step,
        group=spec.group,
        gate=spec.gate,
        shape=array.shape,
        dtype=dtype_name(array),
        token_axes=spec.token_axes,
        axis_names=spec.axis_names,
        rows=item.rows,
    )
