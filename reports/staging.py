"""temporary"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import TracebackType

from parity.cli.signals import uninterrupted
from parity.core.errors import ParityError
from reports.write import file_names

_DEPTH = 2


class Staged:
    """A folder that appears whole, or not at all; one that is there is brought up to date whole, or not at all.

    Use as a context manager: write into ``work``. When the block ends well, its files are moved to ``folder``, where
    they replace their namesakes; of an earlier report, files that the new one lacks are removed, and nothing else
    is. When it ends otherwise, ``folder`` is as it was. Raises ParityError at once where nothing can be written.
    """

    def __init__(self, folder: Path, *, what: str = "report") -> None:
        # A link to a folder stays one: what it leads to is written.
        self.folder = folder.resolve()
        self._named, self._what = folder, what

    def __enter__(self) -> Staged:
        try:
            inside = self.folder.is_dir()
            if self.folder.exists() and not inside:
                raise FileExistsError(0, "it is a file")
            # Inside where the folder is there, because its parent may be another disk or closed to us.
            place = self.folder if inside else next(parent for parent in self.folder.parents if parent.exists())
            self.work = place / f".{self.folder.name}-{secrets.token_hex(6)}"
            self.work.mkdir()
        except OSError as error:
            raise self._refusal(error) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        with uninterrupted():
            try:
                if kind is None:
                    self._publish()
            except OSError as error:
                raise self._refusal(error) from None
            finally:
                shutil.rmtree(self.work, ignore_errors=True)

    def _publish(self) -> None:
        if not self.folder.exists():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.work, self.folder)
            return
        new = sorted(path.relative_to(self.work) for path in self.work.rglob("*") if path.is_file())
        stale = set(_earlier_files(self.folder)) - set(new)
        with _Backup(self.folder, self.work) as backup:
            for name in new:
                backup.keep(name)
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(self.work / name, self.folder / name)
            for name in stale:
                backup.keep(name)
                (self.folder / name).unlink()
        emptied = {parent for name in stale for parent in name.parents if parent != Path()}
        for parent in sorted(emptied, reverse=True):
            with suppress(OSError):
                (self.folder / parent).rmdir()  # only where nothing is left in it

    def _refusal(self, error: OSError) -> ParityError:
        return ParityError(
            f"the {self._what} cannot be written to {self._named}: {error.strerror or error}; name another folder"
        )


class _Backup:
    """Copies of what is about to be replaced; put back when the block fails."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self.copies = folder, work / f"earlier-{secrets.token_hex(6)}"
        self._kept: list[Path] = []

    def __enter__(self) -> _Backup:
        return self

    def keep(self, name: Path) -> None:
        if (self.folder / name).exists():
            (self.copies / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.folder / name, self.copies / name)
        self._kept.append(name)

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if kind is None:
            return
        for name in self._kept:
            with suppress(OSError):
                if (self.copies / name).exists():
                    os.replace(self.copies / name, self.folder / name)
                else:
                    (self.folder / name).unlink(missing_ok=True)


def _earlier_files(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """The files of the report that lies in a folder, relative to it; none where there is no report."""
    try:
        document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        kind, nested = document["kind"], []
        names = list(file_names(kind).values())
        if kind == "run":
            names += [picture["file"] for picture in document["pictures"]]
        else:
            nested = [case["report"] for case in document["cases"] if case["report"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return
    for name in names:
        if _inside(name) and (folder / name).is_file():
            yield Path(name)
    for name in nested if depth > 1 else ():
        if _inside(name):
            inner = Path(name).parent
            yield from (inner / path for path in _earlier_files(folder / inner, depth - 1))


def _inside(name: str) -> bool:
    """Whether a name from a file stays in the file's folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
