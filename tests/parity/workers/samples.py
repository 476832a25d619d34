"""Tasks for the tests of the workers. They are found by name in other processes, so they are plain functions."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from parity.core.errors import ParityError
from parity.workers import state

Task = dict[str, Any]


def double(task: Task) -> dict[str, int]:
    """Return twice the number, and say it. With a folder, leave a mark there for each time that this ran."""
    state.say(f"double {task['number']}")
    if "folder" in task:
        (Path(task["folder"]) / f"{task['number']}-{time.monotonic_ns()}").touch()
    return {"double": 2 * task["number"]}


def dies(task: Task) -> dict[str, int]:
    """Kill the own process, ``times`` times in all over all processes; then do as ``double`` does."""
    marks = Path(task["folder"])
    if task.get("times", 0) > len(list(marks.glob("death-*"))):
        (marks / f"death-{time.monotonic_ns()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return double(task)


def leaves(_task: Task) -> None:
    """End the own process with exit code 3."""
    os._exit(3)


def fails(task: Task) -> None:
    """Raise the error of a name."""
    errors: dict[str, Exception] = {
        "user": ParityError("name another folder"),
        "disk": OSError(28, "No space left on device", "/some/file"),
        "memory": MemoryError("40 GiB"),
        "other": KeyError("planted"),
    }
    raise errors[task["error"]]


def sleeps(task: Task) -> None:
    """Leave the own process id in a file, and sleep for longer than any test waits."""
    Path(task["file"]).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(300)


def counts(_task: Task) -> int:
    """Return how often this process did this task."""
    seen = state.kept("seen", list[int])
    seen.append(1)
    return len(seen)


def installation() -> dict[str, str]:
    """What every worker must have."""
    return {"code": "c" * 64}


def other_installation() -> dict[str, str]:
    """What is another on every process that is asked."""
    return {"code": str(time.monotonic_ns())}
