"""Outcomes of mutants that are kept, and what they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parity.cases.case import Case
from parity.core.errors import ParityError
from parity.milestones.kept import Kept, Piece
from parity.milestones.keys import digest_json, installed
from parity.mutants.base import Mutant
from parity.mutants.matrix import OnCase
from parity.mutants.spread import from_json, to_json
from parity.runs.loader import Loader


def mutant_keys(cases: Sequence[Case], mutants: Sequence[Mutant], dtype: str) -> dict[str, dict[str, Any]]:
    """Return what the outcomes on each case belong to. Checkpoints that do not exist are made."""
    loader, installation = Loader(), installed()
    ids = [mutant.id for mutant in mutants]
    return {
        case.name: {
            "checkpoint": loader.digest(loader.checkpoint(case.checkpoint)),
            "definition": digest_json([repr(case), ids]),
            "dtype": dtype,
            **installation,
        }
        for case in cases
    }


def outcomes_of(piece: Piece) -> OnCase:
    """Return the outcomes of a piece that is used again. Raises ValueError or TypeError for what does not fit."""
    found = from_json(piece.content)
    if found.broken is not None:
        raise ParityError("the port did not pass the case, which is run again")
    return found


def keep_outcomes(kept: Kept, key: Mapping[str, Any], found: OnCase) -> None:
    """Keep the outcomes on a case."""
    kept.keep(found.case, key, to_json(found), {})
