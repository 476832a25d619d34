"""Kind ``judgement``: traces of an engine, judged by a golden bundle. Each has a report of its own beside this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from reports import consistency, digest, tables
from reports import formatting as fmt
from reports.kinds.base import Document, Kind
from reports.page import Cell, Column, Page, Table, number, simple_formats, text, times

_WORST = 20


def frame(document: Document) -> pd.DataFrame:
    """One row for each finding, with its case and stage."""
    frames = []
    for case in document["cases"]:
        found = tables.findings_frame(case)
        found.insert(0, "case", case["name"])
        found.insert(1, "case_stage", case["stage"])
        frames.append(found)
    return pd.concat(frames, ignore_index=True)


def _contradictions(document: Document) -> Iterator[str]:
    yield from consistency.verdict(document)
    values = [case["verdict"]["value"] for case in document["cases"]]
    for number_, case in enumerate(document["cases"]):
        path = f"$.cases[{number_}]"
        yield from (fault.replace("$", path, 1) for fault in consistency.judged_findings(case))
        if case["verdict"]["value"] == "PARITY" and not case["findings"]:
            yield f"{path}.findings is empty under the verdict PARITY, expected what was compared"
    worst = next((value for value in ("INVALID", "DIVERGED", "INCOMPLETE") if value in values), "PARITY")
    if document["verdict"]["value"] != worst:
        yield f"$.verdict.value is {document['verdict']['value']!r}, expected {worst!r}, the worst of $.cases"


def page(document: Document) -> Page:
    """All traces with their verdicts, then what failed, then what is nearest to its gate."""
    bundle, gate = document["bundle"], document["gate"]
    return Page(
        eyebrow="Traces judged by a golden bundle",
        title=fmt.plural(len(document["cases"]), "trace"),
        sentence="" if bundle["pinned"] else _UNPINNED,
        counts=[(fmt.number(_sum(document, what)), label) for what, label in _COUNTS],
        facts=[
            ("bundle", f"{bundle['path']}, sha256 {bundle['sha256']}"),
            ("made with", ", ".join(f"{name} {version}" for name, version in bundle["versions"].items())),
            ("gate", f"{gate['rule']}; m {fmt.number(gate['m'])}, ulps {fmt.number(gate['ulps'])}"),
            ("comparison", "accumulated: the subject runs on its own inputs"),
            (
                "floors from",
                "; ".join(dict.fromkeys(_floor_runs(document))) or "no run",
            ),
        ],
        tables=[_cases(document), _failing(document), _nearest(document)],
    )


_COUNTS = (("seams_compared", "seams compared"), ("rows_compared", "rows"), ("not_compared", "not compared"))
_UNPINNED = (
    "The bundle's sha256 was not given with --sha256. A bundle that was changed on purpose, with new digests, is only "
    "noticed if the digest is compared with the one that its maker published."
)


def _sum(document: Document, what: str) -> int:
    return sum(case["verdict"][what] for case in document["cases"])


def _floor_runs(document: Document) -> Iterator[str]:
    for case in document["cases"]:
        yield from case["floor_runs"]


def _cases(document: Document) -> Table:
    rows = []
    for case in document["cases"]:
        verdict, subject = case["verdict"], case["subject"]
        worst = digest.worst_first([item for item in case["findings"] if item["ratio"] is not None])
        first = digest.first_divergence(case)
        rows.append(
            [
                Cell(fmt.visible(case["name"]), link=case["report"]),
                text(case["stage"]),
                Cell(verdict["value"], bad=verdict["value"] != "PARITY"),
                text("" if subject is None else _side(subject)),
                number(verdict["seams_compared"]),
                number(verdict["seams_expected"]),
                times(worst[0]["ratio"] if worst else None),
                text(first["seam"] if first else ""),
                text(verdict["reason"]),
            ]
        )
    columns = [
        Column("case", code=True),
        Column("stage"),
        Column("verdict"),
        Column("subject"),
        Column("seams compared", numeric=True),
        Column("expected", numeric=True),
        Column("worst ratio", numeric=True),
        Column("first divergence", code=True),
        Column("reason"),
    ]
    return Table(id="cases", title="Traces", columns=columns, rows=rows)


def _failing(document: Document) -> Table:
    found = [(case, item) for case in document["cases"] for item in digest.failing(case["findings"])]
    return _findings("failing", "Not ok", found, empty="Every finding is ok.")


def _nearest(document: Document) -> Table:
    found = [
        (case, item)
        for case in document["cases"]
        for item in case["findings"]
        if item["status"] == "ok" and item["ratio"] is not None
    ]
    found.sort(key=lambda pair: -float(pair[1]["ratio"]))
    return _findings("nearest", "Nearest to their gate among those that are ok", found[:_WORST], empty="None.")


def _findings(id_: str, title: str, found: list[tuple[Any, Any]], *, empty: str) -> Table:
    columns = [
        Column("seam", code=True),
        Column("case", code=True),
        Column("step"),
        Column("ratio", numeric=True),
        Column("figure", numeric=True),
        Column("gate", numeric=True),
        Column("worst row"),
        Column("what"),
    ]
    rows = [
        [
            text(item["seam"]),
            text(case["name"]),
            text(item["step"]),
            times(item["ratio"]),
            number(item["figure"]),
            number(item["gate"]),
            text(item["worst_row"]),
            Cell(digest.what_happened(item), bad=item["status"] != "ok"),
        ]
        for case, item in found
    ]
    return Table(id=id_, title=title, columns=columns, rows=rows, empty=empty)


def _side(side: Mapping[str, Any]) -> str:
    return ", ".join(part for part in (side["name"], side["detail"], side["dtype"]) if part)


KIND = Kind(
    name="judgement",
    contradictions=_contradictions,
    formats=simple_formats(table="findings.csv", frame=frame, page=page),
    reports=lambda document: [case["report"] for case in document["cases"] if case["report"]],
)
