"""Tasks and results as JSON: a function's name and its arguments there, what it returned or raised back."""

from __future__ import annotations

import importlib
import json
import traceback
from collections.abc import Callable
from typing import Any

from parity.core.errors import ParityError


class WorkerLost(ParityError):
    """The process that ran a task ended each time it was tried, for example because it was out of memory."""


class TaskFailed(RuntimeError):
    """A task raised an error that is neither the user's nor the machine's. The text has the worker's traceback."""


def name_of(function: Callable[..., Any]) -> str:
    """Return the name by which another process finds a function. Raises ValueError if it would not find it."""
    module, qualified = function.__module__, function.__qualname__
    if module == "__main__" or "<" in qualified:
        raise ValueError(f"{module}.{qualified} is not a function of a module, so another process cannot find it")
    return f"{module}:{qualified}"


def message(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """Return a task as JSON. Raises TypeError or ValueError for arguments that are not plain data."""
    return json.dumps({"function": name_of(function), "arguments": arguments}, allow_nan=False)


def call(text: str) -> str:
    """Do a task that ``message`` made, in the process that calls this. Returns its result or its error as JSON."""
    try:
        task = json.loads(text)
        result = _function(task["function"])(*task["arguments"])
        return json.dumps({"result": result}, allow_nan=False)
    except Exception as error:
        return refused(error)


def refused(error: Exception) -> str:
    """Return the answer of a task that raised an error, as JSON."""
    return json.dumps({"error": _error(error)})


def _function(name: str) -> Callable[..., Any]:
    module, _, qualified = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualified.split("."):
        found = getattr(found, part)
    function: Callable[..., Any] = found
    return function


def _error(error: Exception) -> dict[str, Any]:
    kind = next((name for name, known in _KINDS.items() if isinstance(error, known)), "other")
    shown = "".join(traceback.format_exception(error))
    return {
        "kind": kind,
        "text": str(error) if kind != "other" else f"{type(error).__name__}: {error}",
        "errno": getattr(error, "errno", None),
        "strerror": getattr(error, "strerror", None),
        "filename": str(getattr(error, "filename", None) or ""),
        "traceback": shown,
    }


_KINDS: dict[str, type[Exception]] = {"user": ParityError, "memory": MemoryError, "system": OSError}


def result(text: str) -> Any:
    """Return what a task returned, or raise its error: ParityError, OSError and MemoryError as they were."""
    found = json.loads(text)
    if "result" in found:
        return found["result"]
    error = found["error"]
    if error["kind"] == "user":
        raise ParityError(error["text"])
    if error["kind"] == "memory":
        raise MemoryError(error["text"])
    if error["kind"] == "system" and error["strerror"]:
        raise OSError(error["errno"], error["strerror"], error["filename"] or None)
    raise TaskFailed(f"{error['text']} (in a worker)\n{error['traceback']}")


def plain(value: float | None) -> float | str | None:
    """Return a number as JSON has it; NaN and Inf become text. ``number`` turns it back."""
    return value if value is None or value - value == 0 else str(value)


def number(value: float | str | None) -> float | None:
    """Return the number that ``plain`` wrote."""
    return None if value is None else float(value)
