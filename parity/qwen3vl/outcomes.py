"""What became of one mutant on one trial."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from parity.core.errors import ParityError
from parity.core.verdict import Verdict
from parity.qwen3vl.mutants.base import Mutant
from parity.qwen3vl.mutants.trials import Trial
from parity.qwen3vl.run import RunResult

State = Literal["at seam", "elsewhere", "survived", "not applicable"]


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant on one trial.

    ``seam`` and ``step`` are where it was caught. A survivor has ``worst``, the largest share of a gate that one of
    its readings reached, and ``identical``: every reading equals the sound port's bit for bit. Where it does not,
    ``floors`` is how many floors (and one ulp) the planted seam lies off, read alone. ``expected``: the trial has what
    the mistake needs to show.
    """

    mutant: str
    trial: str
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


def check_sound(trial: Trial, result: RunResult) -> None:
    if result.judgement.verdict is not Verdict.PARITY:
        raise ParityError(
            f"the port without a mistake does not pass {trial.name}: {result.judgement.reason}; "
            "mutants can only be told from a sound port"
        )


def worst_ratio(result: RunResult) -> float:
    """The largest share of a gate that one of the two readings of a seam reached."""
    alone = [finding.isolated.ratio or 0.0 for finding in result.findings if finding.isolated is not None]
    return max([finding.ratio or 0.0 for finding in result.findings] + alone, default=0.0)


def located(outcome: Outcome, mutant: Mutant, result: RunResult) -> Outcome:
    judgement = result.judgement
    if judgement.verdict is Verdict.PARITY:
        return outcome
    at = judgement.first_divergence
    if at is None:  # INCOMPLETE: a reading is missing, and nothing diverged
        at = next(i for i, finding in enumerate(result.findings) if not finding.compared)
    entry = result.findings[at].entry
    state: State = "at seam" if mutant.is_at(entry.key.name, entry.step) else "elsewhere"
    return replace(outcome, state=state, seam=entry.key.name, step=entry.step, error=result.error)
