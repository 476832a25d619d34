"""Files appear whole or not at all: each is written to a temporary file beside it, which then replaces it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from reports.errors import ReportError

# A temporary file of this age was left by a process that was killed.
_LEFT_SECONDS = 3600


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write every file, or leave every previous file as it was.

    All temporary files are complete and flushed before the first replace, so that a full disk, an
    error or Ctrl-C while writing changes nothing. The replaces then follow in the mapping's order.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for path, data in files.items():
            make_folder(path.parent)
            _remove_left(path)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
            # Listed before it exists: an interrupt right after open() still finds it to remove.
            staged.append((temporary, path))
            _write(temporary, data=data, target=path)
        for temporary, path in staged:
            try:
                os.replace(temporary, path)
            except OSError as error:
                raise ReportError(_refusal(path, error=error)) from error
    finally:
        # After a success nothing is left to remove; BaseException (Ctrl-C) passes through here too.
        for temporary, _ in staged:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_bytes(path: Path, *, data: bytes) -> None:
    """Write one file atomically."""
    write_files({path: data})


def write_text(path: Path, *, text: str) -> None:
    """Write one UTF-8 file atomically, newlines as given."""
    write_files({path: text.encode("utf-8")})


def make_folder(folder: Path) -> None:
    """Create a folder and its parents."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ReportError(
            f"{folder} cannot be the report folder: a file of that name is there; remove it or name another folder"
        ) from error
    except OSError as error:
        raise ReportError(
            f"{folder} cannot be created: {error.strerror or error}; name a folder below one that you can write to"
        ) from error


def _remove_left(target: Path) -> None:
    """Remove old temporary files of ``target``. Newer ones may belong to a process that is writing now."""
    left = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{12}}\.tmp")
    with contextlib.suppress(OSError):
        for path in target.parent.iterdir():
            if left.fullmatch(path.name) and time.time() - path.lstat().st_mtime > _LEFT_SECONDS:
                path.unlink(missing_ok=True)


def _write(temporary: Path, *, data: bytes, target: Path) -> None:
    try:
        # os.open with 0666 lets the umask decide the mode; tempfile would make the report private (0600).
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise ReportError(_refusal(target, error=error)) from error


def _refusal(path: Path, *, error: OSError) -> str:
    return (
        f"{path} cannot be written: {error.strerror or error}; its previous content, if any, is untouched. "
        "Free some space, change the permissions of the folder or name another folder"
    )
