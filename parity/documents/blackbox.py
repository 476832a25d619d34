"""Builds the document of an engine that gave tokens and log-probabilities. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity.bundles.bundle import Bundle
from parity.bundles.tokens.blackbox import JudgedTokens
from parity.documents.base import document, finite, verdict_section


def blackbox_document(
    bundle: Bundle, found: JudgedTokens, *, subject: str, environment: Mapping[str, Any]
) -> dict[str, Any]:
    return document(
        "blackbox",
        environment,
        bundle={"path": str(bundle.folder), "sha256": bundle.sha256},
        subject=subject,
        case=found.case,
        dtype=found.dtype,
        left_out=found.left_out,
        places=[
            {
                "row": place.place.row,
                "step": place.place.call,
                "token": place.token,
                "expected": place.expected,
                "margin": place.margin,
                "gate": place.gate,
                "figure": finite(place.figure),
                "logprobs": place.logprobs,
                "passed": place.passed,
            }
            for place in found.places
        ],
        verdict=verdict_section(found.verdict, found.reason),
    )
