"""Write a report: every format is made in memory first, then all files appear together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports import document as documents
from reports.atomic import write_files
from reports.errors import ReportError
from reports.kinds import KINDS


def write_report(
    document: Mapping[str, Any], out_dir: Path, *, formats: Sequence[str] | None = None
) -> dict[str, Path]:
    """Validate a document and write it to a folder, in all formats of its kind or in those named.

    Returns the path of each format. The pictures that the document lists must be in the folder already. If
    anything fails, the report that was in the folder before is untouched. Raises ReportError.
    """
    documents.validate(document)
    kind = KINDS[document["kind"]]
    wanted = _chosen(formats, known=("json", *kind.formats))
    return _write(document, out_dir=Path(out_dir), pictures=Path(out_dir), stem=kind.stem(document), wanted=wanted)


def render(saved: Path, *, out_dir: Path | None = None, formats: Sequence[str] | None = None) -> dict[str, Path]:
    """Make the other formats again from a saved document, of any kind, and the pictures beside it.

    The new files are named after the saved one: ``calibration-float32.json`` gives ``calibration-float32.html``.
    Those of a ``report.json`` have the names that ``write_report`` gives them. Raises ReportError.
    """
    saved = Path(saved)
    document = documents.load(saved)
    folder = saved.parent
    wanted = _chosen(formats, known=("json", *KINDS[document["kind"]].formats), default_from=1)
    place = Path(out_dir or folder)
    names = KINDS[document["kind"]].file_names(saved.stem)
    if place.resolve() == folder.resolve() and saved.name in [names[name] for name in wanted if name != "json"]:
        raise ReportError(
            f"{saved} would be replaced by what is made from it; rename it to .json, or name another folder"
        )
    return _write(document, out_dir=place, pictures=folder, stem=saved.stem, wanted=wanted)


def _chosen(formats: Sequence[str] | None, *, known: Sequence[str], default_from: int = 0) -> list[str]:
    if formats is None:
        return list(known[default_from:])
    if not formats or isinstance(formats, str) or any(name not in known for name in formats):
        raise ReportError(f"formats is {formats!r}, expected a selection of {', '.join(known)}")
    # JSON comes first: whatever happens after that, the rest can be made again from it.
    return [name for name in known if name in formats]


def _write(
    document: Mapping[str, Any], *, out_dir: Path, pictures: Path, stem: str, wanted: Sequence[str]
) -> dict[str, Path]:
    kind = KINDS[document["kind"]]
    names = kind.file_names(stem)
    made = {
        name: documents.dumps(document) if name == "json" else kind.formats[name].make(document, pictures)
        for name in wanted
    }
    paths = {name: out_dir / names[name] for name in wanted}
    write_files({paths[name]: made[name] for name in wanted})
    return paths
