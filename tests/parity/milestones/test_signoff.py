"""Verdicts of milestones: what is signed off, and what is refused, incomplete or invalid."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from parity.core.errors import ParityError
from parity.milestones.records import evidence
from parity.milestones.records.evidence import Content
from parity.milestones.records.record import verdicts
from parity.milestones.signoff import MilestoneVerdict, SignOff, total, total_label
from port import PortError
from tests.parity.milestones.samples import PLAN, TODAY, WAIVER, case_content, collected, finding, plan, with_contents

PHOTO, TEXT = "case:photo:float32", "case:text:float32"
FAILING = case_content(figure=9e-7)


def judged(folder: Path, contents: dict[str, Any], *, text: str = PLAN, today: date = TODAY) -> list[MilestoneVerdict]:
    milestones = plan(folder, text)
    found = collected(milestones, with_contents(contents))
    return verdicts(milestones, [], found.evidence, today=today)


def test_everything_passes(tmp_path: Path) -> None:
    found = judged(tmp_path, {})
    assert [milestone.verdict for milestone in found] == [SignOff.SIGNED_OFF] * 2
    assert found[0].reason == "all 4 required items passed"
    assert total(found, of=2) == (SignOff.SIGNED_OFF, "2 of 2 milestones signed off")


def test_a_failing_case_refuses_its_milestones_alone(tmp_path: Path) -> None:
    found = judged(tmp_path, {PHOTO: FAILING})
    assert [milestone.verdict for milestone in found] == [SignOff.REFUSED, SignOff.SIGNED_OFF]
    assert found[0].reason.startswith(f"{PHOTO}: first divergence at text.norm (prefill): token 3 is at 2.25 times")
    worst, reason = total(found, of=5)
    assert worst is SignOff.REFUSED
    assert reason.startswith("1 of 2 milestones refused (the file has 5); phase 1: case:photo")


def test_a_part_that_fails_alone_is_a_failure(tmp_path: Path) -> None:
    found = judged(tmp_path, {PHOTO: case_content(alone=3e-7)})
    assert found[0].verdict is SignOff.REFUSED
    assert "in the isolated comparison" in found[0].reason


@pytest.mark.parametrize(
    ("raised", "verdict", "said"),
    [
        (PortError("odd weights"), SignOff.REFUSED, "the subject failed: PortError: odd weights"),
        (KeyError("x"), SignOff.REFUSED, "the subject failed: KeyError: 'x'"),
        (ZeroDivisionError("by zero"), SignOff.REFUSED, "ZeroDivisionError"),
        (ParityError("no such seam"), SignOff.INVALID, "it could not be run: ParityError: no such seam"),
        (OSError(28, "No space left on device"), SignOff.INVALID, "No space left"),
        (MemoryError(), SignOff.INVALID, "MemoryError"),
    ],
)
def test_a_case_that_raises_is_its_own_failure(raised: Exception, verdict: SignOff, said: str, tmp_path: Path) -> None:
    found = judged(tmp_path, {PHOTO: raised})
    assert [milestone.verdict for milestone in found] == [verdict, SignOff.SIGNED_OFF]
    assert said in found[0].reason
    others = [item for item in found[0].items if item.item.id in (TEXT, "relations")]
    assert [item.judgement.verdict.name for item in others] == ["PARITY", "PARITY"]


@pytest.mark.parametrize(
    "content",
    [evidence.missing("there is no trace"), case_content() | {"values": []}, case_content() | {"values": None}],
)
def test_a_case_without_figures_is_missing(content: Content, tmp_path: Path) -> None:
    found = judged(tmp_path, {PHOTO: content})
    assert [milestone.verdict for milestone in found] == [SignOff.INCOMPLETE, SignOff.SIGNED_OFF]
    assert PHOTO in found[0].reason


def test_a_case_without_evidence_is_missing(tmp_path: Path) -> None:
    milestones = plan(tmp_path)
    found = collected(milestones, with_contents({})).evidence
    del found[PHOTO]
    first, second = verdicts(milestones, [], found, today=TODAY)
    assert first.verdict is SignOff.INCOMPLETE
    assert first.reason.startswith(f"{PHOTO}: it was not run")
    assert second.verdict is SignOff.SIGNED_OFF


def test_a_port_that_cannot_load_says_so(tmp_path: Path) -> None:
    expected = [replace(finding("text.norm"), status="missing", ratio=None, figure=None, isolated=None)]
    for loaded, said in ((False, "first divergence at loading: no tensor"), (True, "the subject failed: no tensor")):
        content = evidence.of_findings(expected, error="no tensor", loaded=loaded, blind_spots=None, floor_runs=["a"])
        first = judged(tmp_path, {PHOTO: content})[0]
        assert first.verdict is SignOff.REFUSED
        assert first.reason == f"{PHOTO}: {said}"


def test_a_check_that_breaks_or_shows_nothing(tmp_path: Path) -> None:
    broken = evidence.of_tests([("a", "kept", 0.0, 1e-10, ""), ("b", "broken", 1e-3, 1e-10, "example 4")])
    assert judged(tmp_path, {"relations": broken})[0].reason == "relations: 1 of 2 failed, first b: broken (example 4)"
    unseen = evidence.of_tests([("a", "caught", 0, 0, ""), ("b", "not exposed", None, 0, "")])
    assert judged(tmp_path, {"relations": unseen})[0].verdict is SignOff.INCOMPLETE
    assert judged(tmp_path, {"relations": evidence.of_tests([])})[0].verdict is SignOff.INCOMPLETE


def test_evidence_that_could_not_have_shown_a_known_mistake_is_incomplete(tmp_path: Path) -> None:
    blind = case_content(blind=("patch-kernel-channels-last",))
    found = judged(tmp_path, {TEXT: blind, PHOTO: blind})
    assert found[0].verdict is SignOff.INCOMPLETE
    assert "could not have shown 1 of 2: patch-kernel-channels-last" in found[0].reason


def test_a_failure_outweighs_what_is_missing(tmp_path: Path) -> None:
    found = judged(tmp_path, {TEXT: evidence.missing("gone"), PHOTO: FAILING, "relations": ParityError("x")})
    assert [milestone.verdict for milestone in found] == [SignOff.REFUSED, SignOff.INCOMPLETE]
    assert total(found, of=2)[0] is SignOff.REFUSED
    found = judged(tmp_path, {TEXT: evidence.missing("gone"), "relations": ParityError("x")})
    assert total(found, of=2)[0] is SignOff.INVALID


def test_a_waiver_covers_a_failure_until_its_day(tmp_path: Path) -> None:
    text = PLAN + WAIVER
    for today in (TODAY, date(2027, 1, 31)):
        found = judged(tmp_path, {PHOTO: FAILING}, text=text, today=today)
        assert found[0].label == "SIGNED OFF with 1 waiver"
        assert found[0].reason == f"3 of 4 required items passed; waived: {PHOTO}"
        assert total_label(found, total(found, of=2)[0]) == "SIGNED OFF with 1 waiver"
    expired = judged(tmp_path, {PHOTO: FAILING}, text=text, today=date(2027, 2, 1))
    assert expired[0].verdict is SignOff.REFUSED
    assert "its waiver expired on 2027-01-31" in expired[0].reason
    assert expired[1].verdict is SignOff.SIGNED_OFF


def test_a_waiver_that_is_not_needed_is_an_error(tmp_path: Path) -> None:
    found = judged(tmp_path, {}, text=PLAN + WAIVER)
    assert found[0].verdict is SignOff.INVALID
    assert found[0].reason == f"{PHOTO}: its waiver is no longer needed, as it passes; remove the waiver"


def test_a_waiver_does_not_cover_what_was_not_run(tmp_path: Path) -> None:
    found = judged(tmp_path, {PHOTO: evidence.missing("gone")}, text=PLAN + WAIVER)
    assert found[0].verdict is SignOff.INCOMPLETE
    assert found[0].reason.startswith(f"{PHOTO}: gone")
