"""Report folders are refused before the run, replaced as a whole, and unchanged if the run fails or is interrupted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import parity.cli.commands.run
import parity.documents.folders
import parity.documents.run
from parity.cli.progress import Bar
from reports.errors import ReportError
from reports.staging import Staged
from tests.parity.cli.samples import Parity, call, snapshot

REPORT = ["findings.csv", "passes.csv", "report.html", "report.json", "report.md"]


@pytest.fixture
def small(media: Path) -> tuple[object, ...]:
    return ("--image", media / "good.png")


@pytest.mark.parametrize("command", ["run", "suite"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    command: str, parity: Parity, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither place can be written by anybody, a superuser included.
    monkeypatch.setattr(Bar, "__call__", lambda *_: pytest.fail("the work has begun"))
    (tmp_path / "file").write_text("x", encoding="utf-8")
    extra = ("--case", "text") if command == "suite" else ()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        parity(command, *extra, "--out", place).refuses(str(place), "name another folder")
    if Path("/proc/self").exists():
        parity(command, *extra, "--out", "/proc/report").refuses("/proc/report", "name another folder")
    assert snapshot(work) == {}
    assert (tmp_path / "file").read_text(encoding="utf-8") == "x"


def test_traces_go_to_a_new_folder_only(run: Parity, work: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    run("--traces", tmp_path / "there").refuses("there exists already", "new folder")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    run("--traces", tmp_path / "file" / "below").refuses("traces", "name another folder")
    assert snapshot(work) == {}
    assert snapshot(tmp_path / "there") == {}


def _earlier(folder: Path, picture: Path) -> None:
    """A finished report with more pictures than the next one, and a file of the user's own."""
    call(
        "run", "seeded", "--no-timing", "--steps", 0, "--image", picture, "--image", picture, "--out", folder
    ).succeeds()
    (folder / "notes.txt").write_text("mine", encoding="utf-8")


def test_an_earlier_report_is_replaced_and_other_files_stay(
    run: Parity, small: tuple[object, ...], work: Path, media: Path
) -> None:
    folder = work / "report"
    _earlier(folder, media / "good.png")
    before = snapshot(folder)
    assert "pictures/image-1.png" in before
    run(*small, "--out", folder).succeeds()
    after = snapshot(folder)
    assert sorted(after) == sorted([*REPORT, "notes.txt", "pictures", "pictures/image-0.png"])
    assert after["notes.txt"] == b"mine"
    assert all(after[name] != before[name] for name in REPORT)
    assert [path.name for path in work.iterdir()] == ["report"]


def test_a_failed_run_leaves_an_earlier_report_alone(run: Parity, work: Path, tmp_path: Path, media: Path) -> None:
    folder = work / "report"
    _earlier(folder, media / "good.png")
    before = snapshot(work)
    run("--image", tmp_path / "none.png", "--out", folder).refuses("none.png")
    assert snapshot(work) == before


