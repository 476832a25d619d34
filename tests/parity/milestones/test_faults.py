"""Kills, full disks and two runs at once: no half-written record, and nothing that was finished is lost.

By default every ninth step is tried; ``nox -s faults`` tries all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from parity.cli.commands import signoff as command
from parity.cli.errors import guarded
from parity.cli.signoff_options import SignoffOptions
from parity.milestones.collect import EVIDENCE, collect, read_earlier
from parity.milestones.keys import Checkout
from parity.milestones.records.record import RECORD
from parity.milestones.records.verify import changed, read_record
from reports import document as documents
from reports.staging import Staged
from tests.parity.milestones.faults import Ended, Faults, Work, full_disk, in_child, kill, read_only, whole_files
from tests.parity.milestones.samples import PLAN, Stub

ITEMS = ["case:text:float32", "case:photo:float32", "relations", "mistakes:1"]
EVERY = 1 if os.environ.get("FAULTS") == "all" else 9


@pytest.fixture
def sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run ``parity signoff`` on evidence without a model. ``say`` gets each item that was written."""
    path = tmp_path / "milestones.toml"
    path.write_text(PLAN, encoding="utf-8")
    monkeypatch.setattr(command, "checkout", lambda: Checkout("f" * 40, True))
    monkeypatch.setattr(command, "code_digest", lambda: "c" * 64)
    monkeypatch.setattr(command, "versions", lambda: {"torch": "2.0"})
    monkeypatch.setattr(command, "signoff_source", lambda *_arguments: Stub())
    real = collect

    def sign(out: Path, *, reuse: Path | None = None, say: Callable[[str], None] = lambda _line: None) -> int:
        def telling(*arguments: Any, keep: Any, **options: Any) -> Any:
            def kept(name: str, evidence: Mapping[str, Any]) -> None:
                keep(name, evidence)
                say(f"kept {evidence['item']}")

            return real(*arguments, keep=kept, **options)

        options = SignoffOptions(path, (), out, reuse, None, None, as_json=True, threads=None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(command, "collect", telling)
            # A click.echo in a forked child would write into the report of the tests.
            patch.setattr(command, "_print", lambda document, *_rest: say(json.dumps(document["run"])))
            return guarded(lambda: command.signoff(options), debug=False)

    return sign


def _into(sign: Callable[..., int], folder: Path, reuse: Path | None = None) -> Work:
    """A sign-off into a folder, for a process of its own."""
    return lambda say: sign(folder, reuse=reuse, say=say)


def _check_sound(folder: Path) -> dict[str, Any]:
    """Every file that has its name is whole. Returns the evidence."""
    if not folder.exists():
        return {}
    if (folder / RECORD).exists():
        assert list(changed(read_record(folder / RECORD))) == []
    if (folder / "report.json").exists():
        documents.load(folder / "report.json")
    for path in whole_files(folder):
        assert path.stat().st_size > 0, path
        if path.suffix == ".html":
            assert path.read_text(encoding="utf-8").rstrip().endswith("</html>"), path
    if not (folder / EVIDENCE).exists():
        return {}
    earlier = read_earlier(folder)
    assert earlier.refused == {}
    return dict(earlier.evidence)


def _kept(ended: Ended) -> set[str]:
    return {line.removeprefix("kept ") for line in ended.told if line.startswith("kept ")}


def _steps(sign: Callable[..., int], folder: Path) -> int:
    whole = in_child(_into(sign, folder), Faults(None, kill))
    assert whole.code == 0, whole.told
    assert _kept(whole) == set(ITEMS)
    assert whole.steps >= 4 * (len(ITEMS) + 1)
    return whole.steps


def test_a_kill_at_any_step_leaves_whole_files_and_the_next_run_goes_on(
    sign: Callable[..., int], tmp_path: Path
) -> None:
    steps = _steps(sign, tmp_path / "whole")
    expected = read_record(tmp_path / "whole" / RECORD).signed["digest"]
    for at in range(1, steps + 1, EVERY):
        folder = tmp_path / f"killed-{at}"
        ended = in_child(_into(sign, folder), Faults(at, kill))
        assert ended.code is None, (at, ended)
        evidence = _check_sound(folder)
        assert _kept(ended) <= evidence.keys(), f"step {at}: finished evidence was lost"
        again = in_child(
            _into(sign, folder, reuse=folder if evidence else None),
            Faults(None, kill),
        )
        assert again.code == 0, again.told
        run = json.loads(next(line for line in again.told if line.startswith("{")))
        assert run["reused"] == len(evidence), f"step {at}: {run}"
        assert read_record(folder / RECORD).signed["digest"] == expected
        assert set(_check_sound(folder)) == set(ITEMS)


def test_a_kill_while_an_earlier_sign_off_is_replaced_leaves_one_of_both(
    sign: Callable[..., int], tmp_path: Path
) -> None:
    _steps(sign, tmp_path / "folder")
    steps = _steps(sign, tmp_path / "folder")  # a folder that exists takes fewer steps
    for at in range(3, steps + 1, 2 * EVERY):
        ended = in_child(_into(sign, tmp_path / "folder"), Faults(at, kill))
        assert ended.code is None
        assert set(_check_sound(tmp_path / "folder")) == set(ITEMS)
        assert (tmp_path / "folder" / RECORD).is_file()


@pytest.mark.parametrize(("fault", "words"), [(full_disk, "No space left"), (read_only, "Read-only file system")])
def test_a_disk_that_fails_is_named_and_keeps_what_was_finished(
    fault: Callable[[], None], words: str, sign: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = _steps(sign, tmp_path / "whole")
    for at in range(1, steps + 1, EVERY):
        folder = tmp_path / f"{words[:2]}-{at}"
        capfd.readouterr()
        ended = in_child(_into(sign, folder), Faults(at, fault, lasting=True))
        assert ended.code == 2, (at, ended)
        said = capfd.readouterr().err
        assert words in said, said
        assert "defect of the harness" not in said
        assert _kept(ended) <= _check_sound(folder).keys()
        assert not list(folder.rglob(".*")), "a file that was being written is left"


def test_two_runs_into_one_folder_leave_one_whole_sign_off(sign: Callable[..., int], tmp_path: Path) -> None:
    folder = tmp_path / "both"
    other = os.fork()
    if other == 0:
        code = 99
        try:
            code = in_child(_into(sign, folder), Faults(None, kill)).code or 0
        finally:
            os._exit(code)
    ended = in_child(_into(sign, folder), Faults(None, kill))
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0
    assert ended.code == 0, ended.told
    assert set(_check_sound(folder)) == set(ITEMS)
    assert not list(folder.rglob(".*"))


def test_a_write_that_is_not_atomic_is_noticed(
    sign: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check has teeth: with plain writes, some kill leaves half a file."""

    def plain(path: Path, *, data: bytes) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)

    monkeypatch.setattr(command, "write_bytes", plain)
    spoiled = []
    for at in range(3, 12):
        folder = tmp_path / f"plain-{at}"
        in_child(_into(sign, folder), Faults(at, kill))
        try:
            _check_sound(folder)
        except AssertionError:
            spoiled.append(at)
    assert spoiled


def _publish(folder: Path, text: str) -> None:
    with Staged(folder) as staged:
        for name in ("report.json", "cases/a/report.json", "cases/b/report.json"):
            (staged.work / name).parent.mkdir(parents=True, exist_ok=True)
            (staged.work / name).write_text(text * 1000, encoding="utf-8")


def _publishing(folder: Path, text: str) -> Work:
    def run(_say: Callable[[str], None]) -> int:
        _publish(folder, text)
        return 0

    return run


def test_a_kill_while_a_suite_is_published_leaves_whole_files(tmp_path: Path) -> None:
    for earlier in (False, True):
        whole = tmp_path / f"whole-{earlier}"
        steps = in_child(_publishing(whole, "x"), Faults(None, kill)).steps
        for at in range(1, steps + 5):
            folder = tmp_path / f"{earlier}-{at}" / "suite"
            folder.parent.mkdir()
            if earlier:
                _publish(folder, "old ")
            ended = in_child(_publishing(folder, "new "), Faults(at, kill))
            found = {path.read_text(encoding="utf-8") for path in whole_files(folder)} if folder.exists() else set()
            assert found <= {"old " * 1000, "new " * 1000}
            # A new folder appears whole or not at all.
            assert earlier or len(whole_files(folder)) in (0, 3)
            _publish(folder, "new ")
            assert {path.read_text(encoding="utf-8") for path in whole_files(folder)} == {"new " * 1000}
            assert not list(folder.parent.glob(".*")), "the next run leaves nothing of the killed one"
            assert ended.code in (None, 0)
