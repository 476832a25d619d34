"""Pages in GitHub-flavoured Markdown, short enough for a CI job summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports import digest
from reports.templating import environment

WORST = 20
#: GitHub cuts a job summary at 1 MiB; a row takes about 300 bytes, so this many leave ample room.
MOST_FAILING = 1500


def page(template: str, **context: object) -> str:
    """Render a template; of a long table it shows the first rows."""
    return environment().get_template(template).render(most_rows=MOST_FAILING, **context)


def findings_context(document: Mapping[str, Any]) -> dict[str, Any]:
    """What ``findings.md.j2`` shows of a document with findings."""
    findings = document["findings"]
    failing = digest.failing(findings)
    shown = failing[:MOST_FAILING]
    nearest = digest.worst_first([item for item in findings if item["status"] == "ok" and item["ratio"] is not None])
    return {
        "first": digest.first_divergence(document),
        "sentence": digest.first_sentence(document),
        "counts": digest.status_counts(findings),
        "failing": shown,
        "failing_left": len(failing) - len(shown),
        "nearest": nearest[:WORST],
        "left": len(findings) - len(shown) - len(nearest[:WORST]),
        "kinds": digest.kind_rows(findings),
        "groups": digest.groups_of(findings),
    }
