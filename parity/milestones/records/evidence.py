"""Evidence: the raw figures of one item, and the verdict that follows from them. Needs no torch.

Evidence is a JSON object. A verdict is never taken from it: ``verdict_of`` computes it from the figures, when the
evidence is made as well as when a record is verified.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import jsonschema

from parity.core.compare import STARTS_HERE, Finding, Isolated
from parity.core.gates import DEFAULT_GATE
from parity.core.trace import Entry, SeamKey
from parity.core.verdict import Judgement, Verdict, judge
from parity.milestones.plan import MISTAKES, Item

COLUMNS = (
    *("seam", "call", "step", "group", "gate_kind", "status", "rows", "rows_failed", "worst_row", "figure", "gate"),
    *("ratio", "mismatches", "alone_status", "alone_figure", "alone_gate", "alone_ratio", "side", "note", "floor"),
    *("nearest_run", "furthest_run"),
)
# Figures that are the same on every machine, if the verdict is.
DISCRETE = ("seam", "call", "step", "gate_kind", "status", "rows", "mismatches", "alone_status", "side")
TESTS = ("name", "outcome", "figure", "gate", "note")
# The outcomes of the tests of a check. Those of a mutant are its fates.
GOOD, BAD, OPEN = ("kept", "same", "caught", "invisible"), ("broken", "differs", "survived"), ("not exposed",)
# The check that measures times.
TIMED_CHECK = "performance"
_STEP_ROUNDING = 1e-3
_CLOSE = 1e-9
# Bundles keep floors as float32, rounded up.
_NARROWED = 1e-6
_DTYPES = ("float32", "bfloat16", "float16")
Content = dict[str, Any]


def of_findings(
    findings: Sequence[Finding],
    *,
    error: str | None,
    loaded: bool = True,
    blind_spots: Sequence[str] | None,
    floor_runs: Sequence[str],
) -> Content:
    """Return the content of a case's evidence. ``error`` is what the subject raised, while loading or later."""
    return _content(
        error=None if error is None else {"side": "subject" if loaded else "loading", "text": error},
        values=[_row(finding) for finding in findings],
        blind_spots=None if blind_spots is None else sorted(blind_spots),
        floor_runs=list(floor_runs),
    )


def of_tests(tests: Sequence[Sequence[Any]], *, timed: Sequence[str] = ()) -> Content:
    """Return the content of a check's evidence: rows of ``TESTS``. ``timed`` names those whose figures are times."""
    return _content(tests=[list(test) for test in tests], timed=list(timed))


def of_mistakes(required: Sequence[str]) -> Content:
    """Return the mutants whose mistakes the cases of a phase must have been able to show."""
    return _content(required=sorted(required))


def of_error(text: str, *, side: str) -> Content:
    """Return evidence of an item that could not be run. ``side`` is ``subject`` or ``setup``."""
    return _content(error={"side": side, "text": text})


def missing(text: str) -> Content:
    """Return evidence of an item for which there is nothing to judge."""
    return _content(error={"side": "missing", "text": text})


def _content(**given: Any) -> Content:
    empty: Content = {
        "error": None,
        "values": None,
        "tests": None,
        "required": None,
        "blind_spots": None,
        "floor_runs": [],
        "timed": [],
    }
    return empty | given


def _row(finding: Finding) -> list[Any]:
    entry, alone = finding.entry, finding.isolated
    isolated = (None,) * 4 if alone is None else (alone.status, alone.figure, alone.gate, alone.ratio)
    cells = (
        *(entry.key.name, entry.key.call, entry.step, entry.group, entry.gate, finding.status, finding.rows),
        *(finding.rows_failed, finding.worst_row, finding.figure, finding.gate, finding.ratio, finding.mismatches),
        *(*isolated, finding.side, finding.note, finding.floor),
        *(min(finding.floor_runs, default=None), max(finding.floor_runs, default=None)),
    )
    return [None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in cells]


def row(cells: Sequence[Any]) -> dict[str, Any]:
    """Return a value's figures by name."""
    return dict(zip(COLUMNS, cells, strict=True))


def _finding(cells: Sequence[Any]) -> Finding:
    value = row(cells)
    entry = Entry(SeamKey(value["seam"], value["call"]), value["step"], value["group"], value["gate_kind"], (), "")
    alone = None
    if value["alone_status"] is not None:
        alone = Isolated(value["alone_status"], value["alone_figure"], value["alone_gate"], value["alone_ratio"], None)
    return Finding(
        entry,
        value["status"],
        value["note"],
        rows=value["rows"],
        rows_failed=value["rows_failed"],
        worst_row=value["worst_row"],
        figure=value["figure"],
        gate=value["gate"],
        floor=value["floor"],
        ratio=value["ratio"],
        mismatches=value["mismatches"],
        side=value["side"],
        isolated=alone,
        origin=STARTS_HERE if alone is not None and alone.status != "ok" else "",
    )


