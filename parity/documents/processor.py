"""Builds the document of two processors on a user's own files: values and speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from parity.bench.processor import Throughput
from parity.documents.base import document, finding_sections, judgement_section
from parity.runs.case_run import Result


def processor_document(
    result: Result,
    throughput: Sequence[Throughput],
    *,
    files: Sequence[str],
    threads: int,
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the document. ``files`` are the titles of the processed files."""
    return document(
        "processor",
        environment,
        files=list(files),
        verdict=judgement_section(result.judgement),
        findings=finding_sections(result.findings),
        throughput=[asdict(speed) for speed in throughput],
        threads=threads,
    )
