"""A document as GitHub-flavoured Markdown, short enough for a CI job summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports import digest
from reports.templating import environment

WORST = 20
#: GitHub cuts a job summary at 1 MiB; a row takes some 300 bytes, so this many leave ample room.
MOST_FAILING = 1500


def markdown(document: Mapping[str, Any]) -> str:
    """Render a validated document."""
    if document["kind"] == "run":
        return _run(document)
    return environment().get_template("suite.md.j2").render(doc=document, cases=_failing_cases_first(document))


def _run(document: Mapping[str, Any]) -> str:
    findings = document["findings"]
    failing = digest.failing(findings)
    shown = failing[:MOST_FAILING]
    nearest = digest.worst_first([item for item in findings if item["status"] == "ok" and item["ratio"] is not None])
    return (
        environment()
        .get_template("run.md.j2")
        .render(
            doc=document,
            first=digest.first_divergence(document),
            sentence=digest.first_sentence(document),
            counts=digest.status_counts(findings),
            failing=shown,
            failing_left=len(failing) - len(shown),
            nearest=nearest[:WORST],
            left=len(findings) - len(shown) - len(nearest[:WORST]),
            kinds=digest.kind_rows(findings),
            groups=digest.groups_of(findings),
        )
    )


def _failing_cases_first(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(document["cases"], key=lambda case: case["verdict"] == "PARITY")
