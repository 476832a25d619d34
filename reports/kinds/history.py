"""Kind ``history``: margins over runs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pandas as pd

from reports import formatting as fmt
from reports.history_plot import history_plot
from reports.kinds.base import Document, Kind
from reports.page import Cell, Column, Drawing, Page, Table, number, simple_formats, text, times

_LEAD = (
    "The series that matter: those whose margin shrank by more than its noise are red, with a circle at the run that "
    "lost; then those nearest to the gate, with a dot for each run."
)
_COLUMNS = ("series", "run", "created", "ratio", "margin", "noise")


def frame(document: Document) -> pd.DataFrame:
    """One row for each series and run that has it."""
    rows = [
        [line["name"], run["folder"], run["created"], ratio, 1 - ratio, line["noise"]]
        for line in document["series"]
        for run, ratio in zip(document["runs"], line["ratios"], strict=True)
        if ratio is not None
    ]
    return pd.DataFrame(rows, columns=pd.Index(_COLUMNS))


def _contradictions(document: Document) -> Iterator[str]:
    count = len(document["runs"])
    for at, line in enumerate(document["series"]):
        if len(line["ratios"]) != count:
            yield f"$.series[{at}].ratios has {len(line['ratios'])} values, expected {count}, one for each of $.runs"
        elif line["shrank"] is not None and (line["shrank"] >= count or line["ratios"][line["shrank"]] is None):
            yield f"$.series[{at}].shrank is {line['shrank']}, expected a run that has a ratio"
    lost = [line["shrank"] for line in document["series"] if line["shrank"] is not None]
    first = document["first"]
    if (None if first is None else first["run"]) != min(lost, default=None):
        yield f"$.first is {first}, expected the first run in which a series of $.series shrank"


def page(document: Document) -> Page:
    """What shrank first, the runs, and every series."""
    first = document["first"]
    lost = sum(line["shrank"] is not None for line in document["series"])
    return Page(
        eyebrow="Margins over runs",
        title=fmt.plural(len(document["runs"]), "run"),
        sentence=_sentence(document),
        counts=[(fmt.number(lost), "margins shrank by more than their noise")] if first else [],
        facts=[
            (
                "noise",
                "the largest difference between two runs of the same code and traces; without such runs, three times "
                "the median change between neighbouring runs over all series; at least "
                f"{fmt.number(document['least_noise'])} of the gate",
            )
        ],
        figures=[Drawing("over", "Ratios over runs", _LEAD, partial(history_plot, document))],
        tables=[_series(document), _runs(document), *_skipped(document)],
    )


def _sentence(document: Document) -> str:
    first = document["first"]
    if first is None:
        return "No margin shrank by more than its noise."
    line = next(found for found in document["series"] if found["name"] == first["series"][0])
    run = document["runs"][first["run"]]
    more = f", and {len(first['series']) - 1} more series" if len(first["series"]) > 1 else ""
    return (
        f"A margin first shrank by more than its noise in {run['folder']} ({run['created']}): {line['name']}, from "
        f"{fmt.ratio(line['before'])} to {fmt.ratio(line['ratios'][first['run']])} the gate{more}."
    )


def _series(document: Document) -> Table:
    columns = [
        Column("series", code=True),
        Column("first", numeric=True),
        Column("last", numeric=True),
        Column("smallest", numeric=True),
        Column("largest", numeric=True),
        Column("noise", numeric=True),
        Column("noise from"),
        Column("shrank in"),
    ]
    rows = []
    for line in document["series"]:
        known = [ratio for ratio in line["ratios"] if ratio is not None]
        shrank = "" if line["shrank"] is None else document["runs"][line["shrank"]]["folder"]
        figures = [times(value) for value in (known[0], known[-1], min(known), max(known))]
        cells = [number(line["noise"]), text(line["noise_from"]), Cell(fmt.visible(shrank), bad=bool(shrank))]
        rows.append([text(line["name"]), *figures, *cells])
    return Table(id="series", title="Ratios", columns=columns, rows=rows)


def _runs(document: Document) -> Table:
    columns = [Column(name) for name in ("run", "created", "what", "verdict", "commit", "judged")]
    rows = [
        [text(run[name]) for name in ("folder", "created", "kind", "label", "commit", "judged")]
        for run in document["runs"]
    ]
    return Table(id="runs", title="Runs", columns=columns, rows=rows)


def _skipped(document: Document) -> Iterator[Table]:
    if document["skipped"]:
        rows = [[text(line["folder"]), text(line["why"])] for line in document["skipped"]]
        yield Table(id="skipped", title="Not read", columns=[Column("folder"), Column("why")], rows=rows)


KIND = Kind(
    name="history",
    contradictions=_contradictions,
    formats=simple_formats(table="history.csv", frame=frame, page=page),
)
