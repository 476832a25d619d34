"""Kind ``run``: one case, every seam of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reports import consistency, html, markdown, tables
from reports.heatmap import heat_map
from reports.kinds.base import Document, Kind, standard_formats


def _contradictions(document: Document) -> Iterator[str]:
    yield from consistency.judged_findings(document)
    yield from consistency.grids(document["pictures"])
    count = len(document["case"]["rows"])
    for number, piece in enumerate(document["case"]["generated"]):
        if piece["row"] >= count:
            yield (
                f"$.case.generated[{number}].row is {piece['row']}, expected a row of $.case.rows, which has {count}"
            )


def _html(document: Document, pictures: Path) -> str:
    listed = document["pictures"]
    return html.page(
        "run.html.j2",
        doc=document,
        maps=[heat_map(picture, folder=pictures, among=len(listed)) for picture in listed],
        # Generated text stands beside its prompt.
        generated={piece["row"]: piece for piece in document["case"]["generated"]},
        **html.findings_context(document),
    )


def _markdown(document: Document) -> str:
    return markdown.page("run.md.j2", doc=document, **markdown.findings_context(document))


KIND = Kind(
    name="run",
    contradictions=_contradictions,
    formats=standard_formats(table="findings.csv", frame=tables.findings_frame, markdown=_markdown, html=_html),
    pictures=lambda document: [picture["file"] for picture in document["pictures"]],
)
