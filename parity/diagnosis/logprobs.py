"""Evidence from a black box: log-probabilities of tokens after each step.

A hypothesis explains a step if the log-probabilities of the port with the mistake are the subject's, within the gate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from parity.bundles.blackbox import Place, gate_of, log_softmax
from parity.core.floors import Floors
from parity.core.trace import Entry, SeamKey, Trace
from parity.diagnosis.evidence import Residue

_BETWEEN_RUNS = 0.5  # gates


@dataclass(frozen=True)
class LogprobEvidence:
    """``given`` are log-probabilities by token id, for each place: a row of the batch and a call of the logits."""

    given: Mapping[Place, Mapping[int, float]]
    reference: Trace
    floors: Floors

    @cached_property
    def order(self) -> Mapping[SeamKey, int]:
        return {key: at for at, key in enumerate(self.reference.entries())}

    @cached_property
    def before(self) -> Mapping[SeamKey, Residue]:
        keys = [SeamKey("logits", call) for call in sorted({place.call for place in self.given})]
        return {key: self._residue(key, self.reference.read(key), 1.0, 0.0) for key in keys}

    def entry(self, key: SeamKey) -> Entry:
        return self.reference.entries()[key]

    def residue(self, key: SeamKey, array: np.ndarray, spread: float = 0.0) -> Residue:
        # The gate is a bound that no correct run comes near, because a row's largest peak counts twice in it.
        return self._residue(key, array, _BETWEEN_RUNS, spread)

    def _residue(self, key: SeamKey, array: np.ndarray, gates: float, spread: float) -> Residue:
        ratios, figures = [], []
        for place, tokens in self.given.items():
            if place.call != key.call:
                continue
            gate = gates * gate_of(self.reference, self.floors, place) + spread
            row = array[place.row, min(place.token, array.shape[1] - 1)].astype(np.float64)  # (V,)
            if not np.isfinite(row).all():
                ratios.append(math.inf)
                continue
            found = log_softmax(row)
            off = max(abs(float(found[token]) - value) for token, value in tokens.items())
            ratios.append(off / gate)
            figures.append(off)
        worst = max(ratios, default=math.inf)
        failed = sum(not ratio <= 1 for ratio in ratios)
        return Residue(failed == 0 and bool(ratios), len(ratios), failed, worst, max(figures, default=None))
