"""What evidence is worth stands in the record, and follows from the evidence and the calibration that is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parity.milestones.plan import Milestones
from parity.milestones.records import evidence, verify
from parity.milestones.records.evidence import validator
from parity.milestones.records.power import ELSEWHERE, power
from parity.milestones.records.record import record_digest, seals
from parity.milestones.records.verify import Record
from tests.parity.milestones.samples import PLAN, TODAY, plan, record, with_contents

KILLED = evidence.of_tests(
    [
        ("a", "caught", 0, 0, ""),
        ("b", "caught", 0, 0, f"{ELSEWHERE}logits (prefill)"),
        ("c", "invisible", 0, 0, ""),
        ("d", "survived", 1, 0, ""),
    ]
)
CHECK = 'kill-matrix", cases = ["text"], mutants = ["final-norm-skipped"'
NAME = "kill-matrix:final-norm-skipped"


@pytest.fixture
def milestones(tmp_path: Path) -> Milestones:
    return plan(tmp_path, PLAN.replace('{ name = "relations", examples = 2 }', f'{{ name = "{CHECK}] }}'))


def signed_off(milestones: Milestones) -> dict[str, Any]:
    return record(milestones, with_contents({NAME: KILLED}))


def test_mistakes_are_counted_by_what_became_of_them(milestones: Milestones) -> None:
    found = signed_off(milestones)["predicate"]["signoff"]["power"]
    assert found["known_mistakes"] == {"planted": 4, "caught": 2, "at_their_seam": 1, "invisible": 1}


def test_the_calibration_of_each_dtype_of_the_cases_is_named() -> None:
    cases = {
        f"case:{at}": {"key": {"dtype": dtype}, "values": None}
        for at, dtype in enumerate(("bfloat16", "float32", "float32"))
    }
    found = power(cases)["correct_runs"]
    assert [one["dtype"] for one in found] == ["bfloat16", "float32"]
    assert all(one["false_alarms"] == 0 and 0 < one["largest_need"] < 1 and one["runs"] > 100 for one in found)
    assert power({"case:other": {"key": {"dtype": "float8"}, "values": None}})["correct_runs"] == []


def test_how_far_the_correct_runs_are_apart_is_named(milestones: Milestones) -> None:
    found = signed_off(milestones)["predicate"]["signoff"]["power"]["floors"]
    values = sum(
        len(found["values"])
        for found in signed_off(milestones)["predicate"]["signoff"]["evidence"].values()
        if found["values"]
    )
    assert found == {"fewest_runs": 2, "most_runs": 2, "values": values, "typical_spread": 4.0, "largest_spread": 4.0}
    assert power({})["floors"] is None


@pytest.mark.parametrize(
    "edit",
    [
        lambda part: part["power"]["known_mistakes"].update(caught=4),
        lambda part: part["power"]["correct_runs"][0].update(largest_need=0.1),
        lambda part: part["power"]["correct_runs"].clear(),
        lambda part: part["power"]["floors"].update(most_runs=9),
        lambda part: part["power"].update(floors=None),
    ],
)
def test_figures_that_do_not_follow_are_refused(edit: Any, milestones: Milestones) -> None:
    statement = signed_off(milestones)
    validator().validate(statement)
    part = statement["predicate"]["signoff"]
    faults = lambda: list(verify.contradicted(Record(Path("x"), statement), milestones, today=TODAY))  # noqa: E731
    assert faults() == []
    edit(part)
    part["seals"], part["digest"] = seals(part), record_digest(statement)
    assert any(fault.startswith("power is") for fault in faults())
