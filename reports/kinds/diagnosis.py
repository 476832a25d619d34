"""Kind ``diagnosis``: the known mistakes that explain what an engine gave, or that none does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from reports import consistency
from reports import formatting as fmt
from reports.kinds.base import Document, Kind
from reports.page import Cell, Column, Page, Table, number, simple_formats, text, times


def frame(document: Document) -> pd.DataFrame:
    """One row for each explanation of each trace; ``cause`` is false for the nearest mistake that is not the cause."""
    rows = []
    for trace in document["traces"]:
        for cause, one in _explanations(trace):
            rows.append(
                [
                    trace["case"],
                    trace["stage"],
                    " + ".join(mistake["id"] for mistake in one["mistakes"]),
                    cause,
                    one["ratio_before"],
                    one["ratio_after"],
                    one["worst_after"],
                    one["rows_failed"],
                    one["rows_explained"],
                ]
            )
    names = "case stage mistakes cause ratio_before ratio_after worst_after rows_failed rows_explained"
    return pd.DataFrame(rows, columns=pd.Index(names.split()))


def _explanations(trace: Any) -> Iterator[tuple[bool, Any]]:
    yield from ((True, one) for one in trace["explanations"])
    if trace["nearest"] is not None:
        yield False, trace["nearest"]


def _contradictions(document: Document) -> Iterator[str]:
    yield from consistency.verdict(document)
    diverged = [trace for trace in document["traces"] if trace["symptoms"] is not None]
    explained = [trace for trace in diverged if trace["explanations"]]
    wanted = "nothing" if not diverged else "explained" if len(explained) == len(diverged) else "unexplained"
    if document["conclusion"]["status"] != wanted:
        yield f"$.conclusion.status is {document['conclusion']['status']!r}, expected {wanted!r} by $.traces"
    for at, trace in enumerate(document["traces"]):
        path = f"$.traces[{at}]"
        if trace["symptoms"] is None and (trace["explanations"] or trace["nearest"]):
            yield f"{path} has explanations but no symptoms, expected nothing to explain"
        if trace["explanations"] and trace["nearest"] is not None:
            yield f"{path}.nearest is given beside explanations, expected null"
        for cause, one in _explanations(trace):
            if one["rows_explained"] > one["rows_failed"]:
                yield f"{path} explains {one['rows_explained']} of {one['rows_failed']} rows, expected no more than all"
            if cause and (one["stopped"] is not None or one["rows_explained"] < one["rows_failed"]):
                yield f"{path} names a cause that leaves rows unexplained, expected it under $.nearest"


def page(document: Document) -> Page:
    """The mistakes by name, then the evidence of each trace, then the paragraph for a bug report."""
    totals = document["totals"]
    return Page(
        eyebrow="Diagnosis",
        title=_TITLES[document["conclusion"]["status"]],
        sentence=document["conclusion"]["text"],
        counts=[
            (fmt.number(document["hypotheses"]), "known mistakes"),
            (fmt.number(totals["runs_begun"]), "runs begun"),
            (fmt.number(totals["runs"]), "whole runs of the port in all"),
            (fmt.number(totals["passes"]), "forward passes"),
        ],
        facts=[
            ("subject", document["subject"]),
            ("bundle", f"{document['bundle']['path']}, sha256 {document['bundle']['sha256']}"),
            ("for a bug report", document["bug_report"]),
        ],
        tables=[_causes(document), *_inputs(document), _evidence(document)],
    )


_TITLES = {"explained": "explained", "unexplained": "not explained", "nothing": "nothing to explain"}


def _causes(document: Document) -> Table:
    rows = [
        [
            text(" + ".join(mistake["id"] for mistake in one["mistakes"])),
            Cell("cause" if cause else "nearest, not the cause", bad=not cause),
            text("; ".join(mistake["title"] for mistake in one["mistakes"])),
            text("; ".join(mistake["source"] for mistake in one["mistakes"])),
            text(trace["case"]),
            times(one["ratio_before"]),
            times(one["ratio_after"]),
            times(one["worst_after"]),
            Cell(f"{one['rows_explained']} of {one['rows_failed']}", one["share"]),
        ]
        for trace in document["traces"]
        for cause, one in _explanations(trace)
    ]
    columns = [
        Column("mistake"),  # several names need to wrap, which code does not
        Column("role"),
        Column("what it is"),
        Column("who made it"),
        Column("case", code=True),
        Column("ratio before", numeric=True),
        Column("ratio after", numeric=True),
        Column("worst after", numeric=True),
        Column("failing rows explained", numeric=True),
    ]
    alike = any(len(trace["explanations"]) > 1 for trace in document["traces"])
    lead = "Causes of the same trace cannot be told apart by it." if alike else ""
    return Table(id="causes", title="Mistakes", columns=columns, rows=rows, lead=lead, empty="No mistake is near.")


def _inputs(document: Document) -> list[Table]:
    """Nothing, unless an input was found that tells explanations apart."""
    if not document["next_inputs"]:
        return []
    rows = [
        [
            text(one["case"]),
            text(" and ".join(" + ".join(ids) for ids in one["hypotheses"])),
            number(one["separation"]),
            number(one["row"]),
            number(one["step"]),
            text(_left(one["left"])),
        ]
        for one in document["next_inputs"]
    ]
    columns = [
        Column("case", code=True),
        Column("tells apart", code=True),
        Column("gates apart", numeric=True),
        Column("row", numeric=True),
        Column("step", numeric=True),
        Column("what the engine gave leaves"),
    ]
    return [Table(id="inputs", title="Inputs that tell mistakes apart", columns=columns, rows=rows)]


def _left(left: list[list[str]] | None) -> str:
    if left is None:
        return "not asked"
    return " or ".join(" + ".join(ids) for ids in left) or "none of them"


def _evidence(document: Document) -> Table:
    rows = []
    for trace in document["traces"]:
        found = trace["symptoms"]
        rows.append(
            [
                text(trace["case"]),
                text(trace["stage"]),
                Cell(trace["verdict"]["value"], bad=trace["verdict"]["value"] != "PARITY"),
                text("" if found is None else f"{found['seam']} ({found['step']})"),
                text("" if found is None else found["after"] or ""),
                number(None if found is None else found["not_given"]),
                text("" if found is None else ", ".join(found["components"])),
                text("" if found is None else ", ".join(found["kinds"])),
                text("" if found is None else ", ".join(found["steps"])),
                text("" if found is None else f"{found['rows_failed']} of {found['rows']}"),
                number(len(trace["tried"])),
            ]
        )
    columns = [
        Column("case", code=True),
        Column("stage"),
        Column("verdict"),
        Column("first wrong", code=True),
        Column("last right before", code=True),
        Column("not given between", numeric=True),
        Column("component"),
        Column("kinds of token"),
        Column("steps"),
        Column("rows"),
        Column("mistakes tried", numeric=True),
    ]
    return Table(id="evidence", title="Evidence", columns=columns, rows=rows)


KIND = Kind(
    name="diagnosis",
    contradictions=_contradictions,
    formats=simple_formats(table="diagnosis.csv", frame=frame, page=page),
)
