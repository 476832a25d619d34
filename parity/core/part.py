"""A part of a trace."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from parity.core.trace import Entry, SeamKey, Trace


class PartOfTrace(Trace):
    """Some of the values of a trace."""

    def __init__(self, whole: Trace, keys: Collection[SeamKey]) -> None:
        self.description, self._whole = whole.description, whole
        wanted = set(keys)
        self._entries = {key: entry for key, entry in whole.entries().items() if key in wanted}

    def entries(self) -> Mapping[SeamKey, Entry]:
        return self._entries

    def read(self, key: SeamKey) -> np.ndarray:
        return self._whole.read(key)

    def labels(self, key: SeamKey) -> np.ndarray:
        return self._whole.labels(key)
