"""What a process keeps from task to task, such as loaded models, and to whom it tells what it is doing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
Say = Callable[[str], None]
_kept: dict[str, Any] = {}
_say: list[Say] = []


def kept(name: str, make: Callable[[], T]) -> T:
    """Return what this process keeps under a name. It is made at the first call."""
    if name not in _kept:
        _kept[name] = make()
    found: T = _kept[name]
    return found


def say(what: str) -> None:
    """Tell whoever watches this process that it begins a piece of work."""
    for listener in _say:
        listener(what)


@contextmanager
def process_state(listener: Say) -> Iterator[None]:
    """Begin with nothing kept, pass what is said to ``listener``, and drop at the end what was kept."""
    _kept.clear()
    _say[:] = [listener]
    try:
        yield
    finally:
        _kept.clear()
        _say.clear()
