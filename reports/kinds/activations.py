"""Kind ``activations``: how the activations of several checkpoints differ."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from reports import formatting as fmt
from reports.kinds.base import Document, Kind
from reports.page import Column, Page, Table, number, simple_formats, text


def frame(document: Document) -> pd.DataFrame:
    """One row for each figure, one column for each model."""
    models = document["models"]
    rows = [[figure, *(found[figure] for found in models.values())] for figure in _figures(document)]
    return pd.DataFrame(rows, columns=pd.Index(["figure", *models]))


def _contradictions(document: Document) -> Iterator[str]:
    wanted = sorted(_figures(document))
    for name, found in document["models"].items():
        if sorted(found) != wanted:
            yield f"$.models.{name} has the figures {sorted(found)}, expected those of the first model: {wanted}"


def page(document: Document) -> Page:
    """All figures, the models side by side."""
    models = document["models"]
    return Page(
        eyebrow="Activations",
        title=fmt.plural(len(models), "model"),
        tables=[
            Table(
                id="figures",
                title="Figures",
                columns=[Column("figure", code=True), *(Column(name, numeric=True) for name in models)],
                rows=[
                    [text(figure), *(number(found[figure]) for found in models.values())]
                    for figure in _figures(document)
                ],
                empty="Nothing was measured.",
            )
        ],
    )


def _figures(document: Document) -> list[str]:
    return list(next(iter(document["models"].values()), {}))


KIND = Kind(
    name="activations",
    contradictions=_contradictions,
    formats=simple_formats(table="activations.csv", frame=frame, page=page),
)
