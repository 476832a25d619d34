"""What fails in a sign-off or a suite as annotations of GitHub Actions, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reports.formatting import visible

#: GitHub shows ten of each level for a step; what is left out is counted.
MOST = 10
_LEVELS = {"DIVERGED": "error", "INVALID": "error", "INCOMPLETE": "error"}


def annotation_lines(document: Mapping[str, Any]) -> list[str]:
    """Return the lines of a document of the kind ``signoff`` or ``suite``. Waived failures are warnings."""
    found = list(_of_signoff(document) if document["kind"] == "signoff" else _of_suite(document))
    shown = found[:MOST]
    if len(found) > MOST:
        shown[-1] = _line("error", "parity", f"{len(found) - MOST + 1} more fail; see the report")
    return [*shown, _line(*_total(document))]


def _of_signoff(document: Mapping[str, Any]) -> Iterator[str]:
    for milestone in document["milestones"]:
        failing = [item for item in milestone["items"] if item["verdict"] != "PARITY"]
        for item in failing:
            level = "warning" if item["waived"] else _LEVELS[item["verdict"]]
            title = f"phase {milestone['phase']}: {item['id']} {'waived' if item['waived'] else item['verdict']}"
            yield _line(level, title, item["reason"])
        if milestone["exit_code"] and not failing:
            yield _line("error", f"phase {milestone['phase']}: {milestone['label']}", milestone["reason"])


def _of_suite(document: Mapping[str, Any]) -> Iterator[str]:
    for case in document["cases"]:
        if case["verdict"] != "PARITY":
            yield _line(_LEVELS[case["verdict"]], f"{case['name']}: {case['verdict']}", case["reason"])


def _total(document: Mapping[str, Any]) -> tuple[str, str, str]:
    verdict = document["verdict"]
    label = verdict.get("label", verdict["value"])
    return "notice" if verdict["exit_code"] == 0 else "error", f"parity: {label}", verdict["reason"]


def _line(level: str, title: str, message: str) -> str:
    """A workflow command. Characters that end one of its parts are escaped."""
    return f"::{level} title={_escaped(title).replace(':', '%3A').replace(',', '%2C')}::{_escaped(message)}"


def _escaped(text: str) -> str:
    return visible(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
