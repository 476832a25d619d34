"""Kind ``processor``: the port's processor beside the reference's on the user's own files, values and speed."""

from __future__ import annotations

from collections.abc import Iterator

from reports import consistency, tables
from reports import formatting as fmt
from reports.kinds.base import Document, Kind
from reports.page import Column, Page, Table, number, seconds, simple_formats, text, times


def _contradictions(document: Document) -> Iterator[str]:
    yield from consistency.judged_findings(document)
    for place, speed in enumerate(document["throughput"]):
        if speed["title"] not in document["files"]:
            yield f"$.throughput[{place}].title is {speed['title']!r}, expected one of $.files"


def page(document: Document) -> Page:
    """The speed of both processors on each file; the findings follow in the template."""
    return Page(
        eyebrow="Processor of the port against that of the reference",
        title=fmt.plural(len(document["files"]), "file"),
        facts=[("files", ", ".join(document["files"])), ("threads of torch", fmt.number(document["threads"]))],
        tables=[
            Table(
                id="throughput",
                title="Time from file to tensors",
                columns=[
                    Column("file"),
                    Column("port, median", numeric=True),
                    Column("reference, median", numeric=True),
                    Column("reference / port", numeric=True),
                    Column("rounds", numeric=True),
                ],
                rows=[
                    [
                        text(speed["title"]),
                        seconds(speed["port_seconds"]),
                        seconds(speed["reference_seconds"]),
                        times(speed["ratio"]),
                        number(speed["rounds"]),
                    ]
                    for speed in document["throughput"]
                ],
                lead="A ratio above 1 means that the port takes less time. Timings do not affect the verdict.",
                empty="No times were measured.",
            )
        ],
    )


KIND = Kind(
    name="processor",
    contradictions=_contradictions,
    formats=simple_formats(table="findings.csv", frame=tables.findings_frame, page=page),
)
