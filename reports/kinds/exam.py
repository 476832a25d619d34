"""Kind ``exam``: questions about held-out pictures and clips, asked of several engines."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from reports import consistency
from reports import formatting as fmt
from reports.consistency import equal
from reports.kinds.base import Document, Kind
from reports.page import Cell, Column, Page, Table, number, simple_formats, text

ALL = "all"


def frame(document: Document) -> pd.DataFrame:
    """One row for each engine and kind of question, and one for each engine over all kinds."""
    rows = []
    for engine in document["engines"]:
        found = {**engine["by_kind"], ALL: {"questions": engine["asked"], "accuracy": engine["accuracy"]}}
        rows += [[engine["engine"], kind, each["questions"], each["accuracy"]] for kind, each in found.items()]
    return pd.DataFrame(rows, columns=pd.Index(["engine", "kind", "questions", "accuracy"]))


def _contradictions(document: Document) -> Iterator[str]:
    yield from consistency.verdict(document)
    names = [engine["engine"] for engine in document["engines"]]
    yield from consistency.unique(names, path="$.engines", field="engine")
    for number_, engine in enumerate(document["engines"]):
        path, asked = f"$.engines[{number_}]", engine["asked"]
        yield from equal(
            asked + engine["not_run"], document["questions"], path=f"{path}.asked + not_run", why="$.questions"
        )
        if engine["right"] > asked:
            yield f"{path}.right is {engine['right']}, expected at most {asked}, the number of questions asked"
        yield from equal(
            engine["accuracy"], engine["right"] / asked if asked else None, path=f"{path}.accuracy",
            why="right answers over questions asked",
        )  # fmt: skip
        total = sum(each["questions"] for each in engine["by_kind"].values())
        yield from equal(total, asked, path=f"the questions of {path}.by_kind", why="the number of questions asked")
    for number_, line in enumerate(document["disagreements"]):
        path = f"$.disagreements[{number_}]"
        unknown = [engine for engine in line["answers"] if engine not in names]
        if unknown:
            yield f"{path}.answers has {unknown}, expected engines of $.engines: {names}"
        if line["number"] >= document["questions"]:
            yield f"{path}.number is {line['number']}, expected less than $.questions, {document['questions']}"


def page(document: Document) -> Page:
    """Right answers by kind of question, then the questions on which the engines disagree."""
    engines = document["engines"]
    names = [engine["engine"] for engine in engines]
    kinds = sorted({kind for engine in engines for kind in engine["by_kind"]})
    rows = [[text(kind), *(_share(engine["by_kind"].get(kind)) for engine in engines)] for kind in kinds]
    total = [{"accuracy": engine["accuracy"], "questions": engine["asked"]} for engine in engines]
    rows.append([text(ALL), *(_share(each) for each in total)])
    left_out = [
        (f"{engine['engine']}, not asked", f"{fmt.plural(engine['not_run'], 'question')}: {engine['why_not_run']}")
        for engine in engines
        if engine["not_run"]
    ]
    differing = [
        [
            number(line["number"]), text(line["kind"]), text(line["question"]), text(line["right"]),
            *(_answer(line["answers"].get(name), right=line["right"]) for name in names),
        ]
        for line in document["disagreements"]
    ]  # fmt: skip
    return Page(
        eyebrow="Exam about held-out pictures and clips",
        title=fmt.plural(document["questions"], "question"),
        counts=[(fmt.percent(engine["accuracy"]), f"right by {engine['engine']}") for engine in engines],
        facts=[
            ("clips", f"{document['clip_form'].upper()} files"),
            *left_out,
        ],
        tables=[
            Table(
                id="accuracy",
                title="Right answers",
                columns=[Column("kind of question"), *(Column(name, numeric=True) for name in names)],
                rows=rows,
            ),
            Table(
                id="disagreements",
                title="Questions on which the engines disagree",
                columns=[
                    Column("number", numeric=True), Column("kind"), Column("question"), Column("right answer"),
                    *(Column(name) for name in names),
                ],
                rows=differing,
                empty="All engines gave the same answers.",
            ),
        ],
    )  # fmt: skip


def _share(found: Document | None) -> Cell:
    if not found or found["accuracy"] is None:
        return Cell("not asked")
    return Cell(f"{fmt.percent(found['accuracy'])} of {fmt.number(found['questions'])}", found["accuracy"])


def _answer(answer: str | None, *, right: str) -> Cell:
    return Cell(fmt.visible(answer), bad=answer is not None and answer != right)


KIND = Kind(
    name="exam",
    contradictions=_contradictions,
    formats=simple_formats(table="exam.csv", frame=frame, page=page),
)
