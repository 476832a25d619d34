"""Errors of each patch of a picture, arranged as in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from parity.core.compare import Finding
from parity.runs.inputs import CaseInputs


@dataclass(frozen=True)
class HeatMap:
    """One picture, and the relative error of every patch (rows, columns) at one vision seam."""

    title: str
    image: Image.Image
    seam: str
    errors: np.ndarray
    gate: float | None


def heat_maps(inputs: CaseInputs, findings: Sequence[Finding]) -> list[HeatMap]:
    """Return a map for each picture, at the first vision seam that failed, or at the merger if none failed.

    Empty if there are no pictures, or if the subject gave no vision seam.
    """
    grids = inputs.tensors.get("image_grid_thw")
    finding = _shown(findings)
    if grids is None or finding is None or finding.row_figures is None:
        return []
    merge = inputs.config["vision_config"]["spatial_merge_size"]
    merged = len(finding.row_figures) * merge**2 == int(grids.prod(dim=1).sum())
    maps, start = [], 0
    for (title, image), (_, rows, columns) in zip(inputs.images, grids.tolist(), strict=True):
        if merged:
            rows, columns = rows // merge, columns // merge
        figures = finding.row_figures[start : start + rows * columns]
        start += rows * columns
        errors = figures.reshape(rows, columns) if merged else to_raster(figures, rows, columns, merge)
        maps.append(HeatMap(title, image, finding.entry.key.name, errors, finding.gate))
    return maps


def to_raster(figures: np.ndarray, rows: int, columns: int, merge: int) -> np.ndarray:
    """Rearrange (rows * columns,) from merge order (m x m blocks) to (rows, columns) as in the picture."""
    blocks = figures.reshape(rows // merge, columns // merge, merge, merge)  # (bh, bw, m, m)
    return blocks.transpose(0, 2, 1, 3).reshape(rows, columns)  # (bh, m, bw, m)


def _shown(findings: Sequence[Finding]) -> Finding | None:
    """Return the finding to show. It is from the tower pass of the pictures (call 0) and has figures for every row."""
    candidates = [f for f in findings if f.row_figures is not None and f.entry.key.call == 0 and f.entry.rows]
    failed = next((f for f in candidates if f.status == "diverged"), None)
    return failed or next((f for f in candidates if f.entry.key.name == "vision.merger"), None)
