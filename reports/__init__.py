"""Reports: documents in, files out. No verdict is computed here."""

from __future__ import annotations

from reports.document import Document, load, save, schema, validate
from reports.errors import ReportError
from reports.write import render, write_report

__all__ = ["Document", "ReportError", "load", "render", "save", "schema", "validate", "write_report"]
