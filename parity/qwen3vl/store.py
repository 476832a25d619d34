"""Saving the traces of a run as folders, for another engine's CI or for judging again without running again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from parity.core.folder import TraceWriter
from parity.core.trace import Description, Entry, SeamKey, dtype_name
from parity.qwen3vl.engines import Engine
from parity.qwen3vl.inputs import CaseInputs
from parity.qwen3vl.labels import KINDS, row_labels
from parity.qwen3vl.recorder import OnReading, to_numpy
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
        with TraceWriter(self.folder / name, describe(engine, inputs), order=list(expected)) as writer:

            def add(key: SeamKey, array: np.ndarray) -> None:
                if key in expected:
                    writer.add(entry_of(expected[key], array), array)

            yield add
            for key, kinds in labels_of(inputs).items():
                writer.add_labels(key, kinds)


NOT_KEPT = TraceStore()


def labels_of(inputs: CaseInputs) -> dict[SeamKey, np.ndarray]:
    """The row labels of a case."""
    arrays = {name: to_numpy(tensor) for name, tensor in inputs.tensors.items()}
    return row_labels(arrays, inputs.config, decode_steps=inputs.decode_steps)


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
