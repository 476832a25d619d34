"""Builds the documents of a judgement: one for all traces, and one for each trace that was compared. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parity.bundles.bundle import FLOORED, Bundle, gate_section
from parity.bundles.judging import Judged, total
from parity.core.gates import DEFAULT_GATE
from parity.documents.base import document, finding_sections, judgement_section, side_section, verdict_section


def judgement_document(
    bundle: Bundle, results: Sequence[Judged], *, pinned: bool, environment: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the document. ``pinned``: the bundle's digest was given beforehand."""
    return document(
        "judgement",
        environment,
        bundle={
            "path": str(bundle.folder),
            "sha256": bundle.sha256,
            "pinned": pinned,
            "versions": dict(bundle.versions),
        },
        gate=gate_section(),
        cases=[_line(result, bundle) for result in results],
        verdict=verdict_section(*total(results)),
    )


def trace_document(result: Judged, bundle: Bundle, *, environment: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the document of one trace, of the kind ``comparison``; None if it was not compared."""
    if result.subject is None or result.reference is None:
        return None
    return document(
        "comparison",
        environment,
        subject=side_section(result.subject),
        reference=side_section(result.reference),
        floors=list(result.floor_runs),
        gate={"rule": DEFAULT_GATE.describe(), "m": DEFAULT_GATE.m, "ulps": DEFAULT_GATE.ulps},
        verdict=judgement_section(result.judgement),
        findings=finding_sections(result.findings),
    )


def report_place(result: Judged) -> str:
    """Return the folder of a trace's own report in the report folder."""
    dtype = "" if result.subject is None or result.stage not in FLOORED else f"-{result.subject.dtype}"
    return f"cases/{result.case}-{result.stage}{dtype}"


def _line(result: Judged, bundle: Bundle) -> dict[str, Any]:
    case = bundle.cases.get(result.case)
    compared = result.subject is not None and result.reference is not None
    return {
        "name": result.case,
        "title": "" if case is None else case.record["title"],
        "stage": result.stage,
        "subject": None if result.subject is None else side_section(result.subject),
        "checkpoint": {
            "subject": None if result.subject is None else result.subject.checkpoint,
            "bundle": None if case is None else case.checkpoint,
        },
        "floor_runs": list(result.floor_runs),
        "verdict": judgement_section(result.judgement),
        "findings": finding_sections(result.findings),
        "report": f"{report_place(result)}/report.html" if compared else None,
    }
