"""The files of a bundle: names, sizes and sha256. A file that was changed, added or removed is named."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from parity.core.errors import ParityError

BUNDLE = "bundle.json"
# A relative path with '/' that stays inside the bundle on every system.
SAFE_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")


class BundleError(ParityError):
    """A bundle that cannot be used: it was changed, is not complete, or fits another version."""


def inventory(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the sha256 and the size of every file below ``folder``, except ``bundle.json`` itself."""
    return {
        name: {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}
        for name in sorted(walk(folder))
        if name != BUNDLE
    }


def check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise BundleError with the name of the first file that is not as ``files`` says. Sizes are compared first."""
    unsafe = next((name for name in files if not SAFE_PATH.fullmatch(name)), None)
    if unsafe is not None:
        raise BundleError(f"{folder / BUNDLE} names the file {unsafe!r}; names are relative and stay in the bundle")
    found = set(walk(folder)) - {BUNDLE}
    for what, names in (("is missing", set(files) - found), ("is not listed in bundle.json", found - set(files))):
        if names:
            raise BundleError(f"{folder / min(names)} {what}; the bundle was changed, copy it again")
    for name, known in files.items():
        size = (folder / name).stat().st_size
        if size != known["bytes"]:
            raise BundleError(f"{folder / name} has {size:,} bytes, bundle.json says {known['bytes']:,}; copy it again")
    for name, known in files.items():
        found_digest, listed = sha256_of(folder / name), known["sha256"]
        if found_digest != listed:
            raise BundleError(
                f"{folder / name} was changed: its sha256 is {found_digest}, bundle.json says {listed}; copy it again"
            )


def walk(folder: Path) -> Iterator[str]:
    """Yield the relative path of every file. Raises BundleError for links, pipes and devices."""
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place) / name
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise BundleError(f"{path} is a link, a pipe or a device; a bundle has only files and folders")
        yield from ((Path(place) / name).relative_to(folder).as_posix() for name in names)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(document: Mapping[str, Any]) -> str:
    """Return the sha256 of the canonical JSON of a document without its field ``sha256``."""
    rest = {name: value for name, value in document.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
