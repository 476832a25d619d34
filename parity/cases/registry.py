"""Cases by name: the standard suite and the further ones, for every command that takes ``--case``."""

from __future__ import annotations

from collections.abc import Sequence

from parity.cases.case import Case
from parity.cases.further import further_cases
from parity.cases.large import large_cases
from parity.cases.standard import standard_suite
from parity.core.errors import ParityError


def every_case() -> dict[str, Case]:
    """Return all cases by name, the standard suite first. The large ones are last."""
    return {case.name: case for case in (*standard_suite(), *further_cases(), *large_cases())}


def chosen_cases(names: Sequence[str], among: Sequence[Case] | None = None) -> list[Case]:
    """Return the cases with these names, each once. Raises ParityError for an unknown name."""
    known = every_case() if among is None else {case.name: case for case in among}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ParityError(f"there is no case {', '.join(map(repr, unknown))}; choose from {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]
