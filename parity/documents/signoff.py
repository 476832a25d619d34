"""Builds the document of a sign-off from its record: the verdicts and the worst figures, without the raw ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parity.documents.base import document
from parity.documents.margins import check_tests, seam_margins
from parity.milestones.records.record import RECORD

_MILESTONE = ("phase", "title", "was", "commit", "verdict", "label", "exit_code", "reason", "requires_less", "waivers")
_ITEM = ("id", "kind", "dtype", "verdict", "reason", "waived", "compared", "expected", "rows", "worst", "floor_runs")
_NOT_SHOWN = ("schema_version", "evidence", "seals", "environment", "milestones", "run")


def signoff_document(statement: Mapping[str, Any], pictures: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return the document of a record. ``pictures`` are the sections of heat maps that lie beside it."""
    signed = statement["predicate"]["signoff"]
    run = signed["run"]
    return document(
        "signoff",
        {**signed["environment"], "created": run["created"], "command": run["command"]},
        **{name: value for name, value in signed.items() if name not in _NOT_SHOWN},
        record=RECORD,
        milestones=[_milestone(milestone, run["items"]) for milestone in signed["milestones"]],
        seams=seam_margins(signed["evidence"]),
        tests=check_tests(signed["evidence"]),
        pictures=[dict(picture) for picture in pictures],
        run={"seconds": run["seconds"], "reused": len(run["reused"]), "stale": dict(run["stale"])},
    )


def _milestone(section: Mapping[str, Any], seconds: Mapping[str, float]) -> dict[str, Any]:
    return {
        **{name: section[name] for name in _MILESTONE},
        "items": [
            {**{name: item[name] for name in _ITEM}, "seconds": seconds.get(item["id"])} for item in section["items"]
        ],
    }
