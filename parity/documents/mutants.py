"""Builds the document of a kill matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parity.cases.case import Case
from parity.core.gates import DEFAULT_GATE
from parity.documents.base import document, finite
from parity.mutants.matrix import Matrix, MutantResult, smallest_cover
from parity.mutants.not_planted import NOT_PLANTED
from parity.mutants.outcomes import Outcome


def matrix_document(
    matrix: Matrix, cases: Sequence[Case], *, environment: Mapping[str, Any], seconds: float, reused: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the document. ``cases`` are the cases on which the mutants ran, ``reused`` those of an earlier run."""
    cover = smallest_cover(matrix)
    return document(
        "mutants",
        environment,
        dtype=matrix.dtype,
        gate={"rule": DEFAULT_GATE.describe(), "m": DEFAULT_GATE.m, "ulps": DEFAULT_GATE.ulps},
        totals={
            "mutants": len(matrix.results),
            "real": sum(result.mutant.real for result in matrix.results),
            "caught": len(matrix.of("caught")),
            "survived": len(matrix.of("survived")),
            "invisible": len(matrix.of("invisible")),
            "not_exposed": len(matrix.of("not exposed")),
            "kill_rate": matrix.kill_rate,
            "localised": sum(result.localised for result in matrix.of("caught")),
            "localisation_rate": matrix.localisation_rate,
            "proven": matrix.proven,
            "seconds": seconds,
        },
        cover={"cases": cover, "forwards": sum(matrix.forwards[name] for name in cover)},
        cases=[
            {"name": case.name, "title": case.title, "forwards": matrix.forwards[case.name]}
            for case in cases
            if case.name not in matrix.broken
        ],
        broken=matrix.broken,
        mutants=[_line(result) for result in matrix.results],
        not_planted=NOT_PLANTED,
        reused=list(reused),
    )


def _line(result: MutantResult) -> dict[str, Any]:
    mutant, first = result.mutant, result.first
    return {
        "id": mutant.id,
        "title": mutant.title,
        "component": mutant.component,
        "stage": mutant.stage,
        "source": mutant.source,
        "real": mutant.real,
        "seam": mutant.seam,
        "step": mutant.step,
        "dtypes": list(mutant.dtypes),
        "invisible": mutant.invisible,
        "fate": result.fate,
        "localised": result.localised,
        "first_seam": first.seam if first else None,
        "first_step": first.step if first else None,
        "caught_by": [outcome.case for outcome in result.caught_by],
        "missed_by": [outcome.case for outcome in result.missed_by],
        "outcomes": {outcome.case: _outcome(outcome) for outcome in result.outcomes},
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "state": outcome.state,
        "expected": outcome.expected,
        "seam": outcome.seam,
        "step": outcome.step,
        "worst": outcome.worst,
        "floors": finite(outcome.floors),
        "identical": outcome.identical,
        "error": outcome.error,
    }
