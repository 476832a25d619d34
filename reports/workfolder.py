"""The hidden folder that a report is written to, and what killed runs left of such folders.

A work folder is named ``.NAME-<12 hex digits>`` and holds a file that says who made it. Only a folder with that file,
and with nothing beside what a work folder holds, counts as ours.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

_NAME = re.compile(r"\..*-[0-9a-f]{12}")
_OWNER, _FILES, _COPIES = "owner.json", "files", "earlier"
_PURPOSE = "a report of qwen3vl-parity that is being written"
_DAY = 24 * 60 * 60.0


class WorkFolder:
    """A new hidden folder in ``place``: ``files`` for the report, ``copies`` for copies of an earlier one.

    Raises OSError where it cannot be made.
    """

    def __init__(self, place: Path, *, name: str) -> None:
        self._folder = place / f".{name}-{secrets.token_hex(6)}"
        self.files, self.copies = self._folder / _FILES, self._folder / _COPIES
        self._folder.mkdir()
        try:
            owner = {"purpose": _PURPOSE, "pid": os.getpid(), "host": platform.node()}
            (self._folder / _OWNER).write_text(json.dumps(owner), encoding="utf-8")
            self.files.mkdir()
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the folder and all that is in it; what cannot be removed stays."""
        shutil.rmtree(self._folder, ignore_errors=True)


def remove_leftovers(place: Path) -> None:
    """Remove the work folders of runs that were killed: the process is gone, or nothing has changed for a day."""
    with suppress(OSError):  # a folder that can be written need not be readable
        for folder in place.iterdir():
            if _NAME.fullmatch(folder.name) and _left_over(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _left_over(folder: Path) -> bool:
    try:
        if folder.is_symlink() or not folder.is_dir():
            return False
        if not {path.name for path in folder.iterdir()} <= {_OWNER, _FILES, _COPIES}:
            return False
        owner = _owner(folder / _OWNER)
        return owner is not None and (_process_gone(owner) or time.time() - _last_change(folder) > _DAY)
    except OSError:
        return False  # somebody else is removing it, or it is not ours to read


def _owner(path: Path) -> dict[str, Any] | None:
    """What the file of a work folder says; None where it is not such a file."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > 4096:
        return None
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(owner, dict) or set(owner) != {"purpose", "pid", "host"} or owner["purpose"] != _PURPOSE:
        return None
    return owner if type(owner["pid"]) is int and owner["pid"] > 0 else None


def _process_gone(owner: dict[str, Any]) -> bool:
    # A number of another machine, or of another container, says nothing here.
    return bool(owner["host"] == platform.node()) and not psutil.pid_exists(owner["pid"])


def _last_change(folder: Path) -> float:
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
