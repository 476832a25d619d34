"""Kind ``suite``: many cases, one line each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reports import consistency, html, markdown, plots, tables
from reports.kinds.base import Document, Kind, standard_formats


def _contradictions(document: Document) -> Iterator[str]:
    yield from consistency.verdict(document)
    known: list[int] = []
    for number, phase in enumerate(document["phases"]):
        if phase["phase"] in known:
            yield f"$.phases[{number}].phase is {phase['phase']} a second time, expected each phase once"
        known.append(phase["phase"])
    for number, case in enumerate(document["cases"]):
        yield from consistency.exit_code(case, value=case["verdict"], path=f"$.cases[{number}]")
        if case["phase"] not in known:
            yield f"$.cases[{number}].phase is {case['phase']}, expected one of $.phases: {known}"
        if document["verdict"]["value"] == "PARITY" and case["verdict"] != "PARITY":
            yield (
                f"$.cases[{number}].verdict is {case['verdict']} ({case['name']}) under the suite's verdict PARITY, "
                "expected PARITY, or another verdict of the suite"
            )


def _html(document: Document, _pictures: Path) -> str:
    return html.page(
        "suite.html.j2",
        doc=document,
        plot=html.inline(plots.case_plot(document)),
        phase_titles={phase["phase"]: phase["title"] for phase in document["phases"]},
    )


def _markdown(document: Document) -> str:
    failing_first = sorted(document["cases"], key=lambda case: case["verdict"] == "PARITY")
    return markdown.page("suite.md.j2", doc=document, cases=failing_first)


KIND = Kind(
    name="suite",
    contradictions=_contradictions,
    formats=standard_formats(table="cases.csv", frame=tables.cases_frame, markdown=_markdown, html=_html),
    reports=lambda document: [case["report"] for case in document["cases"] if case["report"]],
)
