"""From results to report folders. Everything is written to a hidden folder first and moved into place when whole."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from parity.cli.signals import uninterrupted
from parity.core.errors import ParityError
from parity.qwen3vl.document import picture_file
from parity.qwen3vl.heatmaps import HeatMap
from reports.atomic import write_files
from reports.write import file_names, write_report

_DEPTH = 2  # a suite holds runs, and those hold nothing further


def report_folder(out: Path | None, name: str) -> Path:
    """Where a report goes: ``out``, or a new folder of the day under ``parity-reports``."""
    if out is not None:
        return out
    stem = f"{datetime.now():%Y-%m-%d-%H%M%S}-{name}"
    folder, number = Path("parity-reports") / stem, 2
    while folder.exists():
        folder, number = Path("parity-reports") / f"{stem}-{number}", number + 1
    return folder


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


def write_run(document: Mapping[str, Any], maps: Sequence[HeatMap], folder: Path) -> None:
    """All files of one run's report."""
    write_files({folder / picture_file(index): _png(heat_map) for index, heat_map in enumerate(maps)})
    write_report(document, folder)


def _png(heat_map: HeatMap) -> bytes:
    buffer = io.BytesIO()
    heat_map.image.save(buffer, format="PNG")
    return buffer.getvalue()
