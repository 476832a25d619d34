"""Parts that all report documents share. A document is a dict for JSON; see ``reports/schema`` for its fields.

This module does not need torch, so that trace folders can be compared without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.core.compare import Finding, Isolated
from parity.core.trace import Description
from parity.core.verdict import Judgement, Verdict

SCHEMA_VERSION = "2.0"


def document(kind: str, environment: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """Return a document of one kind. ``environment`` records versions, machine and command."""
    return {"schema_version": SCHEMA_VERSION, "kind": kind, "environment": dict(environment), **sections}


def verdict_section(verdict: Verdict, reason: str) -> dict[str, Any]:
    return {"value": verdict.name, "exit_code": verdict.exit_code, "reason": reason}


def judgement_section(judgement: Judgement) -> dict[str, Any]:
    return {
        **verdict_section(judgement.verdict, judgement.reason),
        "first_divergence": judgement.first_divergence,
        "seams_expected": judgement.seams_expected,
        "seams_compared": judgement.seams_compared,
        "rows_compared": judgement.rows_compared,
        "not_compared": judgement.not_compared,
    }


def side_section(description: Description) -> dict[str, str]:
    """Return the producer of a trace: name, detail, dtype."""
    return {"name": description.producer, "detail": description.detail, "dtype": description.dtype}


def finding_sections(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [_finding(index, finding) for index, finding in enumerate(findings)]


def _finding(index: int, finding: Finding) -> dict[str, Any]:
    entry = finding.entry
    return {
        "index": index,
        "seam": entry.key.name,
        "call": entry.key.call,
        "step": entry.step,
        "group": entry.group,
        "gate_kind": entry.gate,
        "shape": list(entry.shape),
        "subject_shape": None if finding.subject_shape is None else list(finding.subject_shape),
        "dtype": entry.dtype,
        "status": finding.status,
        "rows": finding.rows,
        "rows_failed": finding.rows_failed,
        "worst_row": finding.worst_row,
        "figure": finite(finding.figure),
        "gate": finite(finding.gate),
        "ratio": finite(finding.ratio),
        "floor": finite(finding.floor),
        "max_abs": finite(finding.max_abs),
        "rmse": finite(finding.rmse),
        "cosine": finite(finding.cosine),
        "mismatches": finding.mismatches,
        "exact_share": finding.exact_share,
        "by_kind": dict(finding.by_kind),
        "isolated": _isolated(finding.isolated),
        "origin": finding.origin,
        "side": finding.side,
        "note": finding.note,
    }


def _isolated(isolated: Isolated | None) -> dict[str, Any] | None:
    if isolated is None:
        return None
    return {
        "status": isolated.status,
        "figure": finite(isolated.figure),
        "gate": finite(isolated.gate),
        "ratio": finite(isolated.ratio),
        "worst_row": isolated.worst_row,
    }


def finite(value: float | None) -> float | None:
    """Return None for NaN and Inf, which JSON does not have. A finding's status and note describe them."""
    return None if value is None or not np.isfinite(value) else value
