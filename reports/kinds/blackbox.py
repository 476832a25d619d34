"""Kind ``blackbox``: tokens and log-probabilities of an engine, judged by a golden bundle."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from reports import consistency
from reports import formatting as fmt
from reports.kinds.base import Document, Kind
from reports.page import Cell, Column, Page, Table, number, simple_formats

_FIELDS = ("row", "step", "token", "expected", "margin", "gate", "figure", "logprobs", "passed")


def frame(document: Document) -> pd.DataFrame:
    """One row for each place."""
    rows = [[place[name] for name in _FIELDS] for place in document["places"]]
    return pd.DataFrame(rows, columns=pd.Index(_FIELDS))


def _contradictions(document: Document) -> Iterator[str]:
    yield from consistency.verdict(document)
    failed = [at for at, place in enumerate(document["places"]) if not place["passed"]]
    if failed and document["verdict"]["value"] != "DIVERGED":
        yield f"$.places[{failed[0]}].passed is false under the verdict {document['verdict']['value']}"
    if document["verdict"]["value"] == "PARITY" and not any(place["logprobs"] for place in document["places"]):
        yield "$.places has no log-probability under the verdict PARITY, expected INCOMPLETE"


def page(document: Document) -> Page:
    """Every place with its token and how far its log-probabilities are off."""
    places = document["places"]
    same = sum(place["token"] == place["expected"] for place in places)
    return Page(
        eyebrow="Tokens and log-probabilities, judged by a golden bundle",
        title=document["case"],
        counts=[
            (f"{same} of {len(places)}", "tokens are the yardstick's"),
            (fmt.number(sum(place["logprobs"] for place in places)), "log-probabilities"),
            (fmt.number(document["left_out"]), "places left out, of another context"),
        ],
        facts=[
            ("subject", document["subject"]),
            ("dtype", document["dtype"]),
            ("bundle", f"{document['bundle']['path']}, sha256 {document['bundle']['sha256']}"),
        ],
        tables=[
            Table(
                id="places",
                title="Places",
                columns=[Column(name, numeric=True) for name in (*_FIELDS[:-1], "result")],
                rows=[
                    [
                        *(Cell(str(place[name]), place[name]) for name in ("row", "step", "token", "expected")),
                        *(number(place[name]) for name in ("margin", "gate", "figure", "logprobs")),
                        Cell("ok" if place["passed"] else "diverged", bad=not place["passed"]),
                    ]
                    for place in places
                ],
                lead="Margins, gates and figures are in nats.",
            )
        ],
    )


KIND = Kind(
    name="blackbox",
    contradictions=_contradictions,
    formats=simple_formats(table="places.csv", frame=frame, page=page),
)
