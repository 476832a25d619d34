"""What gives the evidence of an item, and how its errors become evidence. Needs no torch."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from parity.core.errors import ParityError
from parity.milestones.plan import Item
from parity.milestones.records import evidence
from parity.milestones.records.evidence import Content

Key = dict[str, Any]


class Source(Protocol):
    """Gives evidence. ``key`` says what the evidence of an item belongs to; it is cheap, ``give`` is not."""

    def key(self, item: Item) -> Key: ...

    def give(self, item: Item) -> Content: ...

    def order(self, item: Item) -> str:
        """Items with the same word run one after another."""
        ...

    def checkpoints(self) -> Mapping[str, str]:
        """The sha256 of every checkpoint, by name, that has been used so far."""
        ...


def isolated(give: Callable[[Item], Content], item: Item) -> Content:
    """Give evidence; an error becomes the evidence of this item alone.

    What the harness refuses, and what the machine cannot do, is an error of the set-up. Anything else counts as a
    failure of the subject: it is not signed off until somebody has looked.
    """
    try:
        return give(item)
    except Exception as error:
        return evidence.of_error(_text(error), side=_side(error))


def _side(error: Exception) -> str:
    if _raised_in(error, "port"):
        return "subject"
    room = type(error).__module__.split(".")[0]
    refused = isinstance(error, ParityError) or room in ("reference", "reports")
    return "setup" if refused or isinstance(error, (ImportError, OSError, MemoryError)) else "subject"


def _raised_in(error: Exception, room: str) -> bool:
    """Whether the innermost frame of the project's own code is in a room."""
    root = Path(__file__).parents[2]
    own = [
        Path(frame.filename).relative_to(root).parts[0]
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(root) and Path(frame.filename).relative_to(root).parts[0] in _ROOMS
    ]
    return bool(own) and own[-1] == room


_ROOMS = ("parity", "port", "reference", "reports")


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip()[:2000]
