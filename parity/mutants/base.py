"""What a mutant is, and the ways to plant one: replace a function, wrap it, or change its result or a seam's value."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Concatenate

from torch import Tensor

from parity.cases.case import StageName
from port.tap import Tap

Plant = Callable[[], AbstractContextManager[None]]
FLOAT32, BFLOAT16 = "float32", "bfloat16"
# The seam and step of a mistake for which the port refuses to load the checkpoint.
LOADING = "loading"
# Traits that many mistakes need.
FORWARD, PICTURE = frozenset({"forward"}), frozenset({"picture"})
IMAGE, VIDEO, BATCH = frozenset({"image"}), frozenset({"video"}), frozenset({"batch"})


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """The port with one known mistake.

    ``seam`` and ``step`` say where the mistake is made, and so where the first divergence must be; in a seam ``{}``
    stands for any number and ``|`` for "or", in a step ``*`` stands for anything. ``needs`` are the traits that a case
    must have to expose the mistake, see ``traits``. ``real``: the mistake was made by a real port, see ``source``.
    ``dtypes`` are those in which the mistake must be caught. ``invisible`` says why it cannot be caught in the others;
    each run checks that there all values are bit-equal or the planted seam is within its floor. ``loads``: the mistake
    is made while a checkpoint is loaded. ``stage`` is the stage that shows it.
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
        """Whether the mistake is made at this seam and step."""
        return bool(seam_pattern(self.seam).fullmatch(name)) and fnmatchcase(step, self.step)


def family(**shared: Any) -> Callable[Concatenate[str, str, Plant, ...], Mutant]:
    """A function that makes mutants: ``(id, title, plant, **own)``.

    ``shared`` are the fields that the mutants have in common. A mutant's ``own`` fields replace them.
    """

    def mutant(id: str, title: str, plant: Plant, /, **own: Any) -> Mutant:
        return Mutant(id=id, title=title, plant=plant, **{**shared, **own})

    return mutant


def seam_pattern(template: str) -> re.Pattern[str]:
    """A seam such as ``text.layers.{}.out`` as a pattern; its groups are the numbers."""
    return re.compile(re.escape(template).replace(r"\{\}", r"(\d+)").replace(r"\|", "|"))


@contextmanager
def replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    """``owner.name`` is ``new`` inside the ``with`` block and is always put back after it.

    Raises KeyError for an attribute that the owner only inherits: assigning the old value would not restore that.
    """
    old = vars(owner)[name]  # getattr would unwrap a classmethod
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old)


def around(owner: Any, name: str, wrapper: Callable[..., Any]) -> AbstractContextManager[None]:
    """``wrapper(original, *args, **kwargs)`` is called instead of a function or method."""
    original = vars(owner)[name]
    if isinstance(original, classmethod):
        bound = original.__func__
        return replaced(owner, name, classmethod(lambda *args, **kwargs: wrapper(bound, *args, **kwargs)))
    return replaced(owner, name, lambda *args, **kwargs: wrapper(original, *args, **kwargs))


def result_changed(owner: Any, name: str, change: Callable[[Any], Any]) -> AbstractContextManager[None]:
    """A function or method returns ``change(result)`` instead of its result."""
    return around(owner, name, lambda original, *args, **kwargs: change(original(*args, **kwargs)))


def altered(seam: str, change: Callable[..., Tensor]) -> AbstractContextManager[None]:
    """The value at a seam is replaced by ``change(value, *numbers)``, also for the rest of the model.

    ``numbers`` are those that the seam's ``{}`` stand for.
    """
    pattern = seam_pattern(seam)

    def call(original: Any, tap: Tap, name: str, value: Tensor) -> Tensor:
        match = pattern.fullmatch(tap.prefix + name)
        if match is not None:
            value = change(value, *map(int, match.groups()))
        return original(tap, name, value)

    return around(Tap, "__call__", call)
