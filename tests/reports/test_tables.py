"""CSV tables have the same numbers as the document, to the last digit."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
import pytest

from reports import tables
from tests.reports.report_samples import run_document

Document = dict[str, Any]
_INTEGERS = ("index", "call", "rows", "rows_failed", "mismatches")
_NUMBERS = ("figure", "gate", "ratio", "floor", "max_abs", "rmse", "cosine", "exact_share")


def _read(text: str) -> list[dict[str, str]]:
    # Everything as text: "None" or "NA" in a note must stay what they are.
    frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    return [{str(name): str(value) for name, value in row.items()} for row in frame.to_dict(orient="records")]


def _back(row: dict[str, str], *, like: Document) -> Document:
    def shape(text: str) -> list[int] | None:
        return None if not text else [] if text == "scalar" else [int(part) for part in text.split("x")]

    found: Document = {}
    for field, value in like.items():
        text = row.get(field, "")
        if field == "by_kind":
            found[field] = {kind: float(row[f"by_kind_{kind}"]) for kind in value}
        elif field == "isolated":
            found[field] = value and _isolated_back(row, like=value)
        elif field in ("shape", "subject_shape"):
            found[field] = shape(text)
        elif text == "" and value is None:
            found[field] = None
        else:
            found[field] = int(text) if field in _INTEGERS else float(text) if field in _NUMBERS else text
    return found


def _isolated_back(row: dict[str, str], *, like: Document) -> Document:
    """Read the isolated figures back. Status and worst row of the isolated comparison are only in the JSON."""
    figures = {field: float(row[f"isolated_{field}"]) for field in ("figure", "gate", "ratio")}
    return {**like, **figures}


@pytest.mark.parametrize("wrong", [False, True])
def test_findings_come_back_from_csv_unchanged(wrong: bool) -> None:
    sample = run_document(diverged=wrong)
    sample["findings"][5]["note"] = 'a "quoted", note\nover two lines; NA'
    sample["findings"][6]["shape"] = []
    sample["findings"][9]["by_kind"]["special"] = 0.1 + 0.2
    rows = _read(tables.csv_text(tables.findings_frame(sample)))
    assert [_back(row, like=finding) for row, finding in zip(rows, sample["findings"], strict=True)] == sample[
        "findings"
    ]


def test_every_usual_kind_has_a_column_and_counts_stay_whole(diverged: Document) -> None:
    frame = tables.findings_frame(diverged)
    assert [name for name in map(str, frame) if name.startswith("by_kind")] == [
        "by_kind_text",
        "by_kind_image",
        "by_kind_video",
        "by_kind_boundary",
    ]
    text = tables.csv_text(frame)
    missing = next(row for row in _read(text) if row["status"] == "missing")
    assert missing["rows_failed"] == missing["subject_shape"] == missing["figure"] == ""
    assert "812.0" not in text
    assert _read(text)[0]["rows"] == "430"


def test_a_document_without_findings_gives_a_header() -> None:
    sample = run_document() | {"findings": []}
    assert tables.csv_text(tables.findings_frame(sample)).startswith("index,seam,call")


def test_cases_are_flattened(suite: Document) -> None:
    suite["cases"][0]["worst"] = None
    rows = _read(tables.csv_text(tables.cases_frame(suite)))
    assert [row["name"] for row in rows] == [case["name"] for case in suite["cases"]]
    assert rows[0]["worst_ratio"] == rows[0]["worst_seam"] == ""
    bad = next(row for row in rows if row["verdict"] == "DIVERGED")
    case = next(case for case in suite["cases"] if case["name"] == bad["name"])
    assert float(bad["worst_ratio"]) == case["worst"]["ratio"]
    assert bad["first_divergence_seam"] == "text.layers.1.deepstack"
