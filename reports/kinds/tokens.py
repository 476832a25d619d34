"""Kind ``tokens``: greedy tokens of the port beside those of another engine."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import pandas as pd

from reports import consistency
from reports import formatting as fmt
from reports.kinds.base import Document, Kind
from reports.page import Cell, Column, Page, Table, number, simple_formats


def frame(document: Document) -> pd.DataFrame:
    """One row for each generated token."""
    rows = [[at, port, engine, port == engine] for at, (port, engine) in enumerate(_pairs(document))]
    made = pd.DataFrame(rows, columns=pd.Index(["position", "port", "engine", "same"]))
    # The nullable integer type: an ordinary column would turn 812 beside a null into 812.0.
    return made.astype({"port": "Int64", "engine": "Int64"})


def _contradictions(document: Document) -> Iterator[str]:
    yield from consistency.verdict(document)
    if document["verdict"]["value"] == "PARITY":
        for field in ("prompt_tokens", "tokens"):
            sides = document[field]
            if sides["port"] != sides["engine"]:
                yield f"$.{field} differ between port and engine under the verdict PARITY, expected them to be the same"


def page(document: Document) -> Page:
    """The tokens of both, side by side."""
    engine = document["engine"]
    prompt = document["prompt_tokens"]
    pairs = _pairs(document)
    differing = [at for at, (port, other) in enumerate(pairs) if port != other]
    sentence = f"They first differ at position {differing[0]}." if differing else "Every token is the same."
    return Page(
        eyebrow="Greedy tokens",
        title=f"port against {engine}",
        sentence=sentence if pairs else "No token was generated.",
        counts=[
            (f"{len(pairs) - len(differing)} of {len(pairs)}", "tokens are the same"),
            (fmt.number(document["largest_logprob_difference"]), "largest difference in log-probability"),
        ],
        facts=[
            ("prompt", document["prompt"]),
            ("tokens of the prompt", f"port {fmt.number(prompt['port'])}, engine {fmt.number(prompt['engine'])}"),
        ],
        tables=[
            Table(
                id="tokens",
                title="Tokens",
                columns=[Column("position", numeric=True), Column("port", numeric=True), Column(engine, numeric=True)],
                rows=[
                    [number(at), _token(port, bad=port != other), _token(other, bad=port != other)]
                    for at, (port, other) in enumerate(pairs)
                ],
                empty="No token was generated.",
            )
        ],
    )


def _pairs(document: Document) -> list[tuple[int | None, int | None]]:
    return list(zip_longest(document["tokens"]["port"], document["tokens"]["engine"]))


def _token(value: int | None, *, bad: bool) -> Cell:
    # An id is a name, so it has no thousands separators.
    return Cell(fmt.DASH if value is None else str(value), value, bad)


KIND = Kind(
    name="tokens",
    contradictions=_contradictions,
    formats=simple_formats(table="tokens.csv", frame=frame, page=page),
)