def verdict_of(item: Item, evidence: Mapping[str, Any], cases: Sequence[Mapping[str, Any]] = ()) -> Judgement:
    """Compute the verdict of an item from its raw figures. ``cases`` is the evidence of all cases of its phase."""
    error = evidence["error"]
    if error is not None and error["side"] == "setup":
        return _plain(Verdict.INVALID, f"it could not be run: {error['text']}")
    if error is not None and error["side"] == "missing":
        return _plain(Verdict.INCOMPLETE, error["text"])
    if evidence["values"]:
        findings = [_finding(cells) for cells in evidence["values"]]
        text = None if error is None else error["text"]
        return judge(findings, subject_error=text, loaded=error is None or error["side"] != "loading")
    if error is not None:
        return _plain(Verdict.DIVERGED, f"the subject failed: {error['text']}")
    if item.kind == MISTAKES:
        return _shown(evidence["required"] or [], cases)
    if item.kind == "check":
        return _tested(evidence["tests"] or [])
    return _plain(Verdict.INCOMPLETE, "nothing was compared")


def _tested(tests: Sequence[Sequence[Any]]) -> Judgement:
    named = [dict(zip(TESTS, test, strict=True)) for test in tests]
    for outcomes, verdict in ((BAD, Verdict.DIVERGED), (OPEN, Verdict.INCOMPLETE)):
        found = [test for test in named if test["outcome"] in outcomes]
        if found:
            first = found[0]
            note = f" ({first['note']})" if first["note"] else ""
            return _plain(
                verdict, f"{len(found)} of {len(named)} failed, first {first['name']}: {first['outcome']}{note}", named
            )
    if not named:
        return _plain(Verdict.INCOMPLETE, "no test was run")
    return _plain(Verdict.PARITY, f"all {len(named)} tests passed", named)


def _shown(required: Sequence[str], cases: Sequence[Mapping[str, Any]]) -> Judgement:
    known = [set(case["blind_spots"]) for case in cases if case["blind_spots"] is not None]
    unseen = [name for name in required if all(name in blind for blind in known)]
    if unseen:
        some = ", ".join(unseen[:5]) + (f" and {len(unseen) - 5} more" if len(unseen) > 5 else "")
        return _plain(
            Verdict.INCOMPLETE, f"the cases that ran could not have shown {len(unseen)} of {len(required)}: {some}"
        )
    if not required:
        return _plain(Verdict.INCOMPLETE, "no known mistake is named")
    return _plain(Verdict.PARITY, f"the cases could have shown all {len(required)} known mistakes")


def _plain(verdict: Verdict, reason: str, tests: Sequence[Any] = ()) -> Judgement:
    return Judgement(verdict, reason, None, len(tests), len(tests), 0)


