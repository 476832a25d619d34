"""Kind ``difference``: two sign-offs beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from reports import consistency
from reports import formatting as fmt
from reports.kinds.base import Document, Kind
from reports.page import Cell, Column, Page, Table, simple_formats, text, times

_SEAM_COLUMNS = ("seam", "before", "after")
_MOST = 200
_BETTER = ("PARITY", "SIGNED OFF")


def frame(document: Document) -> pd.DataFrame:
    """One row for each seam whose worst ratio differs."""
    rows = [[seam[name] for name in _SEAM_COLUMNS] for seam in document["seams"]]
    return pd.DataFrame(rows, columns=pd.Index(_SEAM_COLUMNS))


def _contradictions(document: Document) -> Iterator[str]:
    yield from consistency.verdict(document)
    changed = document["discrete"] or any(
        line["before"] != line["after"] for name in ("milestones", "items") for line in document[name]
    )
    if (document["verdict"]["value"] == "PARITY") is bool(changed):
        yield (
            f"$.verdict.value is {document['verdict']['value']}, but the records "
            f"{'differ' if changed else 'do not differ'}"
        )


def _page(document: Document) -> Page:
    sides = [(name, document[name]) for name in ("before", "after")]
    facts = [
        (
            name,
            f"{side['label']}, {side['created']}, commit {side['commit']}, digest {side['digest']} ({side['record']})",
        )
        for name, side in sides
    ]
    changed = sum(line["before"] != line["after"] for line in document["items"])
    return Page(
        eyebrow="Two sign-offs",
        title=f"{document['before']['label']}, then {document['after']['label']}",
        counts=[
            (fmt.number(changed), "required items changed"),
            (fmt.number(len(document["discrete"])), "discrete figures differ"),
            (fmt.number(len(document["seams"])), "seams have another margin"),
        ],
        facts=facts,
        tables=[_milestones(document), _items(document), _discrete(document), _settings(document), _seams(document)],
    )


def _verdicts(was: str | None, now: str | None) -> list[Cell]:
    worse = was != now and not (now or "").startswith(_BETTER)
    return [Cell(was or "absent"), Cell(now or "absent", bad=worse)]


def _milestones(document: Document) -> Table:
    columns = [Column("phase", numeric=True), Column("title"), Column("before"), Column("after"), Column("reason")]
    rows = [
        [
            Cell(str(line["phase"]), line["phase"]),
            text(line["title"]),
            *_verdicts(line["before"], line["after"]),
            text(line["reason"]),
        ]
        for line in document["milestones"]
    ]
    return Table(id="milestones", title="Milestones", columns=columns, rows=rows)


def _items(document: Document) -> Table:
    columns = [
        Column("required", code=True),
        Column("before"),
        Column("after"),
        Column("worst ratio before", numeric=True),
        Column("after", numeric=True),
        Column("reason"),
    ]
    changed = [line for line in document["items"] if line["before"] != line["after"]]
    same = [line for line in document["items"] if line["before"] == line["after"]]
    rows = [
        [
            text(line["item"]),
            *_verdicts(line["before"], line["after"]),
            times(line["ratio_before"]),
            times(line["ratio_after"]),
            text(line["reason"]),
        ]
        for line in [*changed, *same]
    ]
    folded = "" if changed else f"{fmt.plural(len(same), 'required item')}, each with the same verdict"
    return Table(id="items", title="Required items", columns=columns, rows=rows, folded=folded)


def _discrete(document: Document) -> Table:
    columns = [Column("item", code=True), Column("at", code=True), Column("before"), Column("after")]
    rows = [
        [text(line["item"]), text(line["place"]), _absent(line["before"]), _absent(line["after"])]
        for line in document["discrete"][:_MOST]
    ]
    more = len(document["discrete"]) - _MOST
    return Table(
        id="discrete", title="Discrete figures", columns=columns, rows=rows,
        lead=f"{fmt.plural(more, 'more line')} in the JSON file." if more > 0 else "", empty="They are the same.",
    )  # fmt: skip


def _absent(value: str | None) -> Cell:
    return Cell("absent" if value is None else fmt.visible(value))


def _settings(document: Document) -> Table:
    columns = [Column("made with"), Column("before", code=True), Column("after", code=True)]
    rows = [[text(line["name"]), _absent(line["before"]), _absent(line["after"])] for line in document["settings"]]
    return Table(id="settings", title="Made with", columns=columns, rows=rows, empty="Both with the same.")


def _seams(document: Document) -> Table:
    columns = [
        Column("seam", code=True),
        Column("worst ratio before", numeric=True),
        Column("after", numeric=True),
        Column("after / before", numeric=True),
    ]
    rows = [_seam(line) for line in document["seams"]]
    return Table(
        id="seams", title="Margins", columns=columns, rows=rows, empty="They are the same.",
        lead="Seams whose worst ratio differs; those that lost most of their margin come first.",
    )  # fmt: skip


def _seam(line: dict[str, Any]) -> list[Cell]:
    change = line["after"] / line["before"] if line["before"] and line["after"] is not None else None
    over = line["after"] is not None and line["after"] > 1
    return [
        text(line["seam"]),
        times(line["before"]),
        Cell(fmt.ratio(line["after"]), line["after"], over),
        times(change),
    ]


KIND = Kind(
    name="difference",
    contradictions=_contradictions,
    formats=simple_formats(table="seams.csv", frame=frame, page=_page),
)
