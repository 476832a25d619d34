"""Does a document agree with itself? The checks that several kinds share. No verdict is computed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

EXIT_CODES = {"PARITY": 0, "DIVERGED": 1, "INVALID": 2, "INCOMPLETE": 3}

#: Statuses that a document with the verdict PARITY may not contain. "unexpected" and "not_compared" are left to the
#: producer.
FAILING = ("diverged", "missing", "shape_mismatch", "nonfinite")


def exit_code(holder: Mapping[str, Any], *, value: str, path: str) -> Iterator[str]:
    """The exit code is that of the verdict."""
    expected = EXIT_CODES[value]
    if holder["exit_code"] != expected:
        yield f"{path}.exit_code is {holder['exit_code']}, expected {expected}, the exit code of {value}"


def verdict(document: Mapping[str, Any]) -> Iterator[str]:
    """The exit code in ``verdict`` is that of its value."""
    yield from exit_code(document["verdict"], value=document["verdict"]["value"], path="$.verdict")


def judged_findings(document: Mapping[str, Any]) -> Iterator[str]:
    """The findings are numbered, and the verdict fits them."""
    yield from verdict(document)
    findings, judged = document["findings"], document["verdict"]
    for number, finding in enumerate(findings):
        if finding["index"] != number:
            yield f"$.findings[{number}].index is {finding['index']}, expected {number}, its place in the list"
        if judged["value"] == "PARITY" and finding["status"] in FAILING:
            yield (
                f"$.findings[{number}].status is {finding['status']!r} ({finding['seam']}) under the verdict PARITY, "
                "expected 'ok', or another verdict"
            )
        alone = finding["isolated"]["status"] if finding["isolated"] else None
        if finding["side"] is not None and "nonfinite" not in (finding["status"], alone):
            yield (
                f"$.findings[{number}].side is {finding['side']!r} where the status is {finding['status']!r}, "
                "expected null, or the status 'nonfinite'"
            )
    first = judged["first_divergence"]
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


def unique(names: Sequence[str], *, path: str, field: str) -> Iterator[str]:
    """Each name appears only once in a list."""
    for number, name in enumerate(names):
        if name in names[:number]:
            yield f"{path}[{number}].{field} is {name!r} a second time, expected each name once"


def equal(found: object, expected: object, *, path: str, why: str) -> Iterator[str]:
    """A value is the one that follows from the rest of the document; floats may differ by rounding."""
    same = found == expected
    if isinstance(found, float) and isinstance(expected, float):
        same = abs(found - expected) <= 1e-6
    if not same:
        yield f"{path} is {found!r}, expected {expected!r}, {why}"


def grids(pictures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield every picture whose errors do not have the shape of its grid."""
    for number, picture in enumerate(pictures):
        yield from _grid(picture, path=f"$.pictures[{number}]")


def _grid(picture: Mapping[str, Any], *, path: str) -> Iterator[str]:
    high, wide = picture["grid"]
    if len(picture["errors"]) != high:
        yield f"{path}.errors has {len(picture['errors'])} rows, expected {high}, the first number of the grid"
    for number, row in enumerate(picture["errors"]):
        if len(row) != wide:
            yield f"{path}.errors[{number}] has {len(row)} values, expected {wide}, the second number of the grid"
            return
