"""Report folders are written to a hidden folder first, and moved into place when they are complete."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType

from reports.earlier import earlier_files
from reports.errors import ReportError
from reports.workfolder import WorkFolder, remove_leftovers


class Staged:
    """A folder that appears whole or not at all. One that exists is updated as a whole or not at all.

    Use as a context manager: write into ``work``. When the block ends well, its files are moved to ``folder``, where
    they replace files of the same names. Files of an earlier report that the new one lacks are removed; all other
    files stay. When the block ends otherwise, ``folder`` is as it was. Raises ReportError at once where nothing can
    be written.
    """

    def __init__(self, folder: Path, *, what: str = "report") -> None:
        # A link to a folder stays one: the folder that it leads to is written.
        self.folder = folder.resolve()
        self._named, self._what = folder, what

    def __enter__(self) -> Staged:
        try:
            inside = self.folder.is_dir()
            if self.folder.exists() and not inside:
                raise FileExistsError(0, "it is a file")
            # Inside where the folder is there, because its parent may be on another disk or not writable.
            place = self.folder if inside else next(parent for parent in self.folder.parents if parent.exists())
            remove_leftovers(place)
            self._hidden = WorkFolder(place, name=self.folder.name)
            self.work = self._hidden.files
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
                self._hidden.remove()

    def _publish(self) -> None:
        if not self.folder.exists():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.work, self.folder)
            return
        new = sorted(path.relative_to(self.work) for path in self.work.rglob("*") if path.is_file())
        stale = earlier_files(self.folder) - set(new)
        with _Backup(self.folder, self._hidden.copies) as backup:
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

    def _refusal(self, error: OSError) -> ReportError:
        return ReportError(
            f"the {self._what} cannot be written to {self._named}: {error.strerror or error}; name another folder"
        )


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM inside the block, which is a few renames: either all of them happen or none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """The block ends within milliseconds, and what it does must not be left half done."""


class _Backup:
    """Copies of what is about to be replaced; put back when the block fails."""

    def __init__(self, folder: Path, copies: Path) -> None:
        self.folder, self.copies = folder, copies
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
