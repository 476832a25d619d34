"""The words that a schema allows are those that the code uses, and each known mistake has a valid line."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from parity.cases.case import StageName
from parity.cases.standard import standard_suite
from parity.core.compare import Side, Status
from parity.core.trace import GateKind
from parity.core.verdict import Verdict
from parity.documents.mutants import matrix_document
from parity.mutants.matrix import Fate, Matrix, MutantResult, fate
from parity.mutants.outcomes import Outcome, State
from parity.mutants.registry import ALL as MUTANTS
from parity.seams import calls, generation, model, processor, refusals, weights
from parity.seams.spec import SeamSpec
from reports import document
from tests.reports.report_samples import environment


def _enum(kind: str, *path: str) -> set[Any]:
    found = document.schema(kind)
    for name in path:
        found = found[name]
    return set(found["enum"])


MUTANT = ("properties", "mutants", "items", "properties")
OUTCOME = (*MUTANT, "outcomes", "additionalProperties", "properties")
CASE = ("properties", "cases", "items", "properties")
FINDING = ("properties", "findings", "items", "properties")


@pytest.mark.parametrize(
    ("words", "kind", "path"),
    [
        (get_args(StageName), "mutants", (*MUTANT, "stage")),
        (get_args(StageName), "judgement", (*CASE, "stage")),
        (get_args(StageName), "diagnosis", ("properties", "traces", "items", "properties", "stage")),
        (get_args(Fate), "mutants", (*MUTANT, "fate")),
        (get_args(State), "mutants", (*OUTCOME, "state")),
        (get_args(Status), "run", (*FINDING, "status")),
        (get_args(GateKind), "run", (*FINDING, "gate_kind")),
        ((None, *get_args(Side)), "run", (*FINDING, "side")),
        ([verdict.name for verdict in Verdict], "run", ("properties", "verdict", "properties", "value")),
    ],
)
def test_a_schema_allows_the_words_of_the_code(words: tuple[str, ...], kind: str, path: tuple[str, ...]) -> None:
    assert set(words) == _enum(kind, *path)


def test_a_schema_allows_the_group_of_every_seam() -> None:
    named = {
        found.group
        for module in (calls, generation, model, processor, refusals, weights)
        for value in vars(module).values()
        for found in (value if isinstance(value, tuple | list) else [value])
        if isinstance(found, SeamSpec)
    }
    assert len(named) > 5
    assert named <= _enum("run", *FINDING, "group")


def test_every_known_mistake_has_a_valid_line() -> None:
    case = standard_suite()[0]
    results = []
    for at, mutant in enumerate(MUTANTS):
        state = get_args(State)[at % len(get_args(State))]
        found = Outcome(mutant.id, case.name, state, expected=at % 2 == 0, seam="logits", step="prefill", worst=0.5)
        results.append(MutantResult(mutant, fate(mutant, [found], "float32"), (found,)))
    assert {mutant.stage for mutant in MUTANTS} == set(get_args(StageName))
    matrix = Matrix("float32", {case.name: 1}, tuple(results))
    made = matrix_document(matrix, [case], environment=environment(), seconds=1.0)
    # Totals are right because a document that contradicts itself is refused too.
    document.validate(made)