def without_times(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Return evidence without the figures and notes of timed tests, which differ from run to run.

    Digests cover this. The outcome of a timed test stays, and must follow from its figure.
    """
    tests = evidence["tests"]
    if tests is None or not evidence["timed"]:
        return dict(evidence)
    kept = [cells if cells[0] not in evidence["timed"] else [*cells[:2], None, cells[3], ""] for cells in tests]
    return {**evidence, "tests": kept}


def worst(evidence: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the value, or the test of a check, that is nearest to its gate or furthest over it. Times are left out."""
    found: list[dict[str, Any]] = []
    for cells in evidence["values"] or []:
        value = row(cells)
        found.append({name: value[name] for name in ("figure", "gate", "ratio")} | _place(value, "accumulated"))
        alone = {name: value[f"alone_{name}"] for name in ("figure", "gate", "ratio")}
        found.append(alone | _place(value, "isolated"))
    for cells in without_times(evidence)["tests"] or []:
        test = dict(zip(TESTS, cells, strict=True))
        ratio = test["figure"] / test["gate"] if test["figure"] is not None and test["gate"] else None
        place = {"at": test["name"], "comparison": "check", "row": None}
        found.append({"figure": test["figure"], "gate": test["gate"], "ratio": ratio} | place)
    measured = [item for item in found if item["ratio"] is not None]
    return max(measured, key=lambda item: float(item["ratio"]), default=None)


def _place(value: Mapping[str, Any], comparison: str) -> dict[str, Any]:
    place = f"{value['seam']} ({value['step']})"
    return {"at": place, "comparison": comparison, "row": value["worst_row"] if comparison == "accumulated" else None}


def contradictions(evidence: Mapping[str, Any]) -> Iterator[str]:
    """Yield every figure that does not fit the status or outcome beside it, with its place."""
    for cells in evidence["values"] or []:
        value = row(cells)
        yield from (f"{value['seam']}[{value['call']}].{fault}" for fault in _value_faults(value))
    for cells in evidence["tests"] or []:
        test = dict(zip(TESTS, cells, strict=True))
        over = test["figure"] is not None and test["gate"] is not None and test["figure"] > test["gate"]
        if test["outcome"] in GOOD and (over or test["figure"] is None):
            yield f"{test['name']}.figure is {test['figure']} over a gate of {test['gate']}, but it {test['outcome']}"
        if test["outcome"] in BAD and test["figure"] is not None and not over:
            yield f"{test['name']}.outcome is {test['outcome']}, but its figure {test['figure']} is within the gate"
    names = [cells[0] for cells in evidence["tests"] or []]
    yield from (f"timed names {name!r}, of which there is no test" for name in evidence["timed"] if name not in names)
    if evidence["timed"] and not evidence["item"].startswith(TIMED_CHECK):
        yield f"timed names tests of {evidence['item']}; only {TIMED_CHECK} measures times"


def _value_faults(value: Mapping[str, Any]) -> Iterator[str]:
    kind, output = value["gate_kind"], value["group"] == "output"
    figure, gate, ratio = value["figure"], value["gate"], value["ratio"]
    alone_figure, alone_gate, alone_ratio = (value[f"alone_{name}"] for name in ("figure", "gate", "ratio"))
    if kind == "float":
        yield from _gate_faults(gate, value["floor"])
        yield from _floor_faults(value["floor"], value["nearest_run"], value["furthest_run"])
        yield from _ratio_faults("", figure, gate, ratio, output=output)
        yield from _ratio_faults("alone_", alone_figure, alone_gate, alone_ratio, output=output)
    over = _over(kind, figure, gate, ratio, value["mismatches"])
    over_alone = None
    if value["alone_status"] is not None:
        over_alone = _over(kind, alone_figure, alone_gate, alone_ratio, None)
    if value["alone_status"] == "ok" and over_alone:
        yield f"alone_status is ok, but alone_figure {alone_figure} is over alone_gate {alone_gate}"
    if value["alone_status"] == "diverged" and over_alone is False:
        yield f"alone_status is diverged, but alone_figure {alone_figure} is within alone_gate {alone_gate}"
    if value["status"] == "ok" and (over is not False or value["alone_status"] not in (None, "ok")):
        yield f"status is ok, but figure {figure} is over gate {gate}, or its part alone is not ok"
    if value["status"] == "diverged" and over is False and value["alone_status"] in (None, "ok"):
        yield f"status is diverged, but figure {figure} is within gate {gate}"


def _gate_faults(gate: float | None, floor: float | None) -> Iterator[str]:
    """A gate is m times the floor and one ulp of the dtype that the value was computed in."""
    if gate is None or floor is None:
        return
    gates = [DEFAULT_GATE.m * floor + DEFAULT_GATE.ulp_floor(dtype) for dtype in _DTYPES]
    if not any(math.isclose(gate, wanted) for wanted in gates):
        yield f"gate is {gate:.6g}, but {DEFAULT_GATE.m:g} x floor {floor:.6g} + 1 ulp is {gates[0]:.6g} in float32"


def _floor_faults(floor: float | None, nearest: float | None, furthest: float | None) -> Iterator[str]:
    """No row's floor is larger than the largest distance of the furthest correct run."""
    if nearest is None or furthest is None:
        return
    if not 0 <= nearest <= furthest:
        yield f"nearest_run is {nearest:.6g}, but furthest_run is {furthest:.6g}"
    if floor is not None and floor > furthest * (1 + _NARROWED):
        yield f"floor is {floor:.6g}, but the furthest correct run is {furthest:.6g} from the reference"


def _ratio_faults(
    which: str, figure: float | None, gate: float | None, ratio: float | None, *, output: bool
) -> Iterator[str]:
    """A ratio is figure over gate. That of logits may be larger: that of a changed likeliest token."""
    if figure is None or gate is None or ratio is None:
        return
    if not gate > 0:
        yield f"{which}gate is {gate:g}, a gate is larger than 0"
        return
    wanted = figure / gate
    if not (ratio >= wanted * (1 - _CLOSE) if output else math.isclose(ratio, wanted)):
        yield f"{which}ratio is {ratio:.6g}, but {which}figure {figure:.6g} over {which}gate {gate:.6g} is {wanted:.6g}"


def _over(kind: str, figure: float | None, gate: float | None, ratio: float | None, count: int | None) -> bool | None:
    """Whether a value is over its gate. None if nothing was measured."""
    if kind == "exact" and count is not None:
        return count > 0
    if ratio is not None:
        return ratio > 1
    if figure is None or gate is None:
        return None
    return figure > gate + (_STEP_ROUNDING if kind == "steps" else 0)


def discrete(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same when the item is run again, on any machine. Tests are compared by outcome."""
    places = [COLUMNS.index(name) for name in DISCRETE]
    return {
        "values": {f"{c[0]}[{c[1]}]": [c[place] for place in places] for c in evidence["values"] or []},
        "tests": {cells[0]: cells[1] for cells in evidence["tests"] or []},
        "required": evidence["required"],
        "blind_spots": evidence["blind_spots"],
        "error": None if evidence["error"] is None else evidence["error"]["side"],
    }


@cache
def validator(name: str = "record") -> jsonschema.Draft202012Validator:
    """Return the validator of the record, or of one piece of evidence (``evidence``)."""
    text = resources.files("parity.milestones").joinpath("record.schema.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    if name != "record":
        schema = {"$defs": schema["$defs"], "$ref": f"#/$defs/{name}"}
    return jsonschema.Draft202012Validator(schema)
