"""Results as report documents: JSON-able dicts that ``reports`` turns into files. Schema: ``reports/schema``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from parity.core.compare import Finding, Logits
from parity.core.gates import ISOLATED_GATE
from parity.core.verdict import Judgement, Verdict
from parity.qwen3vl.heatmaps import HeatMap
from parity.qwen3vl.run import RunResult
from parity.results import finding_json, verdict_json

SCHEMA_VERSION = "1.0"


@dataclass(frozen=True)
class Side:
    """Subject or reference: an engine, its version and variant, its dtype."""

    name: str
    detail: str
    dtype: str

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "detail": self.detail, "dtype": self.dtype}


def run_document(
    result: RunResult,
    *,
    environment: Mapping[str, Any],
    subject: Side,
    reference: Side,
    checkpoint: Mapping[str, Any],
    case: Mapping[str, Any],
    floor_runs: Sequence[str],
    maps: Sequence[HeatMap],
    performance: Mapping[str, Any] | None,
    blind_to: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """The document of one run; the pictures of ``maps`` lie where ``picture_file`` says."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "run",
        "environment": dict(environment),
        "subject": subject.to_json(),
        "reference": reference.to_json(),
        "checkpoint": dict(checkpoint),
        "case": dict(case),
        "gate": {
            "rule": f"{result.gate.describe()}; each part alone: {ISOLATED_GATE.m:g} x its own floor",
            "m": result.gate.m,
            "ulp_floor": result.gate.ulp_floor(subject.dtype),
            "floor_runs": list(floor_runs),
        },
        "verdict": verdict_json(result.judgement),
        "findings": [finding_json(index, finding) for index, finding in enumerate(result.findings)],
        "logits": _logits([f.logits for f in result.findings if f.logits is not None]),
        "pictures": [_picture(index, heat_map) for index, heat_map in enumerate(maps)],
        "blind_to": [dict(item) for item in blind_to],
        "performance": None if performance is None else dict(performance),
    }


def picture_file(index: int) -> str:
    """Where picture ``index`` lies in a report folder."""
    return f"pictures/image-{index}.png"


def _picture(index: int, heat_map: HeatMap) -> dict[str, Any]:
    return {
        "title": heat_map.title,
        "kind": "image",
        "file": picture_file(index),
        "grid": list(heat_map.errors.shape),
        "seam": heat_map.seam,
        "errors": heat_map.errors.tolist(),
        "gate": heat_map.gate,
    }


def _logits(parts: Sequence[Logits]) -> dict[str, Any] | None:
    if not parts:
        return None
    worst = max(parts, key=lambda part: part.kl_max)
    return {
        "kl_max": worst.kl_max,
        "kl_row": worst.kl_row,
        "top1_agree": sum(part.top1_agree for part in parts),
        "top1_total": sum(part.top1_total for part in parts),
    }


def generated_json(tokens: Tensor, texts: Sequence[str]) -> list[dict[str, Any]]:
    """What the reference generated greedily, and both sides were fed."""
    return [
        {"row": row, "token_ids": ids, "text": text}
        for row, (ids, text) in enumerate(zip(tokens.tolist(), texts, strict=True))
    ]


@dataclass(frozen=True)
class CaseSummary:
    """One line of a suite."""

    name: str
    title: str
    phase: int
    judgement: Judgement
    findings: Sequence[Finding]
    forwards: int
    seconds: float
    report: str | None

    def to_json(self) -> dict[str, Any]:
        judgement = self.judgement
        return {
            "name": self.name,
            "title": self.title,
            "phase": self.phase,
            "verdict": judgement.verdict.name,
            "exit_code": judgement.verdict.exit_code,
            "reason": judgement.reason,
            "seams_compared": judgement.seams_compared,
            "seams_expected": judgement.seams_expected,
            "rows_compared": judgement.rows_compared,
            "not_compared": judgement.not_compared,
            "worst": self._worst(),
            "first_divergence": self._first(),
            "seconds": self.seconds,
            "report": self.report,
        }

    def _worst(self) -> dict[str, Any] | None:
        judged = [finding for finding in self.findings if finding.ratio is not None and np.isfinite(finding.ratio)]
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

    def _first(self) -> dict[str, str] | None:
        at = self.judgement.first_divergence
        if at is None:
            return None
        entry = self.findings[at].entry
        return {"seam": entry.key.name, "step": entry.step}


def suite_document(
    summaries: Sequence[CaseSummary],
    phases: Sequence[Mapping[str, Any]],
    *,
    environment: Mapping[str, Any],
    verdict: Verdict,
    reason: str,
    seconds: float,
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "suite",
        "environment": dict(environment),
        "phases": list(phases),
        "cases": [summary.to_json() for summary in summaries],
        "totals": {
            "cases": len(summaries),
            "ran": sum(summary.judgement.seams_compared > 0 for summary in summaries),
            "seams_compared": sum(summary.judgement.seams_compared for summary in summaries),
            "rows_compared": sum(summary.judgement.rows_compared for summary in summaries),
            "not_compared": sum(summary.judgement.not_compared for summary in summaries),
            "forwards": sum(summary.forwards for summary in summaries),
            "seconds": seconds,
        },
        "verdict": {"value": verdict.name, "exit_code": verdict.exit_code, "reason": reason},
    }
