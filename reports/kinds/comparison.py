"""Kind ``comparison``: two trace folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports import consistency, tables
from reports import formatting as fmt
from reports.kinds.base import Document, Kind
from reports.page import Page, simple_formats


def page(document: Document) -> Page:
    """The two sides and the gate; the findings follow in the template."""
    gate = document["gate"]
    return Page(
        eyebrow="Comparison of two traces",
        title=f"{document['subject']['name']} against {document['reference']['name']}",
        sentence="The verdict is only as good as the floors. `parity judge` takes them from a golden bundle.",
        facts=[
            ("subject", _side(document["subject"])),
            ("reference", _side(document["reference"])),
            ("gate", f"{gate['rule']}; m {fmt.number(gate['m'])}, ulps {fmt.number(gate['ulps'])}"),
            ("floors from", ", ".join(document["floors"]) or "no run"),
        ],
    )


def _side(side: Mapping[str, Any]) -> str:
    return ", ".join(part for part in (side["name"], side["detail"], side["dtype"]) if part)


KIND = Kind(
    name="comparison",
    contradictions=consistency.judged_findings,
    formats=simple_formats(table="findings.csv", frame=tables.findings_frame, page=page),
)
