"""Does a document agree with itself? Contradictions are refused; no verdict is computed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

EXIT_CODES = {"PARITY": 0, "DIVERGED": 1, "INVALID": 2, "INCOMPLETE": 3}

#: Statuses that no PARITY may stand above. "unexpected" and "not_compared" are left to the producer.
FAILING = ("diverged", "missing", "shape_mismatch", "nonfinite")


def contradictions(document: Mapping[str, Any]) -> Iterator[str]:
    """Every contradiction in a document that already has the right shape, each with its JSON path."""
    yield from _exit_code(document["verdict"], value=document["verdict"]["value"], path="$.verdict")
    if document["kind"] == "run":
        yield from _findings(document)
        for number, picture in enumerate(document["pictures"]):
            yield from _grid(picture, path=f"$.pictures[{number}]")
        count = len(document["case"]["rows"])
        for number, piece in enumerate(document["case"]["generated"]):
            if piece["row"] >= count:
                yield (
                    f"$.case.generated[{number}].row is {piece['row']}, "
                    f"expected a row of $.case.rows, which has {count}"
                )
    else:
        yield from _suite(document)


def _exit_code(holder: Mapping[str, Any], *, value: str, path: str) -> Iterator[str]:
    expected = EXIT_CODES[value]
    if holder["exit_code"] != expected:
        yield f"{path}.exit_code is {holder['exit_code']}, expected {expected}, the exit code of {value}"


def _findings(document: Mapping[str, Any]) -> Iterator[str]:
    findings, verdict = document["findings"], document["verdict"]
    for number, finding in enumerate(findings):
        if finding["index"] != number:
            yield f"$.findings[{number}].index is {finding['index']}, expected {number}, its place in the list"
        if verdict["value"] == "PARITY" and finding["status"] in FAILING:
            yield (
                f"$.findings[{number}].status is {finding['status']!r} ({finding['seam']}) under the verdict PARITY, "
                "expected 'ok', or another verdict"
            )
    first = verdict["first_divergence"]
    if first is None:
        return
    if first >= len(findings):
        yield (
            f"$.verdict.first_divergence is {first}, expected an index into $.findings, "
            f"which has {len(findings)} (0 to {len(findings) - 1}), or null"
        )
    elif findings[first]["status"] == "ok":
        yield (
            f"$.verdict.first_divergence is {first}, but $.findings[{first}] ({findings[first]['seam']}) is 'ok', "
            "expected the index of a finding that is not ok, or null"
        )


def _grid(picture: Mapping[str, Any], *, path: str) -> Iterator[str]:
    high, wide = picture["grid"]
    if len(picture["errors"]) != high:
        yield f"{path}.errors has {len(picture['errors'])} rows, expected {high}, the first number of the grid"
    for number, row in enumerate(picture["errors"]):
        if len(row) != wide:
            yield f"{path}.errors[{number}] has {len(row)} values, expected {wide}, the second number of the grid"
            return


def _suite(document: Mapping[str, Any]) -> Iterator[str]:
    known: list[int] = []
    for number, phase in enumerate(document["phases"]):
        if phase["phase"] in known:
            yield f"$.phases[{number}].phase is {phase['phase']} a second time, expected each phase once"
        known.append(phase["phase"])
    for number, case in enumerate(document["cases"]):
        yield from _exit_code(case, value=case["verdict"], path=f"$.cases[{number}]")
        if case["phase"] not in known:
            yield f"$.cases[{number}].phase is {case['phase']}, expected one of $.phases: {known}"
        if document["verdict"]["value"] == "PARITY" and case["verdict"] != "PARITY":
            yield (
                f"$.cases[{number}].verdict is {case['verdict']} ({case['name']}) under the suite's verdict PARITY, "
                "expected PARITY, or another verdict of the suite"
            )
