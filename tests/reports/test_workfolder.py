"""Leftovers of killed runs are removed. Everything that may be something else stays."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from reports.workfolder import WorkFolder, remove_leftovers

_DAY = 24 * 60 * 60


@pytest.fixture
def gone() -> int:
    """The number of a process that does not exist."""
    return next(number for number in range(2**22 - 1, 1, -1) if not psutil.pid_exists(number))


def _left(place: Path, **owner: Any) -> Path:
    """A work folder with a file in it, whose owner is changed."""
    work = WorkFolder(place, name="report")
    (work.files / "half").write_text("x", encoding="utf-8")
    path = work.files.parent / "owner.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | owner), encoding="utf-8")
    return work.files.parent


def _age(folder: Path, seconds: float) -> None:
    at = time.time() - seconds
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (at, at))


def test_a_work_folder_is_hidden_and_goes_away(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path, name="report")
    assert work.files.is_dir()
    assert [path.name[:8] for path in tmp_path.iterdir()] == [".report-"]
    work.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_process_that_is_gone_is_removed(gone: int, tmp_path: Path) -> None:
    folder = _left(tmp_path, pid=gone)
    remove_leftovers(tmp_path)
    assert not folder.exists()


def test_the_folder_of_a_living_process_stays_until_nothing_changes_for_a_day(tmp_path: Path) -> None:
    folder = _left(tmp_path)
    _age(folder, _DAY - 600)
    remove_leftovers(tmp_path)
    assert folder.exists()
    _age(folder, _DAY + 600)
    (folder / "files" / "fresh").write_text("x", encoding="utf-8")
    remove_leftovers(tmp_path)
    assert folder.exists(), "a run that still writes is not a leftover"
    _age(folder, _DAY + 600)
    remove_leftovers(tmp_path)
    assert not folder.exists()


def test_a_process_of_another_machine_is_not_asked_after(gone: int, tmp_path: Path) -> None:
    folder = _left(tmp_path, pid=gone, host=platform.node() + "-other")
    remove_leftovers(tmp_path)
    assert folder.exists()
    _age(folder, _DAY + 600)
    remove_leftovers(tmp_path)
    assert not folder.exists()


def _rename(folder: Path) -> Path:
    return folder.rename(folder.with_name(".report-abc"))


def _without_owner(folder: Path) -> Path:
    (folder / "owner.json").unlink()
    return folder


def _owner(content: str) -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        (folder / "owner.json").write_text(content, encoding="utf-8")
        return folder

    return change


def _with_more(folder: Path) -> Path:
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    return folder


def _linked(folder: Path) -> Path:
    real = folder.with_name("real")
    folder.rename(real)
    folder.symlink_to(real)
    return real


@pytest.mark.parametrize(
    "change",
    [
        _rename,
        _without_owner,
        _owner("{}"),
        _owner("not JSON"),
        _owner("[" * 100_000),
        _owner('{"purpose": "something else", "pid": 4194000, "host": "x"}'),
        _owner('{"purpose": "a report of qwen3vl-parity that is being written", "pid": "1", "host": "x"}'),
        _owner('{"purpose": "a report of qwen3vl-parity that is being written", "pid": -1, "host": "x"}'),
        _with_more,
        _linked,
    ],
)
def test_what_is_not_certainly_ours_stays(change: Callable[[Path], Path], gone: int, tmp_path: Path) -> None:
    folder = change(_left(tmp_path, pid=gone))
    _age(folder, 30 * _DAY)
    remove_leftovers(tmp_path)
    assert (folder / "files" / "half").exists()


def test_a_file_with_the_name_of_a_work_folder_stays(tmp_path: Path) -> None:
    path = tmp_path / ".report-0123456789ab"
    path.write_text("mine", encoding="utf-8")
    remove_leftovers(tmp_path)
    assert path.exists()


def test_what_is_linked_from_a_leftover_stays(gone: int, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "a").write_text("mine", encoding="utf-8")
    folder = _left(tmp_path, pid=gone)
    (folder / "files" / "link").symlink_to(tmp_path / "precious")
    remove_leftovers(tmp_path)
    assert not folder.exists()
    assert (tmp_path / "precious" / "a").exists()
