"""Runs a sign-off in a process of its own that dies, or whose disk fails, at a chosen step of its writing.

A step is one call that changes the disk: opening a file to write, the first half of its bytes, flushing it, renaming
it, making a folder. Nothing is left to luck: the n-th step of a run is always the same.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

Fault = Callable[[], None]
# Gets a function that tells the parent a line; returns the exit code.
Work = Callable[[Callable[[str], None]], int]


def kill() -> None:
    """End the process at once, as a power cut does."""
    os.kill(os.getpid(), signal.SIGKILL)


def full_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def read_only() -> None:
    raise OSError(errno.EROFS, "Read-only file system")


@dataclass(frozen=True)
class Ended:
    """How a process ended. ``code`` is None if it was killed; ``steps`` counts what it did, ``told`` what it said."""

    code: int | None
    steps: int
    told: list[str]


class _Half(io.BufferedWriter):
    """Writes half of the bytes, then the fault happens."""

    fault: Callable[[], bool]

    def write(self, data: Any) -> int:
        if self.fault():
            half = bytes(data)[: len(data) // 2]
            super().write(half)
            self.flush()
            self.hit()
        return super().write(data)

    hit: Fault


class Faults:
    """Counts the steps, and lets the fault happen at step ``at`` (from 1) and, with ``lasting``, at each one after."""

    def __init__(self, at: int | None, fault: Fault, *, lasting: bool = False) -> None:
        self.at, self.fault, self.lasting, self.steps = at, fault, lasting, 0

    def due(self) -> bool:
        self.steps += 1
        return self.at is not None and (self.steps == self.at or (self.lasting and self.steps > self.at))

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("replace", "rename", "mkdir", "fsync"):
            patch.setattr(os, name, self._before(getattr(os, name)))
        real_open, real_fdopen = os.open, os.fdopen

        def opened(path: Any, flags: int, *rest: Any, **options: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR) and self.due():
                self.fault()
            return real_open(path, flags, *rest, **options)

        def fdopened(handle: int, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if "w" not in mode:
                return real_fdopen(handle, mode, *rest, **options)
            made = _Half(io.FileIO(handle, mode))
            made.fault, made.hit = self.due, self.fault
            return made

        patch.setattr(os, "open", opened)
        patch.setattr(os, "fdopen", fdopened)

    def _before(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.due():
                self.fault()
            return real(*arguments, **options)

        return call


def in_child(work: Work, faults: Faults) -> Ended:
    """Run ``work`` in a forked process with the faults."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 99
        tell = writing

        def say(line: str) -> None:
            os.write(tell, f"{line}\n".encode())

        try:
            with pytest.MonkeyPatch.context() as patch:
                faults.install(patch)
                code = work(say)
                say(f"steps {faults.steps}")
        except BaseException:
            say(traceback.format_exc().replace("\n", " | "))
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        lines = stream.read().decode().splitlines()
    _, status = os.waitpid(child, 0)
    steps = next((int(line.split()[1]) for line in lines if line.startswith("steps ")), 0)
    told = [line for line in lines if not line.startswith("steps ")]
    return Ended(None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), steps, told)


def whole_files(folder: Path) -> list[Path]:
    """Every file of a folder that a reader would look at. Hidden ones are those that were being written."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
