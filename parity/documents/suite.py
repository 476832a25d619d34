"""Builds the document of a suite, with a line for each case and each phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parity.cases.case import Case
from parity.core.verdict import Verdict, combine
from parity.documents.base import document, finding_sections, judgement_section, verdict_section
from parity.milestones.suite import CaseSummary, phase_verdicts, suite_verdict


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
    reused: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the document of case lines.

    ``every`` lists the cases of the whole suite, ``selected`` those of all shards.
    ``shards`` names the missing shards of a merged suite, ``reused`` the cases that an earlier run had finished.
    """
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
        reused=list(reused),
        verdict=verdict_section(verdict, reason),
    )


def summary_line(summary: CaseSummary) -> dict[str, Any]:
    """Return the line of a case that ran, or could not be run, in this process."""
    sections = judgement_section(summary.judgement), finding_sections(summary.findings)
    return case_line(summary.case, *sections, seconds=summary.seconds, report=summary.report)


def case_line(
    case: Case, judged: Mapping[str, Any], findings: Sequence[Mapping[str, Any]], *, seconds: float, report: str | None
) -> dict[str, Any]:
    """Return the line of a case from the sections ``verdict`` and ``findings`` of its report."""
    first = judged["first_divergence"]
    return {
        "name": case.name,
        "title": case.title,
        "phase": case.phase,
        "verdict": judged["value"],
        "exit_code": judged["exit_code"],
        "reason": judged["reason"],
        "seams_compared": judged["seams_compared"],
        "seams_expected": judged["seams_expected"],
        "rows_compared": judged["rows_compared"],
        "not_compared": judged["not_compared"],
        "worst": _worst(findings),
        "first_divergence": None if first is None else {name: findings[first][name] for name in ("seam", "step")},
        "seconds": seconds,
        "report": report,
    }


def _worst(findings: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    judged = [finding for finding in findings if finding["ratio"] is not None]
    if not judged:
        return None
    worst = max(judged, key=lambda finding: finding["ratio"] or 0.0)
    named = ("seam", "step", "ratio", "figure", "gate")
    return {**{name: worst[name] for name in named}, "row": worst["worst_row"]}
