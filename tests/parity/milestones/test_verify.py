"""Records: run twice, the digest is the same; a record in which anything was changed is refused, and says what."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from parity.core.errors import ParityError
from parity.milestones.collect import evidence_digest
from parity.milestones.plan import Milestones
from parity.milestones.records import verify
from parity.milestones.records.evidence import COLUMNS, validator
from parity.milestones.records.record import dump, evidence_seals, record_digest, seals
from parity.milestones.records.verify import Record, read_record
from tests.parity.milestones.samples import PLAN, TODAY, WAIVER, Stub, case_content, plan, record, with_contents

PHOTO = "case:photo:float32"
Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def milestones(tmp_path: Path) -> Milestones:
    return plan(tmp_path)


@pytest.fixture
def statement(milestones: Milestones) -> dict[str, Any]:
    return record(milestones)


def signed(statement: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = statement["predicate"]["signoff"]
    return found


def changed(statement: dict[str, Any]) -> list[str]:
    return list(verify.changed(Record(Path("signoff.json"), statement)))


def contradicted(statement: dict[str, Any], milestones: Milestones, today: date = TODAY) -> list[str]:
    return list(verify.contradicted(Record(Path("signoff.json"), statement), milestones, today=today))


def forge(statement: dict[str, Any]) -> None:
    """Make all digests again, as a careful forger would."""
    part = signed(statement)
    for evidence in part["evidence"].values():
        content = {name: value for name, value in evidence.items() if name not in ("digest", "seals")}
        evidence["digest"] = evidence_digest(content)
        evidence["seals"] = evidence_seals(evidence)
    for milestone in part["milestones"]:
        for item in milestone["items"]:
            if item["id"] in part["evidence"]:
                item["evidence"] = part["evidence"][item["id"]]["digest"]
    part["seals"] = seals(part)
    part["digest"] = record_digest(statement)


def test_a_record_is_a_statement_of_in_toto(statement: dict[str, Any], tmp_path: Path) -> None:
    validator().validate(statement)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicate"]["result"] == "PASSED"
    assert statement["predicate"]["passedTests"][0] == "phase 1: case:text:float32"
    assert statement["subject"] == [{"name": "port", "digest": {"sha256": "c" * 64, "gitCommit": "f" * 40}}]
    path = tmp_path / "signoff.json"
    path.write_bytes(dump(statement))
    assert read_record(path).statement == statement


def test_a_sound_record_holds(statement: dict[str, Any], milestones: Milestones) -> None:
    assert changed(statement) == []
    assert contradicted(statement, milestones) == []


def test_two_runs_have_the_same_digest_whenever_they_ran(milestones: Milestones) -> None:
    first, second = record(milestones), record(milestones, created="2027-01-11T12:00:00+00:00")
    assert first != second
    assert signed(first)["digest"] == signed(second)["digest"]
    other = record(milestones, with_contents({PHOTO: case_content(figure=1.1e-7)}))
    assert signed(other)["digest"] != signed(first)["digest"]


def test_uncommitted_changes_are_in_the_record(statement: dict[str, Any]) -> None:
    assert signed(statement)["subject"]["clean"] is False
    assert signed(statement)["subject"]["changes"] == [" M port/text.py"]


@pytest.mark.parametrize("column", [name for name in COLUMNS if name not in ("call", "step")])
def test_one_changed_figure_is_named(column: str, statement: dict[str, Any]) -> None:
    cells = signed(statement)["evidence"][PHOTO]["values"][1]
    at = COLUMNS.index(column)
    cells[at] = "other" if isinstance(cells[at], str) else 1.25e-7
    place = "other[0]" if column == "seam" else "text.norm[0]"
    assert f"evidence of {PHOTO}: {column} of {place} (prefill) was changed" in changed(statement)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda part: part["verdict"].update(label="SIGNED OFF at last"), "verdict was changed"),
        (lambda part: part["subject"].update(clean=True), "subject was changed"),
        (lambda part: part["versions"].update(torch="9"), "versions was changed"),
        (lambda part: part["milestones"][0].update(reason="trust me"), "milestone 1: reason was changed"),
        (lambda part: part["milestones"][1]["items"].clear(), "milestone 2: items was changed"),
        (lambda part: part["evidence"].pop(PHOTO), f"evidence {PHOTO} was removed"),
        (lambda part: part["evidence"][PHOTO]["values"].pop(), f"evidence of {PHOTO}: it has 2 values"),
        (lambda part: part["evidence"][PHOTO]["floor_runs"].pop(), f"evidence of {PHOTO}: floor_runs was changed"),
        (lambda part: part["evidence"]["relations"]["tests"][0].__setitem__(2, 0.0), "figure of rows-are-alone was"),
    ],
)
def test_any_other_change_is_named(edit: Edit, said: str, statement: dict[str, Any]) -> None:
    edit(signed(statement))
    assert any(said in fault for fault in changed(statement)), changed(statement)


def test_a_change_outside_the_sign_off_breaks_the_digest(statement: dict[str, Any]) -> None:
    statement["subject"][0]["name"] = "another port"
    assert [fault.split(":")[0] for fault in changed(statement)] == ["digest"]


def set_cell(seam: int, **cells: Any) -> Edit:
    def edit(part: dict[str, Any]) -> None:
        for name, value in cells.items():
            part["evidence"][PHOTO]["values"][seam][COLUMNS.index(name)] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (set_cell(1, figure=9e-7), "text.norm[0].ratio is 0.25, but figure 9e-07 over gate 4e-07 is 2.25"),
        (set_cell(1, figure=9e-7, ratio=2.25), "status is ok, but figure 9e-07 is over gate 4e-07"),
        (set_cell(1, alone_figure=9e-7, alone_ratio=9.0), "alone_status is ok, but alone_figure"),
        (set_cell(1, furthest_run=1e-9, nearest_run=1e-9), "but the furthest correct run is 1e-09 from the reference"),
        (set_cell(1, nearest_run=9e-7), "nearest_run is 9e-07, but furthest_run is"),
        (set_cell(1, gate=8e-7, ratio=0.125), "text.norm[0].gate is 8e-07, but 6 x floor"),
        (lambda part: part["evidence"][PHOTO]["key"].update(code="d" * 64), f"evidence of {PHOTO}: key.code is ddd"),
        (lambda part: part["subject"].update(engine="another"), "subject is [{'name': 'port'"),
        (lambda part: part["checkpoints"].clear(), "predicate.configuration is"),
        (set_cell(1, gate=0.0), "gate is 0, a gate is larger than 0"),
        (set_cell(1, status="diverged"), "status is diverged, but figure 1e-07 is within gate"),
        (set_cell(1, status="missing"), f"phase 1, {PHOTO}: verdict is 'PARITY', from the figures it is 'INCOMPLETE'"),
        (lambda part: part["evidence"].pop(PHOTO), f"phase 1, {PHOTO}: verdict is 'PARITY'"),
        (lambda part: part["milestones"][0]["items"].pop(1), f"phase 1: {PHOTO} is required and missing"),
        (lambda part: part["milestones"].pop(1), "verdict.reason is '2 of 2 milestones signed off'"),
        (lambda part: part["milestones"][0].update(phase=9), "phase 9 is not in"),
        (lambda part: part["evidence"][PHOTO].update(values=[]), "from the figures it is 'INCOMPLETE'"),
        (
            lambda part: part["evidence"]["relations"]["tests"][0].__setitem__(2, 1.0),
            "rows-are-alone.figure is 1.0 over a gate of 1e-10, but it kept",
        ),
        (
            lambda part: part["evidence"]["case:text:float32"].update(blind_spots=["final-norm-skipped"]),
            "mistakes:1",
        ),
    ],
)
def test_new_digests_do_not_help_if_the_figures_say_otherwise(
    edit: Edit, said: str, statement: dict[str, Any], milestones: Milestones
) -> None:
    if said == "mistakes:1":  # the photo must be blind to it as well
        signed(statement)["evidence"][PHOTO]["blind_spots"] = ["final-norm-skipped"]
    edit(signed(statement))
    forge(statement)
    assert changed(statement) == []
    faults = contradicted(statement, milestones)
    assert any(said in fault for fault in faults), faults


def test_the_verdict_of_a_failing_record_cannot_be_turned(milestones: Milestones) -> None:
    failing = record(milestones, with_contents({PHOTO: case_content(figure=9e-7)}))
    assert contradicted(failing, milestones) == []
    turned = copy.deepcopy(failing)
    signed(turned)["verdict"].update(value="SIGNED OFF", label="SIGNED OFF", exit_code=0)
    turned["predicate"]["result"] = "PASSED"
    forge(turned)
    faults = contradicted(turned, milestones)
    assert "verdict.value is 'SIGNED OFF', from the figures it is 'REFUSED'" in faults
    assert "predicate.result is 'PASSED', from the figures it is 'FAILED'" in faults


def test_a_record_does_not_outlive_its_waiver(tmp_path: Path) -> None:
    milestones = plan(tmp_path, PLAN + WAIVER)
    waived = record(milestones, with_contents({PHOTO: case_content(figure=9e-7)}))
    assert signed(waived)["verdict"]["label"] == "SIGNED OFF with 1 waiver"
    assert waived["predicate"]["result"] == "WARNED"
    assert contradicted(waived, milestones) == []
    assert any("expired" in fault for fault in contradicted(waived, milestones, date(2027, 2, 1)))


def test_another_milestones_file_and_other_code_are_named(
    statement: dict[str, Any], milestones: Milestones, tmp_path: Path
) -> None:
    held = Record(Path("signoff.json"), statement)
    (tmp_path / "code").mkdir()
    assert [fault.split(":")[0] for fault in verify.foreign(held, milestones, tmp_path / "code")] == ["code"]
    other = plan(tmp_path, PLAN.replace("examples = 2", "examples = 1"))
    assert [fault.split(":")[0] for fault in verify.foreign(held, other, tmp_path / "code")] == ["milestones", "code"]


def test_running_again_compares_verdicts_and_discrete_figures(
    statement: dict[str, Any], milestones: Milestones
) -> None:
    held = signed(statement)["evidence"][PHOTO]
    item = milestones.phases[0].items[1]
    assert list(verify.run_again(item, Stub(), held)) == []
    # Another machine gives other last digits, and that is no difference.
    assert list(verify.run_again(item, with_contents({PHOTO: case_content(figure=1.3e-7)}), held)) == []
    other = list(verify.run_again(item, with_contents({PHOTO: case_content(figure=9e-7)}), held))
    assert other[0] == f"{PHOTO}: the verdict is PARITY in the record, DIVERGED again"
    assert "text.norm[0]" in other[1]
    raised = list(verify.run_again(item, with_contents({PHOTO: KeyError("x")}), held))
    assert raised[0].endswith("PARITY in the record, DIVERGED again")


def test_the_seed_decides_what_is_run_again(statement: dict[str, Any], milestones: Milestones) -> None:
    held = Record(Path("signoff.json"), statement)
    chosen = [[item.id for item in verify.chosen_again(held, milestones, 2, seed)] for seed in range(20)]
    assert chosen[0] == [item.id for item in verify.chosen_again(held, milestones, 2, 0)]
    assert {name for names in chosen for name in names} == {"case:text:float32", PHOTO, "relations"}
    assert len(verify.chosen_again(held, milestones, 99, 0)) == 3


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"_type": "x"}', "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass")]
)
def test_what_is_no_record_is_refused(text: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "signoff.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParityError, match=r"signoff\.json"):
        read_record(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"text.norm",0', '"text.norm",-1'), ("1e-07", "1e999"), ("1e-07", "1" + "0" * 400), ('"seed":0', '"seed":1e999')],
)
def test_numbers_that_no_run_gives_are_refused(old: str, new: str, statement: dict[str, Any], tmp_path: Path) -> None:
    path, text = tmp_path / "signoff.json", dump(statement).decode("ascii")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ParityError, match=r"signoff\.json"):
        read_record(path)


def test_a_row_of_the_wrong_length_is_refused(statement: dict[str, Any], tmp_path: Path) -> None:
    signed(statement)["evidence"][PHOTO]["values"][0].pop()
    path = tmp_path / "signoff.json"
    path.write_text(json.dumps(statement), encoding="utf-8")
    with pytest.raises(ParityError, match=r"values\[0\]"):
        read_record(path)
