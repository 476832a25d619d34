"""Builds the document of a comparison of two trace folders. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parity.core.compare import Finding
from parity.core.gates import FloatGate
from parity.core.trace import Trace
from parity.core.verdict import Judgement
from parity.documents.base import document, finding_sections, judgement_section, side_section


def comparison_document(
    findings: Sequence[Finding],
    judgement: Judgement,
    *,
    subject: Trace,
    reference: Trace,
    floors: Sequence[str],
    gate: FloatGate,
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """``floors`` names the correct runs that made the floors."""
    return document(
        "comparison",
        environment,
        subject=side_section(subject.description),
        reference=side_section(reference.description),
        floors=list(floors),
        gate={"rule": gate.describe(), "m": gate.m, "ulps": gate.ulps},
        verdict=judgement_section(judgement),
        findings=finding_sections(findings),
    )
