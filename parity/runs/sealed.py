"""Folders of files that are kept between runs, with a seal: whatever was changed since is noticed and not used.

The seal is a keyed hash over the list of all files with their sha256. Its secret lies in the user's own data folder,
so that nobody else can make a seal, whoever can write to the kept folder. Files are copied while they are hashed: what
is used is what was checked.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from parity.core.errors import ParityError

ENTRY = "entry.json"
SECRET_VARIABLE = "QWEN3VL_PARITY_SECRET"  # a file to use instead of the one in the user's data folder
_NAME = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?")
_SECRET_BYTES, _ENTRY_BYTES, _CHUNK = 32, 16 * 2**20, 2**22


class Broken(Exception):
    """A kept folder that cannot be used; the message says why."""


class SecretError(ParityError):
    """The user's secret cannot be used."""


def seal_folder(work: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write ``entry.json``, with ``content``, for all files of ``work``. The folder may then be put in its place."""
    files = {
        path.relative_to(work).as_posix(): {"sha256": _copied(path, None), "bytes": path.stat().st_size}
        for path in sorted(work.rglob("*"))
        if path.is_file()
    }
    entry = {"name": name, "content": dict(content), "files": files}
    sealed = {**entry, "seal": _seal(entry)}
    (work / ENTRY).write_text(json.dumps(sealed, indent=1) + "\n", encoding="utf-8")


def open_sealed(folder: Path, name: str, into: Path) -> dict[str, Any]:
    """Copy the files of a sealed folder to ``into`` while they are checked, and return the content of its entry.

    Raises Broken for anything that is not as it was sealed. Then nothing in ``into`` may be used. Raises SecretError.
    """
    try:
        entry = _entry(folder)
        seal = entry.pop("seal")
        if not isinstance(seal, str) or not hmac.compare_digest(seal, _seal(entry)):
            raise Broken("its seal is not from this user on this machine, or its entry was changed")
        if entry["name"] != name:
            raise Broken("it was sealed under another name")
        listed = entry["files"]
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {ENTRY}
        if found != set(listed):
            raise Broken(f"it does not have the files that it lists: {sorted(found ^ set(listed))[:3]}")
        for file, known in listed.items():
            if not _FILE.fullmatch(file):
                raise Broken(f"it names the file {file!r}")
            source = folder / file
            if not stat.S_ISREG(source.lstat().st_mode) or source.stat().st_size != known["bytes"]:
                raise Broken(f"{file} is not a file of {known['bytes']:,} bytes")
            target = into / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if _copied(source, target) != known["sha256"]:
                raise Broken(f"{file} was changed")
        content: dict[str, Any] = entry["content"]
        return content
    except SecretError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Broken(f"{type(error).__name__}: {error}") from None


def put(work: Path, folder: Path) -> None:
    """Put a sealed folder in its place. If one is there, it is replaced."""
    if folder.exists():
        remove(folder)
    try:
        os.replace(work, folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(work, ignore_errors=True)  # another run was faster


def remove(folder: Path) -> None:
    """Remove a kept folder. It is renamed first, so that nobody finds half of it."""
    gone = Path(tempfile.mkdtemp(prefix=".gone-", dir=folder.parent))
    try:
        os.replace(folder, gone / folder.name)
    finally:
        shutil.rmtree(gone, ignore_errors=True)


def kept_folders(parent: Path) -> Iterator[tuple[Path, float, int]]:
    """Yield every kept folder in ``parent``, the time when it was last used, and its bytes. Others are left alone."""
    for folder in parent.iterdir():
        if _NAME.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
            used = (folder / ENTRY).stat().st_mtime if (folder / ENTRY).is_file() else 0.0
            yield folder, used, sum(path.stat().st_size for path in files)


def make_room(parent: Path, most_bytes: int, *, spare: Path) -> None:
    """Remove kept folders, those not used for longest first, until all together have at most ``most_bytes``."""
    known = sorted(kept_folders(parent), key=lambda each: (each[0] == spare, each[1]))
    total = sum(size for _folder, _used, size in known)
    for folder, _used, size in known:
        if total <= most_bytes:
            return
        remove(folder)
        total -= size


def _entry(folder: Path) -> dict[str, Any]:
    path = folder / ENTRY
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _ENTRY_BYTES:
        raise Broken(f"{ENTRY} is not a file of at most {_ENTRY_BYTES:,} bytes")
    entry = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(entry, dict) or entry.keys() != {"name", "content", "files", "seal"}:
        raise Broken(f"{ENTRY} does not have the fields of an entry")
    return entry


def _copied(source: Path, target: Path | None) -> str:
    """Return the sha256 of a file; with ``target``, of the bytes that were copied there."""
    digest = hashlib.sha256()
    with source.open("rb") as read, open(os.devnull if target is None else target, "wb") as write:
        while chunk := read.read(_CHUNK):
            digest.update(chunk)
            if target is not None:
                write.write(chunk)
    return digest.hexdigest()


def _seal(entry: Mapping[str, Any]) -> str:
    text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hmac.new(_secret(), text.encode("ascii"), hashlib.sha256).hexdigest()


def _secret() -> bytes:
    """Return the user's secret, made on first use. Raises SecretError if others can read it or have made it."""
    given = os.environ.get(SECRET_VARIABLE)
    path = Path(given) if given else Path(platformdirs.user_data_dir("qwen3vl-parity")) / "seal"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(made, "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
    status = path.stat()
    foreign = os.name == "posix" and (status.st_uid != os.getuid() or status.st_mode & 0o077)
    secret = path.read_bytes()
    if foreign or len(secret) != _SECRET_BYTES:
        raise SecretError(
            f"{path} must be a file of {_SECRET_BYTES} bytes that only you can read, it has {len(secret)} and the mode "
            f"{stat.filemode(status.st_mode)}; remove it, and a new one is made"
        )
    return secret
