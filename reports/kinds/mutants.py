"""Kind ``mutants``: which known mistakes the cases catch (the kill matrix).

The document's ``cases`` give the columns, its ``mutants`` the rows; every mutant has an outcome for each case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from reports import consistency, html, markdown
from reports.consistency import equal
from reports.kinds.base import Document, Format, Kind, standard_formats
from reports.matrix import CAUGHT, CELLS, picture

_COLUMNS = (
    *("id", "title", "component", "stage", "source", "real", "seam", "step", "fate", "first_seam", "first_step"),
    "localised",
)
_NAMED = 30  # mutants named at the top of the page
_FATES = {"caught": "caught", "survived": "survived", "invisible": "invisible", "not exposed": "not_exposed"}


def frame(document: Document) -> pd.DataFrame:
    """One row for each mutant, and a column with the outcome's state for each case."""
    cases = [case["name"] for case in document["cases"]]
    rows = [
        [mutant[column] for column in _COLUMNS]
        + [" ".join(mutant["dtypes"])]
        + [mutant["outcomes"][name]["state"] for name in cases]
        for mutant in document["mutants"]
    ]
    return pd.DataFrame(rows, columns=pd.Index([*_COLUMNS, "dtypes", *cases]))


def _contradictions(document: Document) -> Iterator[str]:
    mutants, cases = document["mutants"], [case["name"] for case in document["cases"]]
    yield from consistency.unique(cases, path="$.cases", field="name")
    yield from consistency.unique([mutant["id"] for mutant in mutants], path="$.mutants", field="id")
    for number, mutant in enumerate(mutants):
        path, outcomes = f"$.mutants[{number}]", mutant["outcomes"]
        if set(outcomes) != set(cases):
            yield f"{path}.outcomes has {sorted(outcomes)}, expected one outcome for each of $.cases: {sorted(cases)}"
            continue
        caught = [name for name in cases if outcomes[name]["state"] in CAUGHT]
        missed = [name for name in cases if outcomes[name]["expected"] and name not in caught]
        yield from equal(
            sorted(mutant["caught_by"]), sorted(caught), path=f"{path}.caught_by", why="as the outcomes say"
        )
        yield from equal(
            sorted(mutant["missed_by"]), sorted(missed), path=f"{path}.missed_by", why="as the outcomes say"
        )
        if (mutant["fate"] == "caught") != bool(caught):
            yield f"{path}.fate is {mutant['fate']!r}, but the cases that caught it are {caught}"
        at_seam = bool(caught) and all(outcomes[name]["state"] == "at seam" for name in caught)
        yield from equal(mutant["localised"], at_seam, path=f"{path}.localised", why="as the outcomes say")
    unknown = [name for name in document["cover"]["cases"] if name not in cases]
    if unknown:
        yield f"$.cover.cases has {unknown}, expected names of $.cases: {cases}"
    yield from _totals(document)


def _totals(document: Document) -> Iterator[str]:
    mutants, totals = document["mutants"], document["totals"]
    fates = Counter(mutant["fate"] for mutant in mutants)
    due = len(mutants) - fates["invisible"]
    localised = sum(mutant["localised"] for mutant in mutants if mutant["fate"] == "caught")
    expected = {
        "mutants": len(mutants),
        "real": sum(mutant["real"] for mutant in mutants),
        **{field: fates[fate] for fate, field in _FATES.items()},
        "localised": localised,
        "kill_rate": fates["caught"] / due if due else 0.0,
        "localisation_rate": localised / fates["caught"] if fates["caught"] else 0.0,
        "proven": bool(fates["caught"]) and fates["caught"] == due,
    }
    for field, value in expected.items():
        yield from equal(totals[field], value, path=f"$.totals.{field}", why="counted over $.mutants")


def _html(document: Document, _pictures: Path) -> str:
    mutants = document["mutants"]
    return html.page(
        "mutants.html.j2",
        doc=document,
        matrix=html.png_uri(picture(document)),
        cells=CELLS,
        uncaught=_uncaught(document),
        most_rows=_NAMED,
        places={mutant["id"]: place for place, mutant in enumerate(mutants)},
        exposed={mutant["id"]: _tried(mutant) for mutant in mutants},
        components=list(dict.fromkeys(mutant["component"] for mutant in mutants)),
        stages=list(dict.fromkeys(mutant["stage"] for mutant in mutants)),
        fates=Counter(mutant["fate"] for mutant in mutants),
    )


def _markdown(document: Document) -> str:
    elsewhere = [mutant for mutant in document["mutants"] if mutant["fate"] == "caught" and not mutant["localised"]]
    by_case = {
        case["name"]: {
            field: sum(case["name"] in mutant[f"{field}_by"] for mutant in document["mutants"])
            for field in ("caught", "missed")
        }
        for case in document["cases"]
    }
    return markdown.page(
        "mutants.md.j2", doc=document, uncaught=_uncaught(document), elsewhere=elsewhere, by_case=by_case
    )


def _tried(mutant: Document) -> int:
    return sum(outcome["state"] != "not applicable" for outcome in mutant["outcomes"].values())


def _uncaught(document: Document) -> list[tuple[str, list[Document]]]:
    """Mutants that had to be caught and were not, survivors first."""
    groups = (("survived", "Survived"), ("not exposed", "Not exposed by these cases"))
    found = [(title, [line for line in document["mutants"] if line["fate"] == fate]) for fate, title in groups]
    return [(title, lines) for title, lines in found if lines]


KIND = Kind(
    name="mutants",
    contradictions=_contradictions,
    formats={
        **standard_formats(table="mutants.csv", frame=frame, markdown=_markdown, html=_html),
        "png": Format("mutants.png", lambda document, _: picture(document)),
    },
)
