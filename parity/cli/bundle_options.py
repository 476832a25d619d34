"""The options of ``parity bundle make``, and the cases that they select. Needs neither torch nor transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parity.cases.case import Case
from parity.cases.registry import chosen_cases
from parity.cases.standard import standard_suite
from parity.core.errors import ParityError


@dataclass(frozen=True)
class MakeOptions:
    """The options of ``parity bundle make``. Sizes are in bytes."""

    model: str | None
    cases: tuple[str, ...]
    suite: bool
    dtypes: tuple[str, ...]
    out: Path
    with_checkpoint: bool
    checkpoint_limit: int
    limit: int | None
    threads: int | None


def chosen_of_bundle(options: MakeOptions) -> list[Case]:
    """Return the cases of the bundle. Raises ParityError for an unknown case, for none, and if the folder exists."""
    if options.suite == bool(options.cases):
        raise ParityError("name the cases with --case, or the whole suite with --suite, but not both")
    cases = standard_suite() if options.suite else chosen_cases(options.cases)
    if options.out.exists():
        raise ParityError(f"{options.out} exists already; name a new folder, or remove it first")
    return cases
