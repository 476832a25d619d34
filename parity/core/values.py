"""A trace of named numbers alone, as an engine without a manifest gives it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.core.errors import TraceError
from parity.core.trace import Description, Entry, SeamKey, Trace, dtype_name


class ValuesTrace(Trace):
    """Values in memory, by key. Axes, gates and kinds of rows are the reference's."""

    def __init__(self, description: Description, values: Mapping[SeamKey, np.ndarray]) -> None:
        self.description = description
        self._values: dict[SeamKey, np.ndarray] = dict(values)
        self._entries = {
            key: Entry(key=key, step="", group="", gate="float", shape=array.shape, dtype=dtype_name(array))
            for key, array in values.items()
        }

    def entries(self) -> Mapping[SeamKey, Entry]:
        return self._entries

    def read(self, key: SeamKey) -> np.ndarray:
        if key not in self._values:
            raise TraceError(f"the trace of {self.description.producer} has no value {key}")
        return self._values[key]

    def labels(self, key: SeamKey) -> np.ndarray:
        raise TraceError(f"the trace of {self.description.producer} has no row labels")
