"""What evidence belongs to: hashes of code, checkpoint, case and versions. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from parity.bundles.files import sha256_of

ROOMS = ("parity", "port", "reference")
VERSIONS = ("torch", "transformers", "numpy")
# The milestones have a digest of their own: evidence stays fresh when a must-pass list grows.
_NOT_CODE = (".pyc", ".toml", ".md")
_GIT_SECONDS = 30
HERE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Checkout:
    """The state of a checkout. ``commit`` is None and ``clean`` is None if it is not a git checkout: unknown."""

    commit: str | None
    clean: bool | None
    changes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The state in words."""
        if self.commit is None:
            return "commit unknown: this is not a git checkout"
        if self.clean:
            return f"commit {self.commit}, clean"
        count = len(self.changes)
        return f"commit {self.commit}, with {count} uncommitted change{'s' if count > 1 else ''}"


def code_digest(root: Path = HERE, rooms: Sequence[str] = ROOMS) -> str:
    """Return the sha256 over the names and contents of all code and data of rooms, by default of those that judge."""
    whole = hashlib.sha256()
    for path in sorted(_code_files(root, rooms), key=lambda path: path.relative_to(root).as_posix()):
        whole.update(f"{path.relative_to(root).as_posix()}\0{sha256_of(path)}\n".encode())
    return whole.hexdigest()


def _code_files(root: Path, rooms: Sequence[str]) -> Iterator[Path]:
    for room in rooms:
        for path in (root / room).rglob("*"):
            hidden = any(part == "__pycache__" or part.startswith(".") for part in path.relative_to(root).parts)
            if path.is_file() and not hidden and path.suffix not in _NOT_CODE:
                yield path


def checkout(root: Path = HERE) -> Checkout:
    """Return the git state of a folder: commit, changed files, and files of the code that git does not know."""
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD")
    # A package that is installed inside another project's checkout is not that project's code.
    if commit is None or top is None or Path(top.strip()).resolve() != root.resolve():
        return Checkout(None, None)
    known = _git(root, "status", "--porcelain=v1", "-z", "--untracked-files=no")
    # A report that was written into the checkout is no change of the code.
    code = _git(root, "status", "--porcelain=v1", "-z", "--untracked-files=all", "--", *ROOMS, "reports")
    if known is None or code is None:
        return Checkout(commit.strip(), None)
    changes = tuple(dict.fromkeys(line for line in (known + code).split("\0") if line))
    return Checkout(commit.strip(), not changes, changes)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Return the versions of the libraries that evidence depends on."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def installed() -> dict[str, str]:
    """Return what must be the same on every machine that takes part in a run: the digest of the code, and versions."""
    return {"code": code_digest(), **versions()}


def digest_json(value: Any) -> str:
    """Return the sha256 of the canonical JSON of a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def folder_digest(folder: Path) -> str:
    """Return the sha256 over the names and contents of all files of a folder."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\n".encode())
    return whole.hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return in words what differs between the keys of two pieces of evidence."""
    words = {
        "code": "the code has changed",
        "checkpoint": "the checkpoint has changed",
        "definition": "the case or check has changed",
        "bundle": "the bundle has changed",
        "traces": "the traces have changed",
    }
    found = []
    for name in dict.fromkeys([*old, *new]):
        before, now = old.get(name), new.get(name)
        if before != now:
            found.append(words.get(name, f"{name}: was {before}, is {now}"))
    return found
