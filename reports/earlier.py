"""Which files of a folder are those of an earlier report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from reports import document as documents
from reports.errors import ReportError
from reports.kinds import KINDS

_DEPTH = 2  # a suite names runs, and those name no further reports
_PICTURE = re.compile(r"pictures/image-[0-9]+\.png")
_CASE = re.compile(r"cases/[^/\\]+/report\.html")


def earlier_files(folder: Path) -> set[Path]:
    """The files of the report in a folder, relative to it; none where there is no report of ours.

    These files may be removed, so a ``report.json`` counts only if it is a valid document and names only files that
    this package writes for its kind. Files behind a link that leads out of the folder are left out.
    """
    return {
        name
        for name in _named(folder, depth=_DEPTH)
        if (folder / name).is_file() and (folder / name).parent.resolve().is_relative_to(folder.resolve())
    }


def _named(folder: Path, *, depth: int) -> Iterator[Path]:
    try:
        document = documents.load(folder / "report.json")
    except ReportError:
        return
    kind = KINDS[document["kind"]]
    pictures, reports = kind.pictures(document), kind.reports(document)
    if not all(map(_PICTURE.fullmatch, pictures)) or not all(map(_CASE.fullmatch, reports)):
        return
    yield from (Path(name) for name in (*kind.file_names().values(), *pictures))
    for name in reports if depth > 1 else ():
        inner = Path(name).parent
        yield from (inner / path for path in _named(folder / inner, depth=depth - 1))
