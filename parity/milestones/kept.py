"""Finished work that is kept in a folder, so that a run that was killed can go on. Needs no torch.

Each finished piece is a file with its key (hashes of code, checkpoint, case and versions), its content, the sha256 of
the files that belong to it, and a digest over all of that. The file is written last, and whole or not at all. It is
used again only if its key is that of the new run and nothing in it or beside it was changed.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from parity.bundles.files import BundleError, inventory, walk
from parity.bundles.jsonfile import check_schema, read_json
from parity.core.errors import ParityError, TraceError
from parity.milestones.collect import file_name
from parity.milestones.keys import differences, digest_json
from reports.atomic import write_bytes, write_files

FINISHED = "finished"
_VERSION = "1.0"
_FOLDER = re.compile(r"[A-Za-z0-9._-]{1,120}-[0-9a-f]{12}")
_DAY = 24 * 60 * 60.0
Key = Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """A finished piece: its content, and the folder with its files, if it has some."""

    content: dict[str, Any]
    files: Path | None


class Kept:
    """The finished work in ``folder/finished``. With ``fresh``, nothing of an earlier run is used.

    ``reused`` are the pieces that were used again. ``stale`` says why others were not.
    """

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self._place, self._fresh = folder / FINISHED, fresh
        self.reused: list[str] = []
        self.stale: dict[str, str] = {}
        self._mine: set[Path] = set()
        self._remove_leftovers()

    def take(self, name: str, key: Key, check: Callable[[Piece], Any], *, published: Path | None = None) -> Any:
        """Return ``check(piece)`` of a piece that is fresh and unchanged, or None.

        ``published`` is another folder in which its files may be. ``check`` raises ValueError for a piece that does
        not agree with itself.
        """
        path = self._place / file_name(name)
        if self._fresh or not path.exists():
            return None
        try:
            found = check(self._read(name, key, path, published))
        except (ValueError, OSError, KeyError, TypeError) as error:
            self.stale[name] = str(error)
            return None
        self.reused.append(name)
        return found

    def _read(self, name: str, key: Key, path: Path, published: Path | None) -> Piece:
        found = read_json(path)
        check_schema(found, _validator(), path)
        if found["item"] != name:
            raise TraceError(f"{path} is of {found['item']}, which belongs into another file")
        if piece_digest(found) != found["digest"]:
            raise TraceError(f"{path} was changed: its digest does not fit")
        if found["key"] != key:
            raise ParityError("; ".join(differences(found["key"], key)))
        if not found["files"]:
            return Piece(found["content"], None)
        if not _FOLDER.fullmatch(str(found["folder"])):
            raise TraceError(f"{path} names the folder {found['folder']!r}, which is not one of ours")
        own = self._place / found["folder"]
        for place in (own, published):
            if place is not None and place.is_dir() and not place.is_symlink() and _holds(place, found["files"]):
                if place == own:
                    self._mine.add(own)
                return Piece(found["content"], place)
        raise TraceError(f"the files of {name} were changed or removed")

    def keep(self, name: str, key: Key, content: Mapping[str, Any], files: Mapping[str, bytes]) -> Piece:
        """Write a finished piece with its files."""
        path = self._place / file_name(name)
        folder = self._place / f"{path.stem}-{secrets.token_hex(6)}"
        if files:
            write_files({folder / file: data for file, data in files.items()})
            self._mine.add(folder)
        made = {
            "schema_version": _VERSION,
            "item": name,
            "key": dict(key),
            "content": dict(content),
            "files": inventory(folder) if files else {},
            "folder": folder.name if files else None,
        }
        # The content as it will be read: a tuple becomes a list.
        whole = json.loads(json.dumps({**made, "digest": piece_digest(made)}, allow_nan=False))
        check_schema(whole, _validator(), path)
        write_bytes(path, data=(json.dumps(whole) + "\n").encode("ascii"))
        return Piece(whole["content"], folder if files else None)

    def published(self) -> None:
        """Remove the folders of files that have been published elsewhere: the files there are used from now on."""
        for folder in self._mine:
            shutil.rmtree(folder, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Remove folders that no file names, if nothing has changed there for a day: their run was killed."""
        if not self._place.is_dir():
            return
        stems = {path.stem: path for path in self._place.glob("*.json")}
        for folder in self._place.iterdir():
            if not (_FOLDER.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink()):
                continue
            path = stems.get(folder.name[:-13])
            named = path is not None and folder.name in path.read_text(encoding="utf-8", errors="replace")
            if not named and time.time() - folder.stat().st_mtime > _DAY:
                shutil.rmtree(folder, ignore_errors=True)


def piece_digest(found: Mapping[str, Any]) -> str:
    """Return the digest over everything but the digest itself."""
    return digest_json({name: value for name, value in found.items() if name != "digest"})


def _holds(folder: Path, files: Mapping[str, Any]) -> bool:
    """Whether a folder has exactly these files, unchanged."""
    try:
        return set(walk(folder)) == set(files) and inventory(folder) == dict(files)
    except (BundleError, OSError):
        return False


@cache
def _validator() -> jsonschema.Draft202012Validator:
    text = resources.files("parity.milestones").joinpath("kept.schema.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))
