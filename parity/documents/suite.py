"""Builds the document of a suite, with a line for each case and each phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from parity.cases.case import Case
from parity.core.compare import Finding
from parity.core.verdict import Verdict, combine
from parity.documents.base import document, verdict_section
from parity.milestones.shards import Shard
from parity.milestones.suite import CaseSummary, MadeWith, phase_verdicts, suite_verdict


def suite_document(
    summaries: Sequence[CaseSummary],
    every: Sequence[Case],
    *,
    environment: Mapping[str, Any],
    seconds: float,
    made_with: MadeWith,
    selected: Sequence[str],
    shard: Shard | None = None,
) -> dict[str, Any]:
    """Return the document. ``every`` lists the cases of the whole suite, ``selected`` those of all shards."""
    lines = [_line(summary) for summary in summaries]
    forwards = sum(summary.forwards for summary in summaries)
    return whole_document(
        lines,
        summaries,
        every,
        environment=environment,
        totals={"forwards": forwards, "seconds": seconds},
        made_with=asdict(made_with),
        selected=selected,
        shard=None if shard is None else asdict(shard),
    )


def whole_document(
    lines: Sequence[Mapping[str, Any]],
    summaries: Sequence[CaseSummary],
    every: Sequence[Case],
    *,
    environment: Mapping[str, Any],
    totals: Mapping[str, Any],
    made_with: Mapping[str, Any],
    selected: Sequence[str],
    shard: Mapping[str, Any] | None,
    shards: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the document of case lines. ``shards`` names the missing shards of a merged suite."""
    judged = [summary.judgement for summary in summaries]
    verdict, reason = suite_verdict(summaries, every)
    absent = [name for name in selected if name not in {summary.case.name for summary in summaries}]
    if absent and shard is None:
        verdict = combine([verdict, Verdict.INCOMPLETE])
        reason = f"{len(absent)} of {len(selected)} cases were not run: {', '.join(absent)}" + (
            f" (missing: {', '.join(shards)})" if shards else ""
        )
        reason = f"{reason}; {suite_verdict(summaries, every)[1]}"
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
        cases=[dict(line) for line in lines],
        totals={
            "cases": len(summaries),
            "ran": sum(summary.ran for summary in summaries),
            "seams_compared": sum(judgement.seams_compared for judgement in judged),
            "rows_compared": sum(judgement.rows_compared for judgement in judged),
            "not_compared": sum(judgement.not_compared for judgement in judged),
            **totals,
        },
        made_with=dict(made_with),
        selected=list(selected),
        shard=shard,
        verdict=verdict_section(verdict, reason),
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
