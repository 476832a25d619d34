"""Kind ``signoff``: milestones, each with what it must pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from reports import consistency, html, markdown
from reports import formatting as fmt
from reports.heatmap import heat_map
from reports.kinds.base import Document, Kind, standard_formats
from reports.model import parts as model
from reports.model.page import model_context
from reports.page import Cell, Column, Table, number, seconds, text, times

_EXIT_CODES = {"SIGNED OFF": 0, "REFUSED": 1, "INVALID": 2, "INCOMPLETE": 3}
_WORST = ("REFUSED", "INVALID", "INCOMPLETE", "SIGNED OFF")
#: The class of the style sheet for each verdict.
_TONES = {"SIGNED OFF": "parity", "REFUSED": "diverged", "INVALID": "invalid", "INCOMPLETE": "incomplete"}
_COLUMNS = ("phase", "item", "kind", "dtype", "verdict", "waived", "figure", "gate", "ratio", "at", "compared")


def frame(document: Document) -> pd.DataFrame:
    """One row for each required item of each milestone."""
    rows = [
        [
            *(milestone["phase"], item["id"], item["kind"], item["dtype"], item["verdict"], item["waived"]),
            *((item["worst"] or {}).get(name) for name in ("figure", "gate", "ratio", "at")),
            item["compared"],
        ]
        for milestone in document["milestones"]
        for item in milestone["items"]
    ]
    return pd.DataFrame(rows, columns=pd.Index(_COLUMNS))


def _contradictions(document: Document) -> Iterator[str]:
    total, milestones = document["verdict"], document["milestones"]
    phases = [str(milestone["phase"]) for milestone in milestones]
    yield from consistency.unique(phases, path="$.milestones", field="phase")
    yield from _exit_code(total, total["value"], "$.verdict")
    worst = next(value for value in _WORST if any(milestone["verdict"] == value for milestone in milestones))
    if total["value"] != worst:
        yield f"$.verdict.value is {total['value']!r}, expected {worst!r}, the worst of $.milestones"
    yield from consistency.grids(document["pictures"])
    for at, milestone in enumerate(milestones):
        path = f"$.milestones[{at}]"
        yield from _exit_code(milestone, milestone["verdict"], path)
        waived = {waiver["item"] for waiver in milestone["waivers"]}
        yield from consistency.unique([item["id"] for item in milestone["items"]], path=f"{path}.items", field="id")
        for place, item in enumerate(milestone["items"]):
            here = f"{path}.items[{place}]"
            if item["waived"] and item["id"] not in waived:
                yield f"{here}.waived is true, but {path}.waivers has none for {item['id']!r}"
            if milestone["verdict"] == "SIGNED OFF" and item["verdict"] != "PARITY" and not item["waived"]:
                yield (
                    f"{here}.verdict is {item['verdict']} ({item['id']}) in a milestone that is signed off, expected "
                    "PARITY or a waiver"
                )


def _exit_code(holder: Mapping[str, Any], value: str, path: str) -> Iterator[str]:
    if holder["exit_code"] != _EXIT_CODES[value]:
        yield f"{path}.exit_code is {holder['exit_code']}, expected {_EXIT_CODES[value]}, the exit code of {value}"


def _html(document: Document, pictures: Path) -> str:
    parts = model.of_seams(document["seams"], _places(document))
    listed = document["pictures"]
    maps = [heat_map(picture, folder=pictures, among=len(listed)) for picture in listed]
    of = [picture["item"] for picture in listed]
    return html.page("signoff.html.j2", **context(document), **model_context(parts), maps=maps, map_items=of)


def _places(document: Document) -> dict[str, str]:
    """The link to the milestone of each item, the first that requires it."""
    found: dict[str, str] = {}
    for milestone in document["milestones"]:
        for item in milestone["items"]:
            found.setdefault(item["id"], f"#phase-{milestone['phase']}")
    return found


def _markdown(document: Document) -> str:
    return markdown.page("signoff.md.j2", **context(document))


def context(document: Document) -> dict[str, Any]:
    """What the templates show: the facts, and a table for each milestone."""
    return {
        "doc": document,
        "tones": _TONES,
        "facts": _facts(document),
        "tables": [_items(milestone) for milestone in document["milestones"]],
        "waivers": _waivers(document),
        "performance": _tests(document, wanted=True),
        "checks": _tests(document, wanted=False),
        "nearest": _nearest(document),
        "counts": _counts(document),
    }


def _counts(document: Document) -> list[tuple[str, str]]:
    items = [item for milestone in document["milestones"] for item in milestone["items"]]
    passed = sum(item["verdict"] == "PARITY" for item in items)
    found = [
        (f"{passed} of {len(items)}", "required items passed"),
        (fmt.seconds(document["run"]["seconds"]), "in all"),
    ]
    reused = document["run"]["reused"]
    return [*found, (fmt.number(reused), "reused from an earlier sign-off")] if reused else found


def _power(power: Mapping[str, Any]) -> list[tuple[str, str]]:
    known, found = power["known_mistakes"], []
    if known["planted"]:
        where = f"{known['at_their_seam']} first at their seam, {known['invisible']} invisible in this dtype"
        found.append(("known mistakes", f"{known['caught']} of {known['planted']} caught; {where}"))
    for runs in power["correct_runs"]:
        alarms = fmt.plural(runs["false_alarms"], "false alarm") if runs["false_alarms"] else "no false alarm"
        need = f"the largest reached {runs['largest_need']:.2f} of its gate"
        count = f"{fmt.plural(runs['runs'], 'run')} with {fmt.number(runs['rows'])} rows"
        found.append((f"correct runs in {runs['dtype']}", f"{count}, {alarms}; {need}"))
    if floors := power["floors"]:
        few, most = floors["fewest_runs"], floors["most_runs"]
        count = fmt.plural(most, "correct run") if few == most else f"{few} to {most} correct runs"
        typical, largest = floors["typical_spread"], floors["largest_spread"]
        spread = f"typically {typical:.1f} times as far as the nearest, at most {largest:,.0f} times"
        found.append(("floors", f"{count} a case; the furthest is {spread} ({fmt.number(floors['values'])} values)"))
    return found


def _facts(document: Document) -> list[tuple[str, str]]:
    subject, file = document["subject"], document["milestones_file"]
    clean = {True: "clean", False: fmt.plural(len(subject["changes"]), "uncommitted change"), None: "state unknown"}
    code = "code of the port, the reference and parity" if subject["evidence"] == "run" else "code of parity"
    found = [
        ("subject", f"{subject['engine']}, judged by {'runs' if subject['evidence'] == 'run' else 'a golden bundle'}"),
        ("commit", f"{subject['commit']}, {clean[subject['clean']]}"),
        (code, subject["code"]),
        ("milestones file", f"{file['name']}, sha256 {file['sha256']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in document["versions"].items())),
    ]
    found += _power(document["power"])
    if subject["bundle"]:
        found.append(("golden bundle", subject["bundle"]))
    if subject["changes"]:
        found.append(("uncommitted changes", "; ".join(subject["changes"])))
    found += [("checkpoint", f"{name}: {digest}") for name, digest in document["checkpoints"].items()]
    found += [("not reused", f"{name}: {why}") for name, why in document["run"]["stale"].items()]
    return [*found, ("digest of the record", document["digest"])]


def _items(milestone: Mapping[str, Any]) -> Table:
    columns = [
        Column("required", code=True),
        Column("verdict"),
        Column("reason"),
        Column("worst ratio", numeric=True),
        Column("figure", numeric=True),
        Column("gate", numeric=True),
        Column("at", code=True),
        Column("compared", numeric=True),
        Column("rows", numeric=True),
        Column("floor runs", numeric=True),
        Column("time", numeric=True),
    ]
    commit = milestone["commit"] and f"({milestone['commit']})"
    failing_first = sorted(milestone["items"], key=lambda item: item["verdict"] == "PARITY")
    lead = [" ".join(part for part in ("In mistral.rs:", milestone["was"], commit) if part) + "."]
    if not milestone["was"] and not milestone["commit"]:
        lead = []
    lead.append(milestone["requires_less"] and f"This file {milestone['requires_less']}.")
    return Table(
        id=f"phase-{milestone['phase']}",
        title=f"Phase {milestone['phase']}: {milestone['title']}",
        columns=columns,
        rows=[_item(item) for item in failing_first],
        lead=" ".join(part for part in lead if part),
        folded=_folded(milestone),
    )


def _folded(milestone: Mapping[str, Any]) -> str:
    """The line that stands for the table of a milestone that is signed off."""
    if milestone["verdict"] != "SIGNED OFF":
        return ""
    ratios = [item["worst"]["ratio"] for item in milestone["items"] if item["worst"] and item["worst"]["ratio"]]
    nearest = f", the worst at {fmt.ratio(max(ratios))} its gate" if ratios else ""
    return f"{fmt.plural(len(milestone['items']), 'required item')}{nearest}"


def _item(item: Mapping[str, Any]) -> list[Cell]:
    worst = item["worst"] or {"ratio": None, "figure": None, "gate": None, "at": None, "comparison": ""}
    place = "" if worst["at"] is None else worst["at"]
    alone = ", isolated" if worst["comparison"] == "isolated" else ""
    verdict = f"{item['verdict']}, waived" if item["waived"] else item["verdict"]
    return [
        text(item["id"]),
        Cell(verdict, bad=item["verdict"] != "PARITY"),
        text("" if item["verdict"] == "PARITY" else item["reason"]),
        times(worst["ratio"]),
        number(worst["figure"]),
        number(worst["gate"]),
        text(f"{place}{alone}"),
        Cell(f"{item['compared']:,} of {item['expected']:,}", item["compared"]),
        number(item["rows"]),
        number(len(item["floor_runs"])),
        seconds(item["seconds"]),
    ]


def _nearest(document: Document) -> str:
    """One sentence about the seam that is nearest to its gate."""
    measured = [seam for seam in document["seams"] if seam["ratio"] is not None]
    if document["verdict"]["value"] != "SIGNED OFF" or not measured:
        return ""
    worst = max(measured, key=lambda seam: float(seam["ratio"]))
    alone = ", isolated" if worst["comparison"] == "isolated" else ""
    return f"Nearest to its gate is {worst['seam']} ({worst['step']}{alone}): {fmt.ratio(worst['ratio'])} the gate."


def _tests(document: Document, *, wanted: bool) -> Table:
    """The tests of all checks, or those of performance alone, failures first."""
    columns = [
        Column("test", code=True),
        Column("outcome"),
        Column("figure", numeric=True),
        Column("gate", numeric=True),
        Column("check", code=True),
        Column("note"),
    ]
    tests = [test for test in document["tests"] if test["item"].startswith("performance") is wanted]
    bad = [test for test in tests if not test["passed"]]
    rows = [
        [
            text(test["name"]),
            Cell(test["outcome"], bad=not test["passed"]),
            number(test["figure"]),
            number(test["gate"]),
            text(test["item"]),
            text(test["note"]),
        ]
        for test in [*bad, *(test for test in tests if test["passed"])]
    ]
    folded = "" if bad or wanted or not tests else f"{fmt.plural(len(tests), 'test')}, none failed"
    title = "Performance" if wanted else "Tests of the checks"
    return Table(
        id="performance" if wanted else "checks", title=title, columns=columns, rows=rows, folded=folded,
        empty="No check is required.",
    )  # fmt: skip


def _waivers(document: Document) -> Table:
    columns = [
        Column("waived", code=True),
        Column("phase", numeric=True),
        Column("expires"),
        Column("reason"),
        Column("link"),
    ]
    rows = [
        [
            text(waiver["item"]),
            number(waiver["phase"]),
            text(waiver["expires"]),
            text(waiver["reason"]),
            text(waiver["link"]),
        ]
        for milestone in document["milestones"]
        for waiver in milestone["waivers"]
    ]
    return Table(id="waivers", title="Waivers", columns=columns, rows=rows, empty="None.")


KIND = Kind(
    name="signoff",
    contradictions=_contradictions,
    formats=standard_formats(table="items.csv", frame=frame, markdown=_markdown, html=_html),
    pictures=lambda document: [picture["file"] for picture in document["pictures"]],
)
