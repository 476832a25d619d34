"""Taps: named points at which a tensor can be read or replaced.

``x = tap("norm1", x)`` returns ``x`` itself if there is no listener; it only reads a context variable. A listener
gets the full name of the seam and the tensor, and the model continues with what it returns. The isolated comparison
uses this to give a part the reference's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Listener = Callable[[str, Tensor], Tensor]

_listener: ContextVar[Listener | None] = ContextVar("port_tap_listener", default=None)


class Tap:
    """The taps of one module; ``prefix`` is the part of the seam names that stands for the module."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def __call__(self, name: str, value: Tensor) -> Tensor:
        listener = _listener.get()
        return value if listener is None else listener(self.prefix + name, value)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send every tapped tensor of this thread to ``listener`` inside the ``with`` block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
