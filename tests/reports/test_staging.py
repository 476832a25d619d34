"""Report folders are written completely or not at all, and other files are never removed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reports import ReportError, staging, write_report
from reports.kinds import KINDS
from reports.staging import Staged, uninterrupted
from tests.reports.kind_samples import SIMPLE
from tests.reports.report_samples import write_pictures

Document = dict[str, Any]
RUN = [
    *("findings.csv", "passes.csv", "pictures/image-0.png", "pictures/image-1.png"),
    *("report.html", "report.json", "report.md"),
]


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _stage(folder: Path, *names: str) -> None:
    with Staged(folder) as staged:
        for name in names:
            (staged.work / name).write_text(f"new {name}", encoding="utf-8")


def _stage_and_fail(folder: Path, failure: type[BaseException]) -> None:
    with Staged(folder) as staged:
        (staged.work / "report.json").write_text("new", encoding="utf-8")
        raise failure


def _write_run(document: Document, folder: Path) -> None:
    write_pictures(folder)
    write_report(document, folder)


def test_a_new_folder_appears_whole(parity: Document, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    with Staged(folder) as staged:
        _write_run(parity, staged.work)
        assert not folder.exists()
    assert sorted(_snapshot(tmp_path)) == [f"deep/er/{name}" for name in RUN]


def test_an_earlier_report_is_replaced_and_other_files_stay(parity: Document, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    _write_run(parity, folder)
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "pictures" / "image-9.png").write_text("mine too", encoding="utf-8")
    _stage(folder, "report.json", "report.md")
    assert sorted(_snapshot(tmp_path)) == [
        "report/notes.txt", "report/pictures/image-9.png", "report/report.json", "report/report.md"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in SIMPLE if kind != "calibration"])
def test_an_earlier_report_of_any_kind_is_recognised(
    kind: str, document_of: Callable[[str], Document], tmp_path: Path
) -> None:
    write_report(document_of(kind), tmp_path / "report")
    _stage(tmp_path / "report", "a")
    assert list(_snapshot(tmp_path)) == ["report/a"]


def test_an_earlier_suite_takes_the_reports_of_its_cases_along(
    parity: Document, suite: Document, tmp_path: Path
) -> None:
    folder = tmp_path / "report"
    for number, case in enumerate(suite["cases"]):
        case["report"] = f"cases/{case['name']}/report.html" if number < 2 else None
        if case["report"]:
            _write_run(parity, folder / "cases" / case["name"])
    write_report(suite, folder)
    other = folder / "cases" / "of-mine"
    other.mkdir()
    (other / "report.html").write_text("mine", encoding="utf-8")
    _stage(folder, "a")
    assert sorted(_snapshot(tmp_path)) == ["report/a", "report/cases/of-mine/report.html"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_fails_changes_nothing(failure: type[BaseException], parity: Document, tmp_path: Path) -> None:
    _write_run(parity, tmp_path / "report")
    before = _snapshot(tmp_path)
    for folder in (tmp_path / "report", tmp_path / "new"):
        with pytest.raises(failure):
            _stage_and_fail(folder, failure)
    assert _snapshot(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def _foreign_run(document: Document, name: str) -> Document:
    document["pictures"] = [document["pictures"][0] | {"file": name}]
    return document


def _shape_of_a_run(_document: Document) -> Document:
    return {"kind": "run", "pictures": [{"file": "notes.txt"}, {"file": "../precious"}, {"file": "src/main.py"}]}


def _shape_of_a_suite(_document: Document) -> Document:
    return {"kind": "suite", "cases": [{"report": "src/report.html"}]}


@pytest.mark.parametrize(
    "foreign",
    [
        _shape_of_a_run,
        _shape_of_a_suite,
        lambda run: run | {"schema_version": "1.0"},
        lambda run: run | {"colour": "red"},
        lambda run: run | {"kind": "walk"},
        lambda run: _foreign_run(run, "notes.txt"),
        lambda run: _foreign_run(run, "src/main.py"),
        lambda run: _foreign_run(run, "pictures/mine.png"),
        lambda run: _foreign_run(run, "pictures/image-0.png.bak"),
        lambda _run: [],
        lambda _run: "x",
    ],
)
def test_a_foreign_report_json_removes_nothing(
    foreign: Callable[[Document], Any], parity: Document, tmp_path: Path
) -> None:
    folder = tmp_path / "report"
    for name in ("notes.txt", "src/main.py", "src/findings.csv", "pictures/mine.png", "pictures/image-0.png.bak",
                 "findings.csv", "cases.csv", "report.md", "report.html", "../precious"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"mine: {name}", encoding="utf-8")
    (folder / "src" / "report.json").write_text(json.dumps({"kind": "run", "pictures": []}), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(foreign(parity)), encoding="utf-8")
    before = _snapshot(tmp_path)
    _stage(folder, "a")
    assert _snapshot(tmp_path) == before | {"report/a": b"new a"}


def test_a_suite_that_names_other_reports_removes_nothing(parity: Document, suite: Document, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    _write_run(parity, folder / "mine")
    suite["cases"][0]["report"] = "mine/report.html"
    write_report(suite, folder)
    before = _snapshot(tmp_path)
    _stage(folder, "a")
    assert _snapshot(tmp_path) == before | {"report/a": b"new a"}


def test_files_behind_a_link_stay(parity: Document, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "report", tmp_path / "elsewhere"
    _write_run(parity, folder)
    shutil.move(folder / "pictures", elsewhere)
    (folder / "pictures").symlink_to(elsewhere)
    _stage(folder, "a")
    assert sorted(path.name for path in elsewhere.iterdir()) == ["image-0.png", "image-1.png"]
    assert (folder / "pictures").is_symlink()


def test_a_linked_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    _stage(tmp_path / "link", "a")
    assert (tmp_path / "link").is_symlink()
    assert list(_snapshot(tmp_path / "real")) == ["a"]


def test_a_disk_that_fills_up_while_publishing_restores_the_earlier_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).write_text(f"old {name}", encoding="utf-8")
    before = _snapshot(tmp_path)
    real, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr("reports.staging.os.replace", replace)
    with pytest.raises(ReportError, match=r"report cannot be written.*No space left.*name another folder"):
        _stage(folder, "a", "b", "c", "d")
    assert _snapshot(tmp_path) == before
    assert len(calls) > 3, "what had been replaced was put back"


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ReportError, match=r"the traces cannot be written to .*file.*name another folder"):
            Staged(place, what="traces").__enter__()
    assert list(_snapshot(tmp_path)) == ["file"]


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """A test run in the background may have been told to ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_interrupts_wait_for_the_end_of_the_block() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from reports.staging import Staged\n"
        "with Staged(Path(sys.argv[1])) as staged:\n"
        "    (staged.work / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(staging.__file__).parents[1]
    for target in ("new", "there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-c", code, tmp_path / target], check=False, cwd=root, timeout=120)
    assert len([name for name in _snapshot(tmp_path) if name.endswith("files/half")]) == 2
    _stage(tmp_path / "there", "a")
    _stage(tmp_path / "another", "a")
    assert sorted(_snapshot(tmp_path)) == ["another/a", "there/a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "there"]


def test_every_kind_can_be_told_from_a_foreign_file() -> None:
    # A kind whose files could not be recognised would leave stale ones behind.
    for kind in KINDS.values():
        assert {"json", "csv", "md", "html"} <= set(kind.file_names())
