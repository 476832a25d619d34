"""Kind ``calibration``: the smallest m without a false alarm, kept as data of the package."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from reports import formatting as fmt
from reports.kinds.base import Document, Kind
from reports.page import Column, Page, Table, number, simple_formats, text

_COLUMNS = ("isolation", "gate_m", "smallest_m", "false_alarms", "m", "case", "run", "seam", "rows")


def frame(document: Document) -> pd.DataFrame:
    """One row for each of the runs that need the largest m."""
    rows = [
        [name, found["m"], found["smallest_m"], found["false_alarms"]]
        + [worst[field] for field in ("m", "case", "run", "seam", "rows")]
        for name, found in document["comparisons"].items()
        for worst in found["worst"]
    ]
    return pd.DataFrame(rows, columns=pd.Index(_COLUMNS))


def _contradictions(document: Document) -> Iterator[str]:
    if sum(made["runs"] for made in document["engines"]) != document["runs"]:
        yield f"$.engines have {sum(made['runs'] for made in document['engines'])} runs, $.runs is {document['runs']}"
    for name, found in document["comparisons"].items():
        path = f"$.comparisons.{name}"
        if (found["smallest_m"] > found["m"]) != (found["false_alarms"] > 0):
            yield (
                f"{path}.false_alarms is {found['false_alarms']}, but the smallest m without a false alarm is "
                f"{found['smallest_m']} where m is {found['m']}"
            )
        for number_, worst in enumerate(found["worst"]):
            if worst["isolation"] != name:
                yield f"{path}.worst[{number_}].isolation is {worst['isolation']!r}, expected {name!r}"
            if worst["m"] > found["smallest_m"]:
                yield f"{path}.worst[{number_}].m is {worst['m']}, expected at most smallest_m, {found['smallest_m']}"
            if worst["case"] not in document["cases"]:
                yield f"{path}.worst[{number_}].case is {worst['case']!r}, expected one of $.cases"


def page(document: Document) -> Page:
    """Both comparisons with their m, then the runs that need most of it."""
    comparisons = document["comparisons"]
    alarms = sum(found["false_alarms"] for found in comparisons.values())
    summary = [
        [
            text(name.replace("_", ", ")),
            number(found["m"]),
            number(found["smallest_m"]),
            number(found["false_alarms"], bad=found["false_alarms"] > 0),
        ]
        for name, found in comparisons.items()
    ]
    worst = [
        [text(line["case"]), text(name), number(line["m"]), text(line["run"]), text(line["seam"]), number(line["rows"])]
        for name, found in comparisons.items()
        for line in found["worst"]
    ]
    return Page(
        eyebrow="Calibration: correct runs, judged in the same way as a subject",
        title=f"{document['dtype']}: {fmt.plural(alarms, 'false alarm')}",
        sentence=(
            "The gate of a row is m times its floor. "
            "The smallest m is the one with which no correct run would have given a false alarm."
        ),
        counts=[
            (fmt.number(document["runs"]), "correct runs"),
            (fmt.number(document["rows"]), "rows"),
            (fmt.number(len(document["cases"])), "cases"),
            (fmt.number(len(document["seeds"])), "seeds" if len(document["seeds"]) != 1 else "seed"),
        ],
        facts=[
            ("ulps", fmt.number(document["ulps"])),
            ("seeds", ", ".join(map(str, document["seeds"]))),
            ("cases", ", ".join(document["cases"])),
        ],
        tables=[
            Table(
                id="comparisons",
                title="Comparisons",
                columns=[
                    Column("comparison"),
                    Column("m of the gate", numeric=True),
                    Column("smallest m", numeric=True),
                    Column("false alarms", numeric=True),
                ],
                rows=summary,
            ),
            Table(
                id="engines",
                title="Who made the runs, and the largest m that each needs",
                columns=[
                    Column("run"),
                    Column("runs", numeric=True),
                    *(Column(name.replace("_", ", "), numeric=True) for name in comparisons),
                ],
                rows=[
                    [
                        text(made["run"]),
                        number(made["runs"]),
                        *(number(made["smallest_m"][name]) for name in comparisons),
                    ]
                    for made in document["engines"]
                ],
            ),
            Table(
                id="worst",
                title="Runs that need the largest m",
                columns=[
                    Column("case", code=True),
                    Column("comparison"),
                    Column("m", numeric=True),
                    Column("run"),
                    Column("seam", code=True),
                    Column("rows", numeric=True),
                ],
                rows=worst,
            ),
        ],
    )


KIND = Kind(
    name="calibration",
    contradictions=_contradictions,
    formats=simple_formats(table="calibration.csv", frame=frame, page=page),
    stem=lambda document: f"calibration-{document['dtype']}",
)
