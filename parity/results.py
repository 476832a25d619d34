"""Findings and verdicts as JSON-able dicts, as they stand in reports and in what ``--json`` prints."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.core.compare import Finding, Isolated
from parity.core.verdict import Judgement


def verdict_json(judgement: Judgement) -> dict[str, Any]:
    return {
        "value": judgement.verdict.name,
        "exit_code": judgement.verdict.exit_code,
        "reason": judgement.reason,
        "first_divergence": judgement.first_divergence,
        "seams_expected": judgement.seams_expected,
        "seams_compared": judgement.seams_compared,
        "rows_compared": judgement.rows_compared,
        "not_compared": judgement.not_compared,
    }


def finding_json(index: int, finding: Finding) -> dict[str, Any]:
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
        "figure": _finite(finding.figure),
        "gate": _finite(finding.gate),
        "ratio": _finite(finding.ratio),
        "floor": _finite(finding.floor),
        "max_abs": _finite(finding.max_abs),
        "rmse": _finite(finding.rmse),
        "cosine": _finite(finding.cosine),
        "mismatches": finding.mismatches,
        "exact_share": finding.exact_share,
        "by_kind": dict(finding.by_kind),
        "isolated": _isolated(finding.isolated),
        "reading": finding.reading,
        "note": finding.note,
    }


def _isolated(isolated: Isolated | None) -> dict[str, Any] | None:
    if isolated is None:
        return None
    return {
        "status": isolated.status,
        "figure": _finite(isolated.figure),
        "gate": _finite(isolated.gate),
        "ratio": _finite(isolated.ratio),
        "worst_row": isolated.worst_row,
    }


def _finite(value: float | None) -> float | None:
    """JSON has no NaN or Inf; the finding's status and note say what happened."""
    return None if value is None or not np.isfinite(value) else value
