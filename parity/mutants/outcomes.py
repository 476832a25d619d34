"""What became of one mutant on one case."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from parity.core.verdict import Verdict
from parity.mutants.base import Mutant
from parity.runs.case_run import Result

State = Literal["at seam", "elsewhere", "survived", "not applicable"]


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant on one case.

    ``seam`` and ``step`` are where it was caught. A survivor has ``worst``, the largest share of a gate that one of
    its values reached, and ``identical``: every value equals the correct port's bit for bit. Where it does not,
    ``floors`` is how many floors (and one ulp) the planted seam is off in the isolated comparison. ``expected``: the
    case has what the mistake needs to show.
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
        """Nothing to catch: bit-equal, or no further off than correct runs are from one another."""
        return self.state == "not applicable" or self.identical or (self.floors is not None and self.floors <= 1)

    @property
    def caught(self) -> bool:
        return self.state in ("at seam", "elsewhere")


def worst_ratio(result: Result) -> float:
    """The largest share of a gate that any value reached in either comparison."""
    alone = [finding.isolated.ratio or 0.0 for finding in result.findings if finding.isolated is not None]
    return max([finding.ratio or 0.0 for finding in result.findings] + alone, default=0.0)


def located(outcome: Outcome, mutant: Mutant, result: Result) -> Outcome:
    judgement = result.judgement
    if judgement.verdict is Verdict.PARITY:
        return outcome
    at = judgement.first_divergence
    if at is None:  # INCOMPLETE: a value is missing, and nothing diverged
        at = next(i for i, finding in enumerate(result.findings) if not finding.compared)
    entry = result.findings[at].entry
    state: State = "at seam" if mutant.is_at(entry.key.name, entry.step) else "elsewhere"
    return replace(outcome, state=state, seam=entry.key.name, step=entry.step, error=result.error)
