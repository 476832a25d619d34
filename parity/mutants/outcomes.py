"""Outcomes: what a run of one mutant on one case showed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from parity.core.verdict import Verdict
from parity.mutants.base import Mutant
from parity.runs.case_run import Result

State = Literal["at seam", "elsewhere", "survived", "not applicable"]


@dataclass(frozen=True)
class Outcome:
    """What a run of one mutant on one case showed.

    ``seam`` and ``step`` say where it was caught. For a mutant that survived, ``worst`` is the largest ratio of its
    values, and ``identical`` says whether all values equal the correct port's bit for bit. If they do not, ``floors``
    is the largest ratio of the planted seam in the isolated comparison with a gate of one floor and one ulp.
    ``expected``: the case has all traits that the mistake needs.
    """

    mutant: str
    case: str
    state: State
    expected: bool
    seam: str | None = None
    step: str | None = None
    worst: float | None = None
    floors: float | None = None
    identical: bool = False
    error: str | None = None

    @property
    def is_noise(self) -> bool:
        """There was nothing to catch: all values are bit-equal, or no further off than those of correct runs."""
        return self.state == "not applicable" or self.identical or (self.floors is not None and self.floors <= 1)

    @property
    def caught(self) -> bool:
        return self.state in ("at seam", "elsewhere")


def worst_ratio(result: Result) -> float:
    """The largest ratio of any value in either comparison."""
    alone = [finding.isolated.ratio or 0.0 for finding in result.findings if finding.isolated is not None]
    return max([finding.ratio or 0.0 for finding in result.findings] + alone, default=0.0)


def located(outcome: Outcome, mutant: Mutant, result: Result) -> Outcome:
    """The outcome with the place of the result's first divergence; unchanged for PARITY."""
    judgement = result.judgement
    if judgement.verdict is Verdict.PARITY:
        return outcome
    at = judgement.first_divergence
    if at is None:  # INCOMPLETE: a value is missing and none diverged
        at = next(i for i, finding in enumerate(result.findings) if not finding.compared)
    entry = result.findings[at].entry
    state: State = "at seam" if mutant.is_at(entry.key.name, entry.step) else "elsewhere"
    return replace(outcome, state=state, seam=entry.key.name, step=entry.step, error=result.error)
