"""Findings and cases as pandas tables and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reports.digest import TOKEN_KINDS, kinds_of
from reports.formatting import visible

_FINDING = (
    *("index", "seam", "call", "step", "group", "gate_kind", "shape", "subject_shape", "dtype", "status", "side"),
    *("rows", "rows_failed", "worst_row", "figure", "gate", "ratio", "floor", "max_abs", "rmse", "cosine"),
    *("mismatches", "exact_share"),
)
_CASE = (
    *("name", "title", "phase", "verdict", "exit_code", "reason", "seams_compared", "seams_expected"),
    *("rows_compared", "not_compared", "seconds", "report"),
)
_NESTED = {"worst": ("seam", "step", "ratio", "figure", "gate", "row"), "first_divergence": ("seam", "step")}
_COUNTS = ("rows", "rows_failed", "mismatches")
_FLOATS = ("figure", "gate", "ratio", "floor", "max_abs", "rmse", "cosine", "exact_share")


def findings_frame(document: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each finding, in order; ``by_kind`` and ``isolated`` become columns of their own.

    The usual kinds always have a column, so that tables of different cases can be stacked.
    """
    findings = document["findings"]
    extra = [kind for kind in kinds_of(findings) if kind not in TOKEN_KINDS]
    columns: dict[str, pd.Series[Any]] = {}
    for field in _FINDING:
        values = [finding[field] for finding in findings]
        if field in ("shape", "subject_shape"):
            values = [shape_text(value) for value in values]
        columns[field] = _column(values, field=field)
    for kind in (*TOKEN_KINDS, *extra):
        columns[f"by_kind_{kind}"] = pd.Series([finding["by_kind"].get(kind) for finding in findings], dtype="float64")
    for field in ("figure", "gate", "ratio"):
        alone = [(finding["isolated"] or {}).get(field) for finding in findings]
        columns[f"isolated_{field}"] = pd.Series(alone, dtype="float64")
    columns["origin"] = _column([finding["origin"] for finding in findings], field="origin")
    columns["note"] = _column([finding["note"] for finding in findings], field="note")
    return pd.DataFrame(columns)


def cases_frame(document: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each case of a suite; the worst seam and the first divergence are flattened."""
    rows = []
    for case in document["cases"]:
        row = {field: case[field] for field in _CASE}
        for holder, fields in _NESTED.items():
            for field in fields:
                row[f"{holder}_{field}"] = (case[holder] or {}).get(field)
        rows.append(row)
    flattened = [f"{holder}_{field}" for holder, fields in _NESTED.items() for field in fields]
    return pd.DataFrame(rows, columns=pd.Index([*_CASE, *flattened]))


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as CSV: empty where nothing was measured, floats so that they read back the same.

    Control characters are replaced, so that showing the file cannot control a terminal.
    """
    return visible(str(frame.to_csv(index=False, lineterminator="\n")))


def shape_text(value: Sequence[int] | None) -> str | None:
    """A shape as 1x215x64; ``scalar`` for no axes, None where there is no shape."""
    if value is None:
        return None
    return "x".join(map(str, value)) or "scalar"


def _column(values: list[Any], *, field: str) -> pd.Series[Any]:
    if field in _COUNTS:
        # The nullable integer type: an ordinary column would turn 812 beside a null into 812.0.
        return pd.Series(values, dtype="Int64")
    if field in _FLOATS:
        return pd.Series(values, dtype="float64")
    return pd.Series(values, dtype="int64" if field in ("index", "call") else "object")
