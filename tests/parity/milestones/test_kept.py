"""Finished work is used again only if it is fresh and nothing in it or beside it was changed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.core.errors import ParityError
from parity.milestones.kept import FINISHED, Kept, Piece, piece_digest

KEY = {"code": "c" * 64, "checkpoint": "a" * 64, "definition": "d" * 64, "dtype": "float32", "torch": "2.0"}
CONTENT = {"error": None, "forwards": 3, "seconds": 1.5}
FILES = {"report.json": b"{}\n", "pictures/image-0.png": b"png"}


def whole(piece: Piece) -> Piece:
    return piece


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kept = Kept(tmp_path)
    assert kept.take("text", KEY, whole) is None
    kept.keep("text", KEY, CONTENT, FILES)
    assert (kept.reused, kept.stale) == ([], {})
    return tmp_path


def file_of(folder: Path) -> Path:
    (path,) = (folder / FINISHED).glob("*.json")
    return path


def files_of(folder: Path) -> Path:
    (path,) = (path for path in (folder / FINISHED).iterdir() if path.is_dir())
    return path


def change(folder: Path, name: str, value: Any, *, sealed: bool = False) -> None:
    """Change a field; ``sealed``: with a digest that fits, as somebody would who knows how."""
    path = file_of(folder)
    found = json.loads(path.read_text(encoding="utf-8"))
    found[name] = value
    if sealed:
        found["digest"] = piece_digest(found)
    path.write_text(json.dumps(found), encoding="utf-8")


def test_what_is_fresh_is_used_with_its_files(folder: Path) -> None:
    kept = Kept(folder)
    piece = kept.take("text", KEY, whole)
    assert piece.content == CONTENT
    assert {path: (piece.files / path).read_bytes() for path in FILES} == FILES
    assert kept.reused == ["text"]
    assert kept.take("photo", KEY, whole) is None
    assert kept.stale == {}


def test_fresh_ignores_what_is_there(folder: Path) -> None:
    kept = Kept(folder, fresh=True)
    assert kept.take("text", KEY, whole) is None
    assert (kept.reused, kept.stale) == ([], {})


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("code", "e" * 64, "the code has changed"),
        ("checkpoint", "e" * 64, "the checkpoint has changed"),
        ("definition", "e" * 64, "the case or check has changed"),
        ("dtype", "bfloat16", "dtype: was float32, is bfloat16"),
        ("torch", "2.1", "torch: was 2.0, is 2.1"),
        ("threads", 2, "threads: was None, is 2"),
    ],
)
def test_what_is_stale_is_not_used_and_says_why(folder: Path, name: str, value: Any, why: str) -> None:
    kept = Kept(folder)
    assert kept.take("text", {**KEY, name: value}, whole) is None
    assert kept.stale == {"text": why}
    assert kept.reused == []


def _edit_file(folder: Path) -> None:
    (files_of(folder) / "report.json").write_bytes(b"{ }")


def _same_size(folder: Path) -> None:
    (files_of(folder) / "pictures/image-0.png").write_bytes(b"gnp")


def _remove_file(folder: Path) -> None:
    (files_of(folder) / "report.json").unlink()


def _add_file(folder: Path) -> None:
    (files_of(folder) / "more.html").write_text("x", encoding="utf-8")


def _link_file(folder: Path) -> None:
    path = files_of(folder) / "report.json"
    shutil.copy(path, folder / "elsewhere.json")
    path.unlink()
    path.symlink_to(folder / "elsewhere.json")


def _of_another(folder: Path) -> None:
    path = file_of(folder)
    shutil.copy(path, path.with_name(path.name.replace("text", "photo")))
    change(folder, "item", "photo", sealed=True)


def _garbage(folder: Path) -> None:
    file_of(folder).write_bytes(b"\xff{")


def _half(folder: Path) -> None:
    data = file_of(folder).read_bytes()
    file_of(folder).write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (lambda folder: change(folder, "content", {**CONTENT, "forwards": 4}), "its digest does not fit"),
        (lambda folder: change(folder, "key", {**KEY, "code": "e" * 64}), "its digest does not fit"),
        (lambda folder: change(folder, "files", {}), "its digest does not fit"),
        (lambda folder: change(folder, "folder", "../../etc", sealed=True), "not one of ours"),
        (lambda folder: change(folder, "folder", "text-" + "0" * 12, sealed=True), "changed or removed"),
        (lambda folder: change(folder, "schema_version", "0.9", sealed=True), "schema_version"),
        (lambda folder: change(folder, "extra", 1, sealed=True), "extra"),
        (lambda folder: change(folder, "item", "photo", sealed=True), "belongs into another file"),
        (_edit_file, "changed or removed"),
        (_same_size, "changed or removed"),
        (_remove_file, "changed or removed"),
        (_add_file, "changed or removed"),
        (_link_file, "changed or removed"),
        (_garbage, "cannot be read"),
        (_half, "cannot be read"),
    ],
)
def test_what_was_changed_is_not_used_and_says_why(folder: Path, fault: Callable[[Path], None], why: str) -> None:
    fault(folder)
    kept = Kept(folder)
    assert kept.take("text", KEY, whole) is None
    assert why in kept.stale["text"]
    kept.keep("text", KEY, CONTENT, FILES)
    assert Kept(folder).take("text", KEY, whole) is not None, "what is made anew can be used again"


def test_a_piece_that_does_not_agree_with_itself_is_not_used(folder: Path) -> None:
    def check(_piece: Piece) -> None:
        raise ParityError("its report is of another case")

    kept = Kept(folder)
    assert kept.take("text", KEY, check) is None
    assert kept.stale == {"text": "its report is of another case"}


def test_files_that_were_published_are_used_from_there(folder: Path) -> None:
    kept, published = Kept(folder), folder / "cases" / "text"
    shutil.copytree(kept.take("text", KEY, whole).files, published)
    kept.published()
    assert [path.name for path in (folder / FINISHED).iterdir()] == [file_of(folder).name]
    assert Kept(folder).take("text", KEY, whole, published=published).files == published
    assert Kept(folder).take("text", KEY, whole) is None
    (published / "report.json").write_bytes(b"[]\n")
    assert Kept(folder).take("text", KEY, whole, published=published) is None


def test_only_old_folders_that_nothing_names_are_removed(folder: Path) -> None:
    place = folder / FINISHED
    old, new, foreign = place / f"text-{'0' * 12}", place / f"text-{'1' * 12}", place / "mine"
    for path in (old, new, foreign):
        path.mkdir()
    long_ago = time.time() - 3 * 24 * 3600
    for path in (old, foreign, *(path for path in place.iterdir() if path.is_dir() and path != new)):
        os.utime(path, (long_ago, long_ago))
    kept = Kept(folder)
    assert not old.exists()
    assert new.exists()
    assert foreign.exists()
    assert kept.take("text", KEY, whole) is not None
