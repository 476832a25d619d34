"""What the template of the drawing needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.model.layout import draw
from reports.model.parts import MOST_ROWS, TONES, Part, Row

_NEAREST = 12


def model_context(parts: Mapping[str, Part]) -> dict[str, Any]:
    """The parts, their drawing, and the names of the tones."""
    return {
        "model_parts": parts,
        "drawing": draw(parts),
        "part_tones": TONES,
        "most_part_rows": MOST_ROWS,
        "nearest_rows": nearest(parts),
    }


def nearest(parts: Mapping[str, Part]) -> list[Row]:
    """The seams where a fault starts, the others that fail, then those nearest to their gates."""
    rows = [row for part in parts.values() for row in part.rows]
    failing = [row for row in rows if row.status != "ok"]
    sound = sorted((row for row in rows if row.status == "ok"), key=lambda row: -(row.ratio or 0.0))
    failing.sort(key=lambda row: not row.starts)
    return [*failing, *sound][:_NEAREST]
