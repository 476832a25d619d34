"""A suite and a kill matrix that were interrupted go on where they were, and take nothing stale or changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from parity.cli.commands import suite as suite_command
from parity.cli.progress import Bar
from parity.milestones.kept import FINISHED
from parity.workers import state
from parity.workers.base import Workers
from parity.workers.here import ThisProcess
from parity.workers.messages import WorkerLost, call, message, result
from tests.parity.cli.samples import Parity, change_json
from tests.parity.cli.samples import call as run_parity

# Cases that only read weights take a tenth of a second each.
CASES = ("conv3d-tiny", "conv3d-odd")
SELECTED = tuple(word for case in CASES for word in ("--case", case))
TIMES = ("seconds", "created", "command", "reused")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite that ran in one go. Tests must not change it."""
    folder = tmp_path_factory.mktemp("whole") / "suite"
    run_parity("suite", *SELECTED, "--out", folder).succeeds(3)
    return folder


def same(value: Any) -> Any:
    """A document without times, and without how much of it was reused."""
    if isinstance(value, dict):
        return {name: same(part) for name, part in value.items() if name not in TIMES}
    return [same(part) for part in value] if isinstance(value, list) else value


def documents(folder: Path) -> dict[str, Any]:
    paths = [folder / "report.json", *(folder / "cases").rglob("report.json")]
    return {str(path.relative_to(folder)): same(json.loads(path.read_text(encoding="utf-8"))) for path in paths}


def interrupt(monkeypatch: pytest.MonkeyPatch, word: str) -> Callable[[], None]:
    real = Bar.__call__

    def at(self: Bar, what: str) -> None:
        if word in what:
            raise KeyboardInterrupt
        real(self, what)

    monkeypatch.setattr(Bar, "__call__", at)
    return lambda: monkeypatch.setattr(Bar, "__call__", real)


def suite(folder: Path, *options: object) -> Mapping[str, Any]:
    answer = run_parity("suite", *SELECTED, "--out", folder, "--json", *options)
    answer.succeeds(3)
    found: Mapping[str, Any] = json.loads(answer.stdout)
    return found


def test_an_interrupted_suite_goes_on_and_gives_what_one_run_gives(
    whole: Path, parity: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = interrupt(monkeypatch, "conv3d-odd")
    parity("suite", *SELECTED, "--out", tmp_path / "on").refuses("finished cases are kept", "same --out", code=130)
    assert not (tmp_path / "on" / "report.json").exists(), "a report appears whole or not at all"
    again()
    answer = parity("suite", *SELECTED, "--out", tmp_path / "on")
    answer.succeeds(3)
    assert "reused: 1 of 2 cases" in answer.stdout
    assert documents(tmp_path / "on") == documents(whole)
    assert suite(tmp_path / "on")["reused"] == list(CASES), "a finished suite can be taken up as well"
    assert suite(tmp_path / "on", "--fresh")["reused"] == []
    assert documents(tmp_path / "on") == documents(whole)
    assert all(path.suffix == ".json" for path in (tmp_path / "on" / FINISHED).iterdir()), "no report is there twice"


def test_cases_that_were_changed_or_are_of_other_code_are_run_again(
    whole: Path, parity: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    change_json(folder / "cases/conv3d-odd/report.json", ("findings", 0, "ratio"), 1e-9)
    (path,) = (folder / FINISHED).glob("conv3d-tiny-*.json")
    change_json(path, ("content", "forwards"), 17)
    answer = parity("suite", *SELECTED, "--out", folder)
    answer.succeeds(3)
    said = " ".join(answer.stdout.split())
    assert "not reused: conv3d-odd: the files of conv3d-odd were changed or removed" in said
    assert "was changed: its digest does not fit" in said
    assert "reused: " not in said.replace("not reused: ", "")
    assert documents(folder) == documents(whole)
    monkeypatch.setattr(suite_command, "code_digest", lambda: "d" * 64)
    answer = parity("suite", "--case", CASES[0], "--out", folder, "--dtype", "bfloat16")
    answer.succeeds(3)
    said = " ".join(answer.stdout.split())
    assert "not reused: conv3d-tiny: the code has changed; dtype: was float32, is bfloat16" in said


class Elsewhere(ThisProcess):
    """Sends tasks and results as other processes get them, and loses the tasks of one case."""

    def __init__(self, lost: str = "") -> None:
        super().__init__()
        self._lost = lost

    def submit(self, fn: Any, /, *args: Any, **_named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if args[0]["case"] == self._lost:
            future.set_exception(WorkerLost("its worker process was ended by SIGKILL; it was tried 3 times"))
        else:
            future.set_result(result(call(message(fn, args))))
        return future


def test_a_case_whose_worker_always_ends_is_invalid_and_is_tried_again_the_next_time(
    whole: Path, parity: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Workers] = [Elsewhere("conv3d-odd"), Elsewhere()]
    monkeypatch.setattr(suite_command, "workers_for", lambda _where: made.pop(0))
    answer = parity("suite", *SELECTED, "--out", tmp_path / "lost", "--json")
    answer.succeeds(2)
    document = json.loads(answer.stdout)
    assert [case["verdict"] for case in document["cases"]] == ["PARITY", "INVALID"]
    assert state._kept == {}, "no model stays when the command is done"
    assert "ended by SIGKILL; it was tried 3 times" in document["cases"][1]["reason"]
    assert suite(tmp_path / "lost")["reused"] == ["conv3d-tiny"]
    # What came as from other processes is what one process gives.
    assert documents(tmp_path / "lost") == documents(whole)


MUTANTS = (
    "mutants", "--case", "conv3d-tiny", "--case", "conv3d-odd",
    "--mutant", "conv3d-weight-frames-reversed",
)  # fmt: skip


def test_an_interrupted_kill_matrix_goes_on(parity: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = parity(*MUTANTS, "--out", tmp_path / "whole").code
    again = interrupt(monkeypatch, "conv3d-odd: conv3d")
    parity(*MUTANTS, "--out", tmp_path / "on").refuses("finished cases are kept", code=130)
    again()
    answer = parity(*MUTANTS, "--out", tmp_path / "on")
    answer.succeeds(code)
    assert "reused: 1 of 2 cases" in answer.stdout
    assert documents(tmp_path / "on") == documents(tmp_path / "whole")
    (path,) = (tmp_path / "on" / FINISHED).glob("conv3d-odd-*.json")
    change_json(path, ("content", "outcomes", 0, "state"), "survived")
    answer = parity(*MUTANTS, "--out", tmp_path / "on")
    assert "was changed: its digest does not fit" in " ".join(answer.stdout.split())
    assert documents(tmp_path / "on") == documents(tmp_path / "whole")


def test_wrong_options_about_workers_are_refused(parity: Parity, work: Path) -> None:
    for command in ("suite", "mutants", "calibrate"):
        parity(command, "--workers", 2, "--scheduler", "tcp://127.0.0.1:1").refuses("cannot be used together")
        assert parity(command, "--workers", 0).code == 2
    assert list(work.iterdir()) == []
