"""The kill matrix: which mutants the gates catch, on which cases, and whether at the right seam."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch

from parity.cases.case import Case
from parity.mutants.attempt import BrokenPort, prepare, try_mutant
from parity.mutants.base import Mutant
from parity.mutants.cases import ONLY
from parity.mutants.outcomes import Outcome
from parity.runs.loader import Loader

Fate = Literal["caught", "survived", "invisible", "not exposed"]


@dataclass(frozen=True)
class MutantResult:
    """One mutant on all cases."""

    mutant: Mutant
    fate: Fate
    outcomes: tuple[Outcome, ...]

    @property
    def caught_by(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.caught]

    @property
    def localised(self) -> bool:
        """Whether it was caught, and by every such case at the planted seam."""
        return bool(self.caught_by) and all(outcome.state == "at seam" for outcome in self.caught_by)

    @property
    def missed_by(self) -> list[Outcome]:
        """Outcomes on cases that have all traits the mistake needs, and still did not catch it."""
        return [outcome for outcome in self.outcomes if outcome.expected and not outcome.caught]

    @property
    def first(self) -> Outcome | None:
        """The first outcome that caught it at a seam other than the planted one, or else the first that caught it."""
        caught = self.caught_by
        return next((outcome for outcome in caught if outcome.state == "elsewhere"), caught[0] if caught else None)


@dataclass(frozen=True)
class Matrix:
    """``forwards`` maps each case to the number of forward passes of one run.

    ``broken`` says why the port without a mistake does not pass a case. No mutant was tried there.
    """

    dtype: str
    forwards: dict[str, int]
    results: tuple[MutantResult, ...]
    broken: dict[str, str] = field(default_factory=dict)

    def of(self, *fates: Fate) -> list[MutantResult]:
        return [result for result in self.results if result.fate in fates]

    @property
    def kill_rate(self) -> float:
        """The share of caught mutants among those that must be caught in this dtype."""
        due = self.of("caught", "survived", "not exposed")
        return len(self.of("caught")) / len(due) if due else 0.0

    @property
    def localisation_rate(self) -> float:
        """The share of mutants caught at the planted seam among those caught."""
        caught = self.of("caught")
        return sum(result.localised for result in caught) / len(caught) if caught else 0.0

    @property
    def proven(self) -> bool:
        """Whether the port passes each case, and all mutants that must be caught in this dtype were, at least one."""
        return bool(self.of("caught")) and not self.of("survived", "not exposed") and not self.broken


@dataclass(frozen=True)
class OnCase:
    """The outcomes of all mutants on one case. If the port does not pass it, ``broken`` says why and there are none."""

    case: str
    forwards: int
    outcomes: tuple[Outcome, ...] = ()
    broken: str | None = None


def kill_matrix(
    mutants: Sequence[Mutant],
    cases: Sequence[Case],
    loader: Loader,
    *,
    dtype: str,
    progress: Callable[[str], None] = lambda _what: None,
) -> Matrix:
    """Try every mutant on every case. A case that the port fails without a mistake is ``broken``; the others run."""
    found = [on_case(case, mutants, loader, dtype=dtype, progress=progress) for case in cases]
    return matrix_of(mutants, found, dtype)


def on_case(
    case: Case,
    mutants: Sequence[Mutant],
    loader: Loader,
    *,
    dtype: str,
    progress: Callable[[str], None] = lambda _what: None,
) -> OnCase:
    """Try every mutant on a case."""
    outcomes: list[Outcome] = []
    with _one_thread():
        progress(f"{case.name}: yardstick")
        try:
            ready = prepare(case, loader, dtype=dtype)
        except BrokenPort as error:
            return OnCase(case.name, 0, broken=str(error))
        for mutant in mutants:
            if mutant.component not in ONLY.get(case.name, (mutant.component,)):
                outcomes.append(Outcome(mutant.id, case.name, "not applicable", expected=False))
                continue
            progress(f"{case.name}: {mutant.id}")
            outcomes.append(try_mutant(mutant, ready))
    return OnCase(case.name, ready.forwards, tuple(outcomes))


def matrix_of(mutants: Sequence[Mutant], found: Sequence[OnCase], dtype: str) -> Matrix:
    """Put the outcomes of all cases together, in the order of the mutants."""
    sound = [case for case in found if case.broken is None]
    by_mutant = {mutant.id: tuple(case.outcomes[place] for case in sound) for place, mutant in enumerate(mutants)}
    results = [
        MutantResult(mutant, fate(mutant, by_mutant[mutant.id], dtype), by_mutant[mutant.id]) for mutant in mutants
    ]
    broken = {case.case: case.broken for case in found if case.broken is not None}
    return Matrix(dtype, {case.case: case.forwards for case in sound}, tuple(results), broken)


def fate(mutant: Mutant, outcomes: Sequence[Outcome], dtype: str) -> Fate:
    """Caught by any case; or survived, unless the mistake cannot be seen in this dtype or on these cases.

    Declaring a mutant invisible is not enough: if its seam is off by more than its floor on any case, it survived.
    """
    if any(outcome.caught for outcome in outcomes):
        return "caught"
    if dtype not in mutant.dtypes:
        return "invisible" if all(outcome.is_noise for outcome in outcomes) else "survived"
    return "survived" if any(outcome.expected for outcome in outcomes) else "not exposed"


def smallest_cover(matrix: Matrix) -> list[str]:
    """A few cases that together catch every mutant caught: repeatedly the case that adds most, the cheapest first."""
    left = {result.mutant.id: {outcome.case for outcome in result.caught_by} for result in matrix.of("caught")}
    cover: list[str] = []
    while left:
        best = max(matrix.forwards, key=lambda case: (sum(case in by for by in left.values()), -matrix.forwards[case]))
        cover.append(best)
        left = {mutant: by for mutant, by in left.items() if best not in by}
    return cover


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and with one thread every run gives the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
