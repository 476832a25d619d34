"""The named checks that a milestone may require. Each returns one line for every test that it makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from parity.answers.generation import Agreement, compare_generation
from parity.cases.registry import chosen_cases
from parity.core.errors import ParityError
from parity.milestones.performance import performance
from parity.milestones.records.evidence import Content, missing, of_tests
from parity.milestones.records.power import ELSEWHERE
from parity.mutants.matrix import MutantResult, kill_matrix
from parity.mutants.registry import ALL
from parity.relations.examples import example
from parity.relations.relations import AGREEMENT, RELATIONS
from parity.runs.loader import Loader

Test = tuple[str, str, float | None, float | None, str]


def relations(detail: Mapping[str, Any], _loader: Loader) -> Content:
    """Every relation on ``examples`` seeded examples. The figure is the worst row error over them."""
    return of_tests([_relation(name, detail["examples"]) for name in RELATIONS])


def _relation(name: str, examples: int) -> Test:
    errors = []
    with torch.no_grad():
        for seed in range(examples):
            try:
                errors.append(RELATIONS[name](example(seed)))
            except Exception as error:  # the port may raise anything
                return (name, "broken", None, AGREEMENT, f"example {seed} raised {type(error).__name__}: {error}")
    largest = max(errors, key=lambda error: math.inf if math.isnan(error) else error)
    if not math.isfinite(largest):
        return (name, "broken", None, AGREEMENT, f"example {errors.index(largest)} gives NaN or Inf")
    kept = largest <= AGREEMENT
    return (name, "kept" if kept else "broken", largest, AGREEMENT, "" if kept else f"example {errors.index(largest)}")


def generation(detail: Mapping[str, Any], loader: Loader) -> Content:
    """Greedy tokens of every row of the cases, beside transformers' ``generate``. A row that differs counts as 1."""
    tests: list[Test] = []
    for case in chosen_cases(detail["cases"]):
        folder = loader.checkpoint(case.checkpoint)
        inputs = loader.inputs(case, folder)
        reference = loader.reference(loader.for_reference(case.checkpoint), "float32")
        model = loader.port(folder, "float32")
        processor = loader.processor(folder)
        found = compare_generation(inputs, model, reference, processor, tokens=detail["tokens"])
        tests += [_row(case.name, agreement) for agreement in found]
    return of_tests(tests)


def _row(case: str, agreement: Agreement) -> Test:
    name = f"{case}, row {agreement.row}, {len(agreement.reference)} tokens"
    if agreement.first is None:
        return (name, "same", 0, 0, "")
    margin = "" if agreement.margin is None else f", the reference's margin is {agreement.margin:.2g}"
    return (name, "differs", 1, 0, f"at token {agreement.first}{margin}")


def kill(detail: Mapping[str, Any], loader: Loader) -> Content:
    """Plant the mutants of the named components, and the named mutants, on the cases. A survivor counts as 1.

    Where the port itself does not pass a case, the matrix cannot be measured: this is missing, and the phase that
    requires the case refuses it.
    """
    planted = [mutant for mutant in ALL if mutant.id in named_mutants(detail)]
    matrix = kill_matrix(planted, chosen_cases(detail["cases"]), loader, dtype="float32")
    if matrix.broken:
        return missing(f"it could not be measured: {next(iter(matrix.broken.values()))}")
    figures = {"caught": 0, "invisible": 0, "survived": 1, "not exposed": None}
    return of_tests(
        [(result.mutant.id, result.fate, figures[result.fate], 0, _elsewhere(result)) for result in matrix.results]
    )


def _elsewhere(result: MutantResult) -> str:
    """Say where a mutant was caught, if not at its seam."""
    if result.fate != "caught" or result.localised or result.first is None:
        return ""
    return f"{ELSEWHERE}{result.first.seam} ({result.first.step})"


def named_mutants(detail: Mapping[str, Any]) -> list[str]:
    """Return the ids of the mutants that ``components`` and ``mutants`` name.

    Raises ParityError for a name that does not exist.
    """
    components, mutants = detail.get("components", []), detail.get("mutants", [])
    known = {"component": {mutant.component for mutant in ALL}, "mutant": {mutant.id for mutant in ALL}}
    for what, names in (("component", components), ("mutant", mutants)):
        unknown = [name for name in names if name not in known[what]]
        if unknown:
            raise ParityError(f"there is no {what} {unknown[0]!r}; choose from {', '.join(sorted(known[what]))}")
    return [mutant.id for mutant in ALL if mutant.component in components or mutant.id in mutants]


CHECKS: dict[str, Callable[[Mapping[str, Any], Loader], Content]] = {
    "relations": relations,
    "generation": generation,
    "kill-matrix": kill,
    "performance": performance,
}


def shown_mistakes(detail: Mapping[str, Any]) -> list[str]:
    """Return the named mutants that some dtype can show."""
    named = named_mutants(detail)
    return [mutant.id for mutant in ALL if mutant.id in named and mutant.dtypes]


def check_components(details: Iterable[Mapping[str, Any]]) -> None:
    """Raise ParityError if a component or a mutant does not exist."""
    for detail in details:
        named_mutants(detail)
