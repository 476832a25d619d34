"""What a kind of report document is: its name, its own checks, and the files that are made from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reports.tables import csv_text

Document = Mapping[str, Any]

#: The name of the files of a report folder, without their ending.
REPORT = "report"


@dataclass(frozen=True)
class Format:
    """One file of a report.

    ``make`` gets the validated document and the folder that its pictures lie in.
    """

    file: str
    make: Callable[[Document, Path], bytes]


@dataclass(frozen=True)
class Kind:
    """One kind of document; its JSON Schema is ``schema/<name>.schema.json``.

    ``contradictions`` says what is wrong with a document that fits the schema. ``formats`` are the files made from a
    document beside its JSON, by file ending. ``stem`` names the JSON file. ``pictures`` and ``reports`` are the paths
    of the pictures and of the further reports that a document names.
    """

    name: str
    contradictions: Callable[[Document], Iterator[str]]
    formats: Mapping[str, Format]
    stem: Callable[[Document], str] = lambda _: REPORT
    pictures: Callable[[Document], list[str]] = lambda _: []
    reports: Callable[[Document], list[str]] = lambda _: []

    def file_names(self, stem: str = REPORT) -> dict[str, str]:
        """The file name of each format, JSON first; they follow the stem where it is not ``report``."""
        made = {ending: found.file if stem == REPORT else f"{stem}.{ending}" for ending, found in self.formats.items()}
        return {"json": f"{stem}.json", **made}


def standard_formats(
    *,
    table: str,
    frame: Callable[[Document], pd.DataFrame],
    markdown: Callable[[Document], str],
    html: Callable[[Document, Path], str],
) -> dict[str, Format]:
    """The CSV, Markdown and HTML files that every kind has; ``table`` names the CSV file."""
    return {
        "csv": Format(table, lambda document, _: csv_text(frame(document)).encode("utf-8")),
        "md": Format("report.md", lambda document, _: markdown(document).encode("utf-8")),
        "html": Format("report.html", lambda document, folder: html(document, folder).encode("utf-8")),
    }
