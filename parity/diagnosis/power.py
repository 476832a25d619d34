"""How much evidence proves: of the known mistakes, how many it would have shown.

Each known mistake is planted in the port, which runs on the inputs of the bundle. The evidence would have shown it if a
value that was given is then outside its gate. A run stops at the first such value.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from parity.core.compare import Comparison
from parity.core.floors import Floors
from parity.core.gates import DEFAULT_GATE
from parity.core.trace import SeamKey, Trace
from parity.diagnosis.planted import Enough, PlantedRuns
from parity.mutants.base import Mutant
from parity.mutants.registry import ALL


@dataclass(frozen=True)
class Power:
    """The known mistakes of one stage of a case that its evidence would have shown, and those that it would not."""

    case: str
    stage: str
    shown: Sequence[str]
    hidden: Sequence[str]

    def sentence(self) -> str:
        """Return it in words."""
        known = len(self.shown) + len(self.hidden)
        return f"{self.case}, {self.stage}: of {known} known mistakes this evidence would have shown {len(self.shown)}"


def power(
    runs: PlantedRuns,
    stage: str,
    given: Collection[SeamKey],
    reference: Trace,
    floors: Floors,
    library: Sequence[Mutant] = ALL,
) -> Power:
    """Plant every mistake of a stage, and see whether one of the values ``given`` fails.

    A mistake that makes the run fail counts as shown: an engine with it gives no complete trace.
    """
    shown: list[str] = []
    hidden: list[str] = []
    for mutant in library:
        if mutant.stage == stage:
            (
                shown if _shows(mutant, runs, stage, given, Comparison(reference, floors, DEFAULT_GATE)) else hidden
            ).append(mutant.id)
    return Power(runs.case.name, stage, shown, hidden)


def _shows(mutant: Mutant, runs: PlantedRuns, stage: str, given: Collection[SeamKey], comparison: Comparison) -> bool:
    failed: list[SeamKey] = []
    waiting = set(given)

    def on_value(key: SeamKey, array: np.ndarray) -> None:
        if key not in waiting:
            return
        waiting.discard(key)
        if comparison.judge(key, array).status not in ("ok", "not_compared"):
            failed.append(key)
        if failed or not waiting:
            raise Enough

    error = runs.run((mutant,), stage, on_value)
    return bool(failed) or error is not None
