"""Saves the traces of a run as folders. They can be used in another engine's CI, or judged again later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from parity.core.folder import TraceWriter
from parity.core.trace import Description, Entry, SeamKey, dtype_name
from parity.runs.recorder import OnValue
from parity.seams.spec import Expected

Labels = Mapping[SeamKey, np.ndarray]


class TraceStore:
    """Writes a trace to ``folder/<name>`` for every run of a case. Without a folder, nothing is written."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    @contextmanager
    def recording(
        self, name: str, description: Description, expected: Sequence[Expected], labels: Callable[[], Labels]
    ) -> Iterator[OnValue]:
        """Give a function that writes the expected values. The folder is complete when the block ends without an error.

        ``labels`` is called at the end, for the kinds of all rows.
        """
        if self.folder is None:
            yield lambda _key, _array: None
            return
        known = {item.key: item for item in expected}
        with TraceWriter(self.folder / name, description, order=list(known)) as writer:

            def add(key: SeamKey, array: np.ndarray) -> None:
                if key in known:
                    writer.add(entry_of(known[key], array), array)

            yield add
            for key, kinds in labels().items():
                writer.add_labels(key, kinds)


NOT_KEPT = TraceStore()


def entry_of(item: Expected, array: np.ndarray) -> Entry:
    """Return the trace entry of an expected value."""
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
        unit=item.unit,
    )
