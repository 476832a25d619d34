"""The worst value of each seam over all evidence of a sign-off, and the tests of its checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from parity.milestones.records import evidence as figures

Value = Mapping[str, Any]


def seam_margins(evidence: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one line for each seam, in the order of the computation: its worst value over all items and steps.

    A value that is not ok is worse than any that is; among equals the larger ratio is worse, accumulated or isolated.
    """
    found: dict[str, list[tuple[str, Value]]] = {}
    for item, value in _values(evidence):
        found.setdefault(value["seam"], []).append((item, value))
    return [_line(values) for values in found.values()]


def _values(evidence: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Value]]:
    for item, content in evidence.items():
        for cells in content["values"] or []:
            yield item, figures.row(cells)


def _line(values: Iterable[tuple[str, Value]]) -> dict[str, Any]:
    every = list(values)
    failing = [(item, value) for item, value in every if value["status"] != "ok"]
    item, worst = max(failing or every, key=lambda pair: _nearest(pair[1])[0] or 0.0)
    ratio, comparison = _nearest(worst)
    prefix = "alone_" if comparison == "isolated" else ""
    figure = worst[f"{prefix}figure"]
    return {
        "seam": worst["seam"],
        "group": worst["group"],
        "gate_kind": worst["gate_kind"],
        "status": worst["status"],
        "ratio": ratio,
        "figure": figure if figure is not None else worst["mismatches"],
        "gate": worst[f"{prefix}gate"],
        "comparison": comparison,
        "step": worst["step"],
        "item": item,
        "values": len(every),
        "failed": len(failing),
        "starts_here": sum(value["alone_status"] not in (None, "ok") for _, value in failing),
    }


def _nearest(value: Value) -> tuple[float | None, str]:
    """The larger of the two ratios of a value, and the comparison that it is of."""
    own, alone = value["ratio"], value["alone_ratio"]
    if alone is not None and (own is None or alone > own):
        return alone, "isolated"
    return own, "accumulated"


def check_tests(evidence: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return every test of every check, with the item that it belongs to."""
    found = [
        {"item": item, **dict(zip(figures.TESTS, cells, strict=True))}
        for item, content in evidence.items()
        for cells in content["tests"] or []
    ]
    return [{**test, "passed": test["outcome"] in figures.GOOD} for test in found]
