"""Kind ``bench``: how fast the port is, beside the reference and beside what the machine can do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import isclose

import pandas as pd

from reports import bench_plots, consistency
from reports import formatting as fmt
from reports.consistency import equal
from reports.kinds.base import Document, Kind
from reports.page import Cell, Column, Drawing, Page, Table, number, seconds, simple_formats, text

_COLUMNS = ("work", "amount", "unit", "port", "reference", "ratio", "low", "high", "pairs", "noise", "of_limit")
_COUNTS = {
    "flops": "operations", "bytes_read": "bytes read", "calls": "calls", "peak_bytes": "bytes at the peak",
}  # fmt: skip


def frame(document: Document) -> pd.DataFrame:
    """One row for each work."""
    rows = []
    for work in document["works"]:
        ratio = work["ratio"]
        rows.append(
            [
                *(work[name] for name in ("name", "amount", "unit", "port", "reference")),
                *(ratio[name] for name in ("middle", "low", "high", "pairs")), work["noise"], work["of_limit"],
            ]
        )  # fmt: skip
    return pd.DataFrame(rows, columns=pd.Index(_COLUMNS))


def _contradictions(document: Document) -> Iterator[str]:
    if ("verdict" in document) != ("check" in document):
        yield "$ has only one of verdict and check, expected both or none"
    if "verdict" in document:
        yield from consistency.verdict(document)
        failed = bool(document["check"]["slower"] or document["check"]["grown"])
        if failed != (document["verdict"]["value"] == "DIVERGED"):
            yield f"$.verdict.value is {document['verdict']['value']}, but $.check says failed: {failed}"
    yield from consistency.unique([work["name"] for work in document["works"]], path="$.works", field="name")
    for place, work in enumerate(document["works"]):
        path = f"$.works[{place}]"
        for name in ("ratio", "control"):
            found = work[name]
            if not found["low"] <= found["middle"] <= found["high"]:
                yield f"{path}.{name}: the middle {found['middle']} is not between {found['low']} and {found['high']}"
        if (taps := work["taps"]) is not None and not isclose(taps["of_port"], taps["seconds"] / work["port"]):
            yield f"{path}.taps.of_port is {taps['of_port']}, expected {taps['seconds'] / work['port']}: seconds / port"
        for side in ("port", "reference"):
            timed = len(work["seconds"][side])
            yield from equal(
                timed, work["ratio"]["pairs"], path=f"the length of {path}.seconds.{side}", why="the pairs"
            )


def page(document: Document) -> Page:
    """Ratios with their noise, then limits, counts, memory and the points of the curves."""
    works, machine, limits = document["works"], document["machine"], document["limits"]
    kernels = [f"{name}: {value}" for name, value in machine["kernels"].items()]
    return Page(
        eyebrow="Speed",
        title=f"{document['checkpoint']['name']}, {document['subject']['dtype']}",
        sentence="How many times faster the port is than the reference: the mean of the middle half of the pairs, "
        f"with an interval of {document['confidence']:.0%}. The noise is that of the port timed against itself.",
        counts=[(f"{work['ratio']['middle']:.2f} x", work["name"]) for work in works],
        facts=[
            ("class of the machine", machine["class"]),
            ("kernels", "; ".join(kernels)),
            ("clock", machine["clock"]),
            *_verdict(document["time_to_verdict"]),
            ("matrix product", f"{limits['product_gflops']:.1f} GFLOP/s"),
            ("reading", f"{limits['read_gbytes']:.1f} GB/s"),
            ("memory of load and one forward", f"port {_mib(document['memory']['port'])}, reference "
            f"{_mib(document['memory']['reference'])}, checkpoint {_mib(document['checkpoint']['bytes'])}"),
        ],
        figures=[
            Drawing(
                "roofline", "Beside the limits of the machine",
                "Operations a second over operations for each byte read. The line is what the machine could do.",
                partial(bench_plots.roofline, document),
            ),
            Drawing(
                "growth", "How cost grows", "Seconds over size. The dashed line is what the limits allow.",
                partial(bench_plots.growth, document),
            ),
        ],
        tables=[_ratios(works), *_beside(document["beside"]), _counts(works), _curves(document["curves"])],
    )  # fmt: skip


def _verdict(found: Document | None) -> list[tuple[str, str]]:
    """Nothing, unless a whole verdict was timed."""
    if found is None:
        return []
    text = f"{fmt.seconds(found['seconds'])}, {found['ratio']:.2f} times its {found['passes']} passes alone"
    return [(f"verdict on {found['case']}", text)]


def _ratios(works: list[Document]) -> Table:
    titles = ("port", "reference", "ratio", "low", "high", "pairs", "noise", "port per second", "of the limit")
    return Table(
        id="works",
        title="Port against reference",
        columns=[Column("work"), *(Column(title, numeric=True) for title in titles)],
        rows=[
            [
                text(work["title"]), seconds(work["port"]), seconds(work["reference"]),
                *(_ratio(work["ratio"][name]) for name in ("middle", "low", "high")), number(work["ratio"]["pairs"]),
                Cell(f"{work['noise']:.1%}", work["noise"]),
                Cell(f"{work['amount'] / work['port']:.1f} {work['unit']}", work["amount"] / work["port"]),
                Cell("" if work["of_limit"] is None else f"{work['of_limit']:.0%}", work["of_limit"]),
            ]
            for work in works
        ],
    )  # fmt: skip


def _beside(others: list[Document]) -> list[Table]:
    """Nothing, unless another engine was timed."""
    if not others:
        return []
    titles = ("port", "engine's time", "ratio", "low", "high", "pairs")
    rows = [
        [
            text(other["title"]), text(other["engine"]), seconds(other["port"]), seconds(other["other"]),
            *(_ratio(other["ratio"][name]) for name in ("middle", "low", "high")), number(other["ratio"]["pairs"]),
        ]
        for other in others
    ]  # fmt: skip
    columns = [Column("work"), Column("engine"), *(Column(title, numeric=True) for title in titles)]
    return [Table(id="beside", title="Port against another engine", columns=columns, rows=rows)]


def _counts(works: list[Document]) -> Table:
    titles = (*_COUNTS.values(), "taps", "taps' share of the time")
    return Table(
        id="counts",
        title="Counts of the port",
        columns=[Column("work"), *(Column(title, numeric=True) for title in titles)],
        rows=[
            [text(work["title"]), *(number(work["counts"][name]) for name in _COUNTS), *_taps(work["taps"])]
            for work in works
            if work["counts"] is not None
        ],
    )


def _taps(found: Document | None) -> list[Cell]:
    """How many taps nobody listens to, and what they cost."""
    if found is None:
        return [text(""), text("")]
    return [number(found["calls"]), Cell(f"{found['of_port']:.2%}", found["of_port"])]


def _curves(points: list[Document]) -> Table:
    return Table(
        id="curves",
        title="Points of the curves",
        columns=[Column("curve"), *(Column(title, numeric=True) for title in ("at", "port", "reference", "limit"))],
        rows=[
            [
                text(point["curve"]), number(point["at"]),
                *(seconds(point[name]) for name in ("port", "reference", "expected")),
            ]
            for point in points
        ],
        empty="No curves were measured.",
    )  # fmt: skip


def _ratio(value: float) -> Cell:
    return Cell(f"{value:.2f} x", value)


def _mib(size: int) -> str:
    return f"{fmt.number(round(size / 2**20))} MiB"


KIND = Kind(
    name="bench",
    contradictions=_contradictions,
    formats=simple_formats(table="bench.csv", frame=frame, page=page),
)
