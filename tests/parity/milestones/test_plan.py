"""Milestones files: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.cases.standard import standard_suite
from parity.core.errors import ParityError
from parity.milestones.plan import STANDARD, read_milestones, requires_less, standard
from tests.parity.milestones.samples import PLAN, WAIVER, plan

HEAD = PLAN.partition("[[phase]]")[0]


def test_the_standard_requires_every_case_of_the_suite_in_its_phase() -> None:
    required = {phase.number: {item.name for item in phase.cases} for phase in standard().phases}
    absent = [case.name for case in standard_suite() if case.name not in required[case.phase]]
    assert not absent
    assert list(required) == [1, 2, 3, 4, 5]


def test_the_standard_names_the_commits_of_the_integration() -> None:
    assert [phase.commit for phase in standard().phases] == ["530463af1", None, "c3d69e0e4", "bde5f3e67", None]


def test_the_standard_requires_all_of_itself() -> None:
    assert [requires_less(phase) for phase in standard().phases] == [""] * 5


def test_a_phase_that_requires_less_than_the_standard_says_so(tmp_path: Path) -> None:
    text = STANDARD.read_text(encoding="utf-8")
    lessened = text.replace('"text", "photo", "portrait", ', "").replace("examples = 20", "examples = 19")
    phases = plan(tmp_path, lessened).phases
    cases = len(standard().phases[0].cases)
    assert requires_less(phases[0]) == f"requires {cases - 3} of the standard's {cases} cases"
    assert requires_less(phases[4]) == "requires 2 of the standard's 3 checks"
    assert not requires_less(phases[2])


def test_an_item_has_a_name_for_waivers(tmp_path: Path) -> None:
    ids = [item.id for item in plan(tmp_path).phases[0].items]
    assert ids == ["case:text:float32", "case:photo:float32", "relations", "mistakes:1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = ", "is not TOML"),
        ("\x00", "is not TOML"),
        (PLAN.replace('"1.0"', '"2.0"'), "'1.0' was expected"),
        (PLAN + 'colour = "red"', "'colour' was unexpected"),
        (PLAN.replace('"run"', '"trust"'), "$.subject"),
        (PLAN.replace("number = 2", "number = 1"), "has phase 1 twice"),
        (HEAD + '[[phase]]\nnumber = 1\ntitle = "x"\n', "phase 1 requires nothing"),
        (PLAN.replace('"text", "photo"', '"text", "text"'), "non-unique"),
        (PLAN.replace("examples = 2", "examples = 0"), "$.phase[0].checks[0]"),
        (PLAN.replace('"relations"', '"vibes"'), "$.phase[0].checks[0]"),
        (PLAN + WAIVER.replace(":float32", ":bfloat16"), "which that phase does not require"),
        (PLAN + WAIVER.replace("phase = 1", "phase = 7"), "there is no such phase"),
        (PLAN + WAIVER + WAIVER, "waives case:photo:float32 of phase 1 twice"),
        (PLAN + WAIVER.replace("2027-01-31", '"2027-02-31"'), "which is not a day"),
        (PLAN + WAIVER.replace("https://example.org/1", "see above"), "$.waiver[0].link"),
        (PLAN + WAIVER.replace('reason = "the resize is another one"', ""), "'reason' is a required property"),
    ],
)
def test_a_file_that_is_wrong_is_refused(text: str, said: str, tmp_path: Path) -> None:
    plan(tmp_path, PLAN + WAIVER)  # without the fault it is read
    with pytest.raises(ParityError) as refused:
        plan(tmp_path, text)
    assert said in str(refused.value)
    assert "milestones.toml" in str(refused.value)


def test_a_port_that_hands_in_traces_cannot_promise_checks_of_the_port(tmp_path: Path) -> None:
    example = (STANDARD.parent / "example-rust.toml").read_text(encoding="utf-8")
    plan(tmp_path, example)
    with pytest.raises(ParityError, match=r"phase 4 requires relations, which runs the port"):
        plan(tmp_path, example.replace("\n# A known", '\nchecks = [{ name = "relations", examples = 1 }]\n# A known'))


def test_a_large_or_missing_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="is not a file"):
        read_milestones(tmp_path)
    big = tmp_path / "big.toml"
    big.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ParityError, match="at most"):
        read_milestones(big)
