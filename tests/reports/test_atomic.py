"""Files are written completely or not at all, even if writing is interrupted."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from reports import ReportError, write_report
from reports.atomic import write_bytes, write_files


def _three(folder: Path, *, content: bytes) -> dict[Path, bytes]:
    return {folder / name: content for name in ("a", "b", "c")}


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "disk full"), RuntimeError()])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_failure_while_writing_changes_nothing(
    failure: BaseException, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(_three(tmp_path, content=b"old"))
    calls = []

    def fail(handle: int) -> None:
        calls.append(handle)
        if len(calls) == at + 1:
            raise failure

    monkeypatch.setattr("reports.atomic.os.fsync", fail)
    with pytest.raises(ReportError if isinstance(failure, OSError) else type(failure)):
        write_files(_three(tmp_path, content=b"new"))
    assert _contents(tmp_path) == {"a": b"old", "b": b"old", "c": b"old"}


def test_an_interrupt_between_replaces_leaves_whole_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(_three(tmp_path, content=b"old"))
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if target.name == "b":
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr("reports.atomic.os.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_files(_three(tmp_path, content=b"new"))
    assert _contents(tmp_path) == {"a": b"new", "b": b"old", "c": b"old"}


def test_the_umask_decides_the_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_files({tmp_path / "a": b"x"})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(ReportError, match=r"taken cannot be the report folder.*name another folder"):
        write_files({tmp_path / "taken" / "a": b"x"})
    with pytest.raises(ReportError, match=r"deeper cannot be created.*name a folder"):
        write_files({tmp_path / "taken" / "deeper" / "a": b"x"})


def test_an_unwritable_folder_is_named_with_the_way_out(
    folder: Path, parity: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permission bits do not stop a superuser, so the refusal is planted where the file is opened.
    def refuse(path: Path, *_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("reports.atomic.os.open", refuse)
    with pytest.raises(ReportError, match=r"report\.json cannot be written: Permission denied.*another folder"):
        write_report(parity, folder)
    assert _contents(folder) == {}


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ReportError, match=r"file cannot be"):
        write_files({tmp_path / "file" / "a": b"x"})
    assert (tmp_path / "file").read_text() == "in the way"


def test_what_a_killed_process_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    old, other = (tmp_path / f".{name}.0123456789ab.tmp" for name in ("a.json", "b.json"))
    new = tmp_path / ".a.json.ba9876543210.tmp"
    for path in (old, new, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (1, 1))
    write_bytes(tmp_path / "a.json", data=b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", new.name, other.name}
