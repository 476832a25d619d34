"""Kind ``run``: one case, every seam of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from reports import consistency, html, markdown, tables
from reports.heatmap import heat_map
from reports.kinds.base import Document, Format, Kind, standard_formats


def _contradictions(document: Document) -> Iterator[str]:
    yield from consistency.judged_findings(document)
    cost = document["cost"]
    if cost is not None and cost["forwards"] is not None:
        yield from consistency.equal(
            cost["forwards"]["passes"], len(cost["passes"]), path="$.cost.forwards.passes", why="the listed passes"
        )
    yield from consistency.grids(document["pictures"])
    count = len(document["case"]["rows"])
    for number, piece in enumerate(document["case"]["generated"]):
        if piece["row"] >= count:
            yield (
                f"$.case.generated[{number}].row is {piece['row']}, expected a row of $.case.rows, which has {count}"
            )


def passes_frame(document: Document) -> pd.DataFrame:
    """One row for each pass of the model, with its seconds, and one for the time to the verdict."""
    cost = document["cost"]
    passes = [] if cost is None else cost["passes"]
    rows: list[tuple[str, float, float | None]] = [(each["title"], each["seconds"], each["alone"]) for each in passes]
    if cost is not None:
        alone = None if cost["forwards"] is None else cost["forwards"]["seconds"]
        rows.append(("time to verdict", cost["seconds"], alone))
    return pd.DataFrame(rows, columns=pd.Index(["what", "seconds", "alone"]))


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
    formats={
        **standard_formats(table="findings.csv", frame=tables.findings_frame, markdown=_markdown, html=_html),
        "passes.csv": Format("passes.csv", lambda document, _: tables.csv_text(passes_frame(document)).encode("utf-8")),
    },
    pictures=lambda document: [picture["file"] for picture in document["pictures"]],
)
