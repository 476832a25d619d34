"""Write a report: every format is made in memory first, then all files appear together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports import document as documents
from reports import tables
from reports.atomic import write_files
from reports.errors import ReportError
from reports.html import html
from reports.markdown import markdown

FORMATS = ("json", "csv", "md", "html")


def write_report(document: Mapping[str, Any], out_dir: Path, *, formats: Sequence[str] = FORMATS) -> dict[str, Path]:
    """Validate a document and write it to a folder; returns the path of each format.

    The pictures that the document lists must lie in the folder already. If anything fails, the report
    that the folder held before is untouched.
    """
    documents.validate(document)
    return _write(document, out_dir=Path(out_dir), pictures=Path(out_dir), formats=formats)


def render(
    report_json: Path, *, out_dir: Path | None = None, formats: Sequence[str] = ("csv", "md", "html")
) -> dict[str, Path]:
    """Make the other formats again from a saved report.json and the pictures beside it."""
    report_json = Path(report_json)
    document = documents.load(report_json)
    folder = report_json.parent
    return _write(document, out_dir=Path(out_dir or folder), pictures=folder, formats=formats)


def file_names(kind: str) -> dict[str, str]:
    """The name of each format's file."""
    table = "findings.csv" if kind == "run" else "cases.csv"
    return {"json": "report.json", "csv": table, "md": "report.md", "html": "report.html"}


def _write(document: Mapping[str, Any], *, out_dir: Path, pictures: Path, formats: Sequence[str]) -> dict[str, Path]:
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats or isinstance(formats, str):
        raise ReportError(f"formats is {formats!r}, expected a selection of {', '.join(FORMATS)}")
    names = file_names(document["kind"])
    # report.json is replaced first: whatever happens after that, the rest can be made again from it.
    wanted = [name for name in FORMATS if name in formats]
    made = {name: _make(document, name=name, pictures=pictures) for name in wanted}
    paths = {name: out_dir / names[name] for name in wanted}
    write_files({paths[name]: made[name] for name in wanted})
    return paths


def _make(document: Mapping[str, Any], *, name: str, pictures: Path) -> bytes:
    if name == "json":
        return documents.dumps(document)
    if name == "csv":
        frame = tables.findings_frame(document) if document["kind"] == "run" else tables.cases_frame(document)
        return tables.csv_text(frame).encode("utf-8")
    if name == "md":
        return markdown(document).encode("utf-8")
    return html(document, pictures=pictures).encode("utf-8")
