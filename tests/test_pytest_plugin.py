"""The pytest plugin in a foreign repository, which has modules of the project's names."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from parity.pytest_plugin import Outcome, phase_number

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[1]
FAKE = """
import json, sys
milestone = {"phase": 3, "title": "tied", "verdict": VERDICT, "waivers": WAIVERS, "items": [
    {"id": "case:tied:float32", "verdict": ITEM, "reason": "first divergence at logits", "waived": False}]}
if "signoff" in sys.argv:
    assert sys.argv[sys.argv.index("--phase") + 1] == "3", sys.argv
    print(json.dumps({"verdict": {"value": VERDICT, "reason": "why"}, "milestones": MILESTONES}))
    sys.exit(CODE)
"""


@pytest.fixture
def foreign(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A repository with a port.py and a reports/ of its own. The project is installed, as far as imports can tell."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(port="raise RuntimeError('this is the port of another repository')")
    pytester.mkpydir("reports")
    return pytester


def _run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    options = ("-p", "no:randomly", "-p", "no:cacheprovider")
    return pytester.runpytest_subprocess(*options, *arguments)


def test_it_runs_the_command_of_this_project_in_a_foreign_repository(foreign: pytest.Pytester) -> None:
    foreign.makepyfile(
        """
        def test_seams(parity):
            found = parity.run("seams", "--json")
            assert found.exit_code == 0, found
            assert "logits" in found.stdout

        def test_usage(parity):
            found = parity.run("suite", "--case", "nope")
            assert (found.exit_code, found.verdict) == (2, "INVALID")
            assert "there is no case 'nope'" in found.reason
        """
    )
    _run(foreign).assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("verdict", "item", "code", "waivers", "empty", "passes"),
    [
        ("SIGNED OFF", "PARITY", 0, "[]", False, True),
        ("REFUSED", "DIVERGED", 1, "[]", False, False),
        ("INCOMPLETE", "INCOMPLETE", 3, "[]", False, False),
        # Exit code and document must agree, and nothing is signed off by an empty list.
        ("REFUSED", "DIVERGED", 0, "[]", False, False),
        ("SIGNED OFF", "PARITY", 1, "[]", False, False),
        ("SIGNED OFF", "PARITY", 0, "[]", True, False),
    ],
)
def test_a_test_passes_only_if_the_phase_is_signed_off(
    verdict: str, item: str, code: int, waivers: str, empty: bool, passes: bool, foreign: pytest.Pytester
) -> None:
    milestones = "[]" if empty else "[milestone]"
    text = FAKE.replace("MILESTONES", milestones).replace("VERDICT", repr(verdict)).replace("ITEM", repr(item))
    place = foreign.mkpydir("fake")
    (place / "run.py").write_text(text.replace("WAIVERS", waivers).replace("CODE", str(code)), encoding="utf-8")
    foreign.makepyfile(
        """
        import subprocess, sys
        import pytest

        @pytest.fixture(autouse=True)
        def stand_in(monkeypatch):
            real = subprocess.run
            def run(command, **options):
                assert command[:3] == [sys.executable, "-m", "parity"]
                return real([sys.executable, "fake/run.py", *command[3:]], **options)
            monkeypatch.setattr(subprocess, "run", run)

        def test_port(parity):
            parity.assert_signed_off("phase-3")
        """
    )
    result = _run(foreign)
    result.assert_outcomes(passed=int(passes), failed=int(not passes))
    if verdict == "REFUSED":
        result.stdout.fnmatch_lines(["*case:tied:float32: DIVERGED: first divergence at logits*"])


def test_waivers_can_be_refused(foreign: pytest.Pytester) -> None:
    waivers = repr([{"item": "case:tied:float32"}])
    text = FAKE.replace("MILESTONES", "[milestone]").replace("VERDICT", "'SIGNED OFF'").replace("ITEM", "'DIVERGED'")
    (foreign.mkpydir("fake") / "run.py").write_text(
        text.replace("WAIVERS", waivers).replace("CODE", "0"), encoding="utf-8"
    )
    foreign.makepyfile(
        """
        import subprocess, sys
        import pytest

        @pytest.fixture(autouse=True)
        def stand_in(monkeypatch):
            real = subprocess.run
            monkeypatch.setattr(subprocess, "run", lambda c, **o: real([sys.executable, "fake/run.py", *c[3:]], **o))

        def test_with(parity):
            parity.assert_signed_off(3)

        def test_without(parity):
            parity.assert_signed_off(3, waivers=False)
        """
    )
    _run(foreign).assert_outcomes(passed=1, failed=1)


def test_phases_are_written_as_people_write_them() -> None:
    assert [phase_number(phase) for phase in (3, "3", "phase-3", "phase 3")] == [3] * 4
    for wrong in ("", "three", "phase-", "3; rm"):
        with pytest.raises(ValueError, match="is not a phase"):
            phase_number(wrong)


def test_an_outcome_says_what_was_run() -> None:
    found = Outcome(
        ("suite",), 3, "", "", json.loads('{"verdict": {"value": "INCOMPLETE", "reason": "one is absent"}}')
    )
    assert str(found) == "parity suite: INCOMPLETE: one is absent"
    assert Outcome(("suite",), 130, "", "interrupted", None).verdict == "exit code 130"
    assert sys.executable
