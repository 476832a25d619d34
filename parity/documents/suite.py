"""Builds the document of a suite, with a line for each case and each phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.cases.case import Case
from parity.core.compare import Finding
from parity.documents.base import document, verdict_section
from parity.milestones.suite import CaseSummary, phase_verdicts, suite_verdict


def suite_document(
    summaries: Sequence[CaseSummary], every: Sequence[Case], *, environment: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """Return the document. ``every`` lists the cases of the whole suite."""
    return document(
        "suite",
        environment,
        phases=[
            {
                "phase": line.phase,
                "title": line.title,
                "verdict": line.verdict.name,
                "cases": line.cases,
                "ran": line.ran,
                "reason": line.reason,
            }
            for line in phase_verdicts(summaries, every)
        ],
        cases=[_line(summary) for summary in summaries],
        totals={
            "cases": len(summaries),
            "ran": sum(summary.ran for summary in summaries),
            "seams_compared": sum(summary.judgement.seams_compared for summary in summaries),
            "rows_compared": sum(summary.judgement.rows_compared for summary in summaries),
            "not_compared": sum(summary.judgement.not_compared for summary in summaries),
            "forwards": sum(summary.forwards for summary in summaries),
            "seconds": seconds,
        },
        verdict=verdict_section(*suite_verdict(summaries, every)),
    )


def _line(summary: CaseSummary) -> dict[str, Any]:
    case, judgement = summary.case, summary.judgement
    return {
        "name": case.name,
        "title": case.title,
        "phase": case.phase,
        "verdict": judgement.verdict.name,
        "exit_code": judgement.verdict.exit_code,
        "reason": judgement.reason,
        "seams_compared": judgement.seams_compared,
        "seams_expected": judgement.seams_expected,
        "rows_compared": judgement.rows_compared,
        "not_compared": judgement.not_compared,
        "worst": _worst(summary.findings),
        "first_divergence": _first(summary),
        "seconds": summary.seconds,
        "report": summary.report,
    }


def _worst(findings: Sequence[Finding]) -> dict[str, Any] | None:
    judged = [finding for finding in findings if finding.ratio is not None and np.isfinite(finding.ratio)]
    if not judged:
        return None
    worst = max(judged, key=lambda finding: finding.ratio or 0.0)
    return {
        "seam": worst.entry.key.name,
        "step": worst.entry.step,
        "ratio": worst.ratio,
        "figure": worst.figure,
        "gate": worst.gate,
        "row": worst.worst_row,
    }


def _first(summary: CaseSummary) -> dict[str, str] | None:
    at = summary.judgement.first_divergence
    if at is None:
        return None
    entry = summary.findings[at].entry
    return {"seam": entry.key.name, "step": entry.step}
