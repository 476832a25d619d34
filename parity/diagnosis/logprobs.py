"""Evidence from a black box: log-probabilities of tokens after each step.

A hypothesis explains a step if the log-probabilities of the port with the mistake are the subject's, within the gate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from parity.bundles.tokens.blackbox import Place, gate_of, log_softmax
from parity.core.floors import Floors
from parity.core.trace import Entry, SeamKey, Trace
from parity.diagnosis.evidence import Residue

BETWEEN_RUNS = 0.5  # gates
_TOP = 20  # log-probabilities of each step, as engines give them


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
        return self._residue(key, array, BETWEEN_RUNS, spread)

    def off(self, values: Mapping[SeamKey, np.ndarray]) -> dict[Place, float]:
        """Return how far the given log-probabilities are from those of a run at most, in nats, at each place.

        Places that the run did not reach, or at which it has NaN or Inf, are left out.
        """
        found = {}
        for place, tokens in self.given.items():
            array = values.get(SeamKey("logits", place.call))
            if array is not None and place.row < len(array):
                row = array[place.row, min(place.token, array.shape[1] - 1)].astype(np.float64)  # (V,)
                if np.isfinite(row).all():
                    own = log_softmax(row)
                    found[place] = max(abs(float(own[token]) - value) for token, value in tokens.items())
        return found

    def _residue(self, key: SeamKey, array: np.ndarray, gates: float, spread: float) -> Residue:
        places = [place for place in self.given if place.call == key.call]
        off = self.off({key: array})
        gates_at = {at: gates * gate_of(self.reference, self.floors, at) + spread for at in off}
        ratios = [off[at] / gates_at[at] if at in off else math.inf for at in places]
        figures = list(off.values())
        worst = max(ratios, default=math.inf)
        failed = sum(not ratio <= 1 for ratio in ratios)
        return Residue(failed == 0 and bool(ratios), len(ratios), failed, worst, max(figures, default=None))


def likeliest(values: Mapping[SeamKey, np.ndarray], reference: Trace) -> dict[Place, dict[int, float]]:
    """Return the log-probabilities of the likeliest tokens after the prefill and each decode step.

    ``values`` are those of a run, of which the logits (B, S, V) are used.
    """
    mask = reference.read(SeamKey("attention_mask", 0))  # (B, S)
    found = {}
    for key, array in values.items():
        if key.name != "logits" or not np.isfinite(array).all():
            continue
        for row in range(len(array)):
            token = int(np.flatnonzero(mask[row])[-1]) if key.call == 0 else 0
            if row < len(mask) and token < array.shape[1]:
                logprobs = log_softmax(array[row, token].astype(np.float64))
                top = np.argsort(logprobs)[-_TOP:]
                found[Place(row, key.call, token)] = {int(one): float(logprobs[one]) for one in top}
    return found
