"""The description of a seam: its name, axes and gate; and of a value that both sides must give.

Axis legend
    batch, token      rows of the batch, new tokens of the step
    key               all tokens so far
    patch, merged     patches of a tower pass, merged patches (tokens) of a pass
    frame, y, x       frames, rows and columns of pixels
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from parity.core.trace import GateKind, SeamKey

Rows = Literal["tokens", "keys", "patches", "merged"]
# How the chunks of a prefill give the whole value: it is produced once, or its pieces are joined.
Join = Literal["once", "concat", "last", "mask"]

_ROW_AXES = ("batch", "token", "key", "patch", "merged", "picture", "boundary", "frame", "y", "x", "row")


@dataclass(frozen=True)
class SeamSpec:
    """One kind of seam. ``layout`` names the axes; ``where`` is its place in the reference."""

    name: str
    layout: tuple[str, ...]
    where: str
    group: str
    gate: GateKind = "float"
    rows: Rows | None = None
    join: Join = "once"

    @property
    def token_axes(self) -> tuple[int, ...]:
        """The axes that count rows. The key axis only counts rows if the rows' labels are those of the keys."""
        skipped = () if self.rows == "keys" else ("key",)
        return tuple(i for i, axis in enumerate(self.layout) if axis in _ROW_AXES and axis not in skipped)

    @property
    def axis_names(self) -> tuple[str, ...]:
        return tuple(self.layout[axis] for axis in self.token_axes)

    @property
    def chunked(self) -> bool:
        """Whether each chunk of a prefill gives a part of this value."""
        return self.join in ("concat", "mask")

    @property
    def chunk_axis(self) -> int:
        """The axis along which the chunks of a prefill are joined."""
        return self.layout.index("token")


@dataclass(frozen=True)
class Expected:
    """A value that both sides must give. ``rows`` names the labels of its rows.

    ``unit`` is the size of a step if the gate counts steps.
    """

    key: SeamKey
    spec: SeamSpec
    step: str
    rows: SeamKey | None
    unit: float = 1.0


def label_key(rows: Rows, which: int | str) -> SeamKey:
    """Return the key of row labels: by step for tokens and keys, by tower pass for patches."""
    return SeamKey(f"rows.{rows}", which) if isinstance(which, int) else SeamKey(f"rows.{which}.{rows}", 0)
