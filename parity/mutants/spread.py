"""The kill matrix on any workers: a task for each case, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from parity.cases.case import Case
from parity.cases.registry import every_case
from parity.mutants.base import Mutant
from parity.mutants.matrix import OnCase, on_case
from parity.mutants.outcomes import Outcome
from parity.mutants.registry import chosen
from parity.runs.loader import Loader
from parity.workers import state
from parity.workers.base import Task, Workers, run_tasks
from parity.workers.messages import WorkerLost, number, plain

_NUMBERS = ("worst", "floors")


def try_case(task: Task) -> dict[str, Any]:
    """Try the mutants of a task on its case, in whatever process this is called. Returns an ``OnCase`` as data."""
    case, mutants = every_case()[task["case"]], chosen(task["mutants"])
    loader = state.kept("loader", Loader)
    return to_json(on_case(case, mutants, loader, dtype=task["dtype"], progress=state.say))


def to_json(found: OnCase) -> dict[str, Any]:
    """Return an ``OnCase`` as plain data; NaN and Inf become text."""
    made = asdict(found)
    made["outcomes"] = [
        {name: plain(value) if name in _NUMBERS else value for name, value in outcome.items()}
        for outcome in made["outcomes"]
    ]
    return made


def from_json(made: Mapping[str, Any]) -> OnCase:
    """Return what ``to_json`` wrote. Raises TypeError or ValueError for anything else."""
    outcomes: list[dict[str, Any]] = [
        {name: number(value) if name in _NUMBERS else value for name, value in outcome.items()}
        for outcome in made["outcomes"]
    ]
    return OnCase(**{**made, "outcomes": tuple(Outcome(**outcome) for outcome in outcomes)})


def spread_matrix(
    mutants: Sequence[Mutant],
    cases: Sequence[Case],
    workers: Workers,
    *,
    dtype: str,
    earlier: Mapping[str, OnCase],
    finished: Callable[[Case, OnCase], None],
) -> list[OnCase]:
    """Return the outcomes on each case, in the order of the cases.

    ``earlier`` are outcomes that an earlier run has finished. ``finished`` gets each new one at once. A case whose
    worker ended each time is ``broken``.
    """
    found = dict(earlier)
    left = [case for case in cases if case.name not in found]
    ids = [mutant.id for mutant in mutants]
    tasks: list[Task] = [
        {
            "case": case.name,
            "mutants": ids,
            "dtype": dtype,
            "group": case.checkpoint.label,
            "label": case.name,
            "steps": len(mutants) + 1,
        }
        for case in left
    ]
    for place, answer in run_tasks(workers, try_case, tasks, lost=_lost):
        made = from_json(answer)
        if made.broken is None:
            finished(left[place], made)
        found[left[place].name] = made
    return [found[case.name] for case in cases]


def _lost(task: Task, error: WorkerLost) -> dict[str, Any]:
    return to_json(OnCase(task["case"], 0, broken=f"no mutant was tried: {error}"))
