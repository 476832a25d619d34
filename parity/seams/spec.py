"""What a seam is: its name, axes and gate, and one value of it that both sides must give.

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
# How a chunked prefill makes up the whole value: it is produced once, or its pieces are joined.
Join = Literal["once", "concat", "last", "mask"]

_ROW_AXES = ("batch", "token", "key", "patch", "merged", "picture", "boundary", "frame", "y", "x", "row")


@dataclass(frozen=True)
class SeamSpec:
    """One kind of seam. ``layout`` names the axes; ``where`` says where the reference has it."""

    name: str
    layout: tuple[str, ...]
    where: str
    group: str
    gate: GateKind = "float"
    rows: Rows | None = None
    join: Join = "once"

    @property
    def token_axes(self) -> tuple[int, ...]:
        """Axes that count rows. The key axis counts rows only where the labels are those of the keys."""
        skipped = () if self.rows == "keys" else ("key",)
        return tuple(i for i, axis in enumerate(self.layout) if axis in _ROW_AXES and axis not in skipped)

    @property
    def axis_names(self) -> tuple[str, ...]:
        return tuple(self.layout[axis] for axis in self.token_axes)

    @property
    def chunked(self) -> bool:
        """Whether the chunks of a prefill follow each other in this value."""
        return self.join in ("concat", "mask")

    @property
    def chunk_axis(self) -> int:
        """The axis along which the chunks of a prefill follow each other."""
        return self.layout.index("token")


@dataclass(frozen=True)
class Expected:
    """A value that both sides must give. ``rows`` names the labels of its rows.

    ``unit`` is the size of a step where the gate counts steps.
    """

    key: SeamKey
    spec: SeamSpec
    step: str
    rows: SeamKey | None
    unit: float = 1.0


def label_key(rows: Rows, which: int | str) -> SeamKey:
    """Where the labels of some rows are kept: of tokens and keys by step, of patches by tower pass."""
    return SeamKey(f"rows.{rows}", which) if isinstance(which, int) else SeamKey(f"rows.{which}.{rows}", 0)