def _interrupt(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Ctrl-C where the run says that it begins something, or while it writes."""

    def stop(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    def at(_self: Bar, what: str) -> None:
        if what.startswith(moment):
            raise KeyboardInterrupt

    if moment == "first file":
        monkeypatch.setattr(parity.documents.run, "write_report", stop)
    elif moment == "files written":
        monkeypatch.setattr(parity.cli.commands.run, "write_run", _after(parity.documents.run.write_run, stop))
    else:
        monkeypatch.setattr(Bar, "__call__", at)


def _after(action: Callable[..., Any], then: Callable[[], None]) -> Callable[..., None]:
    def both(*arguments: Any, **options: Any) -> None:
        action(*arguments, **options)
        then()

    return both


@pytest.mark.parametrize(
    ("moment", "out"),
    [
        ("checkpoint", "report"),
        ("loading weights", "new"),
        ("reference", "deep/er"),
        ("floor run", "report"),
        ("model", "new"),
        ("processor", "new"),
        ("report", "deep/er"),
        ("first file", "report"),
        ("files written", "report"),
        ("files written", "deep/er"),
    ],
)
def test_an_interrupt_leaves_nothing(
    moment: str, out: str, parity: Parity, small: tuple[object, ...], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "report").mkdir()
    (work / "report" / "report.json").write_text("earlier", encoding="utf-8")
    before = snapshot(work)
    _interrupt(monkeypatch, moment)
    options = ("--no-timing", "--steps", 0, "--out", work / out, "--traces", work / "traces")
    parity("run", "seeded", *small, *options).refuses("interrupted", code=130)
    assert snapshot(work) == before


def test_an_interrupted_suite_leaves_only_what_it_has_finished(
    parity: Parity, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupt(monkeypatch, "batch-2-text")
    parity("suite", "--case", "text", "--case", "batch-2-text", "--out", "out").refuses("interrupted", code=130)
    assert {Path(path).parts[:2] for path in snapshot(work)} == {("out",), ("out", "finished")}
    _interrupt(monkeypatch, "text")
    parity("suite", "--case", "text", "--case", "batch-2-text", "--out", "new").refuses("interrupted", code=130)
    assert not (work / "new").exists()


def test_a_disk_that_fills_up_while_publishing_restores_the_earlier_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "report"
    for name in ("a", "b", "c"):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"old {name}", encoding="utf-8")
    before = snapshot(tmp_path)
    real, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr("reports.staging.os.replace", replace)
    staged = Staged(folder).__enter__()
    for name in ("a", "b", "c", "d"):
        (staged.work / name).write_text(f"new {name}", encoding="utf-8")
    with pytest.raises(ReportError, match=r"report cannot be written.*No space left"):
        staged.__exit__(None, None, None)
    assert snapshot(tmp_path) == before


def test_a_linked_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with Staged(tmp_path / "link") as staged:
        (staged.work / "a").write_text("x", encoding="utf-8")
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["a"]


def test_a_report_that_names_files_outside_its_folder_removes_none(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    (tmp_path / "precious").write_text("x", encoding="utf-8")
    pictures = [{"file": "../precious"}, {"file": str(tmp_path / "precious")}]
    (folder / "report.json").write_text(json.dumps({"kind": "run", "pictures": pictures}), encoding="utf-8")
    with Staged(folder) as staged:
        (staged.work / "a").write_text("x", encoding="utf-8")
    assert (tmp_path / "precious").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["a", "report.json"], "no report of ours: it stays"


def test_reports_of_one_second_do_not_collide(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = parity.documents.folders.report_folder(None, "photo")

    class Still:
        @staticmethod
        def now() -> Any:
            from datetime import datetime

            return datetime(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(parity.documents.folders, "datetime", Still)
    first = parity.documents.folders.report_folder(None, "photo")
    first.mkdir(parents=True)
    assert parity.documents.folders.report_folder(None, "photo").name == f"{first.name}-2"


def test_rendering_again(run: Parity, parity: Parity, small: tuple[object, ...], work: Path) -> None:
    run(*small, "--out", "report").succeeds()
    before = snapshot(work)
    (work / "report" / "report.html").unlink()
    answer = parity("report", "report")
    answer.succeeds()
    assert answer.stdout.split() == [
        f"report/{name}" for name in ("findings.csv", "report.md", "report.html", "passes.csv")
    ]
    assert snapshot(work) == before
    parity("report", "report/report.json", "--out", "other").succeeds()
    names = sorted(path.name for path in (work / "other").iterdir())
    assert names == ["findings.csv", "passes.csv", "report.html", "report.md"]


def test_reports_that_cannot_be_rendered(parity: Parity, work: Path, tiny: Path, media: Path) -> None:
    parity("report", "none.json").refuses("none.json does not exist")
    parity("report", ".").refuses("report.json does not exist")
    parity("report", tiny / "config.json").refuses("config.json is not valid", "$.kind")
    parity("report", media / "good.png").refuses("good.png is not UTF-8")
    (work / "cut.json").write_text('{"kind": "run"', encoding="utf-8")
    parity("report", "cut.json").refuses("cut.json is not JSON", "run the case again")
