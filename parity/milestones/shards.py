"""Shards: the same list of things cut into parts, for machines that run side by side. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from parity.core.errors import ParityError

_MOST = 1000
T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, from 1. Every thing of a list is in exactly one part."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def mine(self, things: Sequence[T]) -> list[T]:
        """Return the things of this part: every ``count``-th, so that neighbours, which cost alike, are spread."""
        return list(things[self.index - 1 :: self.count])


def read_shard(text: str) -> Shard:
    """Read a shard such as 2/4. Raises ParityError for anything else."""
    found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]) <= _MOST:
        raise ParityError(
            f"{text!r} is not a shard; write it as 2/4: part 2 of 4, from 1/4 to 4/4, and at most {_MOST} parts"
        )
    return Shard(int(found[1]), int(found[2]))
