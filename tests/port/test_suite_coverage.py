"""The coverage gate: a file below its figure and a line without a reason are named."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from tests.port.suite_coverage import ACCEPTED, Covered, complaints

FOUND = [Covered("port/a.py", 90.0, ("raise ValueError()",)), Covered("port/b.py", 100.0, ())]


def accepted(figure: float = 90.0, *reasons: dict[str, Any]) -> dict[str, Any]:
    return {"files": {"port/a.py": figure, "port/b.py": 100.0}, "unreached": list(reasons)}


REASON = {"file": "port/a.py", "lines": ["raise ValueError()"], "reason": "never"}


def test_a_file_at_its_figure_with_reasons_is_accepted() -> None:
    assert complaints(FOUND, accepted(90.0, REASON)) == []


def test_a_file_below_its_figure_is_named() -> None:
    (said,) = complaints(FOUND, accepted(90.5, REASON))
    assert said == "port/a.py: 90.0 % is reached, 90.5 % are accepted"


def test_a_line_without_a_reason_and_a_file_without_a_figure_are_named() -> None:
    assert complaints(FOUND, accepted()) == ["port/a.py: not reached, and without a reason: raise ValueError()"]
    (said,) = complaints([Covered("port/c.py", 100.0, ())], accepted())
    assert "no figure" in said


def test_the_data_names_every_file_of_the_port_and_lines_that_exist() -> None:
    data = tomllib.loads(ACCEPTED.read_text(encoding="utf-8"))
    root = ACCEPTED.parents[2]
    assert set(data["files"]) == {f"port/{path.name}" for path in (root / "port").glob("*.py")}
    for entry in data["unreached"]:
        text = Path(root / entry["file"]).read_text(encoding="utf-8")
        assert entry["reason"]
        assert all(line in text for line in entry.get("lines", [])), entry
