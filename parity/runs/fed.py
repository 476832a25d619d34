"""The values with which both sides of the generation stage go on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.core.trace import Entry, SeamKey, Trace
from parity.seams.generation import FED


class Fed(Trace):
    """The logits, tokens and ends of a trace."""

    def __init__(self, trace: Trace) -> None:
        self.description, self._trace = trace.description, trace
        self._entries = {key: entry for key, entry in trace.entries().items() if key.name in FED}

    def entries(self) -> Mapping[SeamKey, Entry]:
        return self._entries

    def read(self, key: SeamKey) -> np.ndarray:
        return self._trace.read(key)

    def labels(self, key: SeamKey) -> np.ndarray:
        return self._trace.labels(key)
