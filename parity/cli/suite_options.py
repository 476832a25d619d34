"""The options of ``parity suite``, and the cases that they select. Needs neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parity.cases.case import Case
from parity.cases.registry import chosen_cases
from parity.cli.workers import Where
from parity.core.errors import ParityError
from parity.milestones.shards import Shard
from parity.workers.choose import check_workers


@dataclass(frozen=True)
class SuiteOptions:
    """The options of ``parity suite``. Without cases and phases, everything runs."""

    cases: tuple[str, ...]
    phases: tuple[int, ...]
    dtype: str
    out: Path | None
    as_json: bool
    threads: int | None
    shard: Shard | None = None
    annotations: bool = False
    device: str = "cpu"
    fresh: bool = False
    workers: int | None = None
    scheduler: str | None = None

    @property
    def where(self) -> Where:
        """Where the cases run."""
        return Where(self.workers, self.scheduler)


def chosen_of_suite(every: Sequence[Case], options: SuiteOptions) -> list[Case]:
    """Return the cases of ``every`` that the options select.

    Raises ParityError for an unknown case, for none, or for workers and a scheduler at once.
    """
    check_workers(options.workers, options.scheduler)
    named = {case.name for case in chosen_cases(options.cases, among=every)}
    chosen = [
        case
        for case in every
        if (not named or case.name in named) and (not options.phases or case.phase in options.phases)
    ]
    if not chosen and not options.cases:
        raise ParityError(
            f"no case of the suite is in phase {', '.join(map(str, options.phases))}; `parity signoff --phase` runs "
            "the checks of a phase as well"
        )
    if not chosen:
        raise ParityError(
            f"no case is left: {', '.join(options.cases)} is not in phase {', '.join(map(str, options.phases))}; "
            "leave --phase out"
        )
    return chosen
