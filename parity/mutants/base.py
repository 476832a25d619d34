"""What a mutant is, and the three ways to plant one: replace a function, wrap it, or change what a tap carries."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from parity.cases.case import StageName
from port.tap import Tap

Plant = Callable[[], AbstractContextManager[None]]
FLOAT32, BFLOAT16 = "float32", "bfloat16"
# Where a checkpoint that the port refuses to load is "first seen to part".
LOADING = "loading"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """The port with one known mistake.

    ``seam`` (``{}`` stands for any number, ``|`` for or) and ``step`` (``*`` for anything) say where the mistake is
    made, so where the first divergence must be. ``needs`` are the traits of a case that expose it, see
    ``traits``. ``dtypes`` are those in which it must be caught; ``invisible`` says why it is not in the others, and
    each run checks it: every value bit-equal, or the planted seam within its floor. ``loads``: the mistake is made
    while a checkpoint is loaded. ``stage``: the stage that shows it.
    """

    id: str
    title: str
    component: str
    seam: str
    step: str
    plant: Plant
    needs: frozenset[str] = frozenset()
    real: bool = False
    source: str = "made up"
    dtypes: tuple[str, ...] = (FLOAT32, BFLOAT16)
    invisible: str = ""
    loads: bool = False
    stage: StageName = "model"

    def is_at(self, name: str, step: str) -> bool:
        """Whether a divergence at this seam and step is where the mistake was made."""
        return bool(seam_pattern(self.seam).fullmatch(name)) and fnmatchcase(step, self.step)


def seam_pattern(template: str) -> re.Pattern[str]:
    """``text.layers.{}.out`` as a pattern whose groups are the numbers."""
    return re.compile(re.escape(template).replace(r"\{\}", r"(\d+)").replace(r"\|", "|"))


@contextmanager
def replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    """``owner.name`` is ``new`` inside the block, and what it was before after it, whatever happens inside.

    Only what the owner itself defines: an inherited attribute could not be put back by assigning it.
    """
    old = vars(owner)[name]  # not getattr, which would unwrap a classmethod
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old)


def around(owner: Any, name: str, wrapper: Callable[..., Any]) -> AbstractContextManager[None]:
    """``wrapper(original, *args, **kwargs)`` is called in place of a function or method."""
    original = vars(owner)[name]
    if isinstance(original, classmethod):
        bound = original.__func__
        return replaced(owner, name, classmethod(lambda *args, **kwargs: wrapper(bound, *args, **kwargs)))
    return replaced(owner, name, lambda *args, **kwargs: wrapper(original, *args, **kwargs))


def altered(seam: str, change: Callable[..., Tensor]) -> AbstractContextManager[None]:
    """``change(value, *numbers)`` makes the value at a seam; the model reads it there and goes on with it."""
    pattern = seam_pattern(seam)

    def call(original: Any, tap: Tap, name: str, value: Tensor) -> Tensor:
        match = pattern.fullmatch(tap.prefix + name)
        if match is not None:
            value = change(value, *map(int, match.groups()))
        return original(tap, name, value)

    return around(Tap, "__call__", call)


def rounded(value: Tensor, dtype: Any) -> Tensor:
    """The value as it is after a detour through a narrower dtype."""
    return value.to(dtype).to(value.dtype)
