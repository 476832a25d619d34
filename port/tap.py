"""Taps: named points at which a computation can be read, or its value replaced.

``x = tap("norm1", x)`` returns ``x`` itself when nobody listens: one context-variable read, no copy and no
name built. A listener gets the full seam name and the tensor, and whatever it returns is what the model goes
on with, so the isolated reading can feed a part the reference's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Listener = Callable[[str, Tensor], Tensor]

_listener: ContextVar[Listener | None] = ContextVar("port_tap_listener", default=None)


class Tap:
    """The taps of one module; ``prefix`` is the module's place in the seam names."""

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
