"""Records what a method of one object returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def recording(owner: Any, name: str, record: Callable[[Any], object]) -> Iterator[None]:
    """Record what ``owner.name`` returns inside the block. Only the object is wrapped, not its class."""
    original, own = getattr(owner, name), name in vars(owner)

    def call(*args: Any, **kwargs: Any) -> Any:
        value = original(*args, **kwargs)
        record(value)
        return value

    setattr(owner, name, call)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)
