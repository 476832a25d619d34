"""Errors of each patch of a picture or of a video's frames, arranged as in the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image

from parity.core.compare import Finding
from parity.core.trace import SeamKey
from parity.runs.inputs import CaseInputs

#: Frames of all videos that are shown; of more, those with the largest errors.
MOST_FRAMES = 8
Kind = Literal["image", "frame"]


@dataclass(frozen=True)
class HeatMap:
    """One picture, and the relative error of every patch (rows, columns) at one vision seam."""

    title: str
    image: Image.Image
    seam: str
    errors: np.ndarray
    gate: float | None
    kind: Kind = field(default="image")


def heat_maps(inputs: CaseInputs, findings: Sequence[Finding]) -> list[HeatMap]:
    """Return a map for each picture, then for the frames of the videos.

    Each is at the first vision seam that failed, or at the merger if none failed. A frame stands for all frames of its
    temporal patch. Empty if there are no pictures and videos, or if the subject gave no vision seam.
    """
    shown: list[tuple[str, Image.Image]] = list(inputs.images)
    pictures = list(_maps(inputs, findings, "images", "image", shown))
    # Without a finding there is nothing to show, and a case that judges sizes only has no frames.
    decoded = [] if _shown(findings, "videos") is None else _frames(inputs)
    frames = list(_maps(inputs, findings, "videos", "frame", decoded))
    kept = sorted(range(len(frames)), key=lambda index: -float(np.nanmax(frames[index].errors)))[:MOST_FRAMES]
    return [*pictures, *(frames[index] for index in sorted(kept))]


def _maps(
    inputs: CaseInputs, findings: Sequence[Finding], rows_of: str, kind: Kind, shown: Sequence[tuple[str, Image.Image]]
) -> Iterator[HeatMap]:
    grids = inputs.tensors.get("image_grid_thw" if kind == "image" else "video_grid_thw")
    finding = _shown(findings, rows_of)
    if grids is None or finding is None or finding.row_figures is None:
        return
    merge = inputs.config["vision_config"]["spatial_merge_size"]
    merged = len(finding.row_figures) * merge**2 == int(grids.prod(dim=1).sum())
    each = [(rows, columns) for times, rows, columns in grids.tolist() for _ in range(times)]
    start = 0
    for (title, image), (rows, columns) in zip(shown, each, strict=True):
        if merged:
            rows, columns = rows // merge, columns // merge
        figures = finding.row_figures[start : start + rows * columns]
        start += rows * columns
        errors = figures.reshape(rows, columns) if merged else to_raster(figures, rows, columns, merge)
        yield HeatMap(title, image, finding.entry.key.name, errors, finding.gate, kind)


def _frames(inputs: CaseInputs) -> list[tuple[str, Image.Image]]:
    """Return the first frame of each temporal patch of each video, as the reference decoded it."""
    grids = inputs.tensors.get("video_grid_thw")
    if grids is None:
        return []
    size = inputs.config["vision_config"]["temporal_patch_size"]
    found = []
    for index, (times, _, _) in enumerate(grids.tolist()):
        frames = inputs.processed.yardstick.trace.read(SeamKey(f"processor.videos.{index}.decoded", 0))
        places = [min(time * size, len(frames) - 1) for time in range(times)]
        found += [
            (f"video {index + 1}, frame {place + 1} of {len(frames)}", Image.fromarray(frames[place]))
            for place in places
        ]
    return found


def to_raster(figures: np.ndarray, rows: int, columns: int, merge: int) -> np.ndarray:
    """Rearrange (rows * columns,) from merge order (m x m blocks) to (rows, columns) as in the picture."""
    blocks = figures.reshape(rows // merge, columns // merge, merge, merge)  # (bh, bw, m, m)
    return blocks.transpose(0, 2, 1, 3).reshape(rows, columns)  # (bh, m, bw, m)


def _shown(findings: Sequence[Finding], rows_of: str) -> Finding | None:
    """Return the finding to show. It is from the tower pass of the pictures or videos, with figures for every row."""
    wanted = f"rows.{rows_of}."
    candidates = [
        f for f in findings if f.row_figures is not None and f.entry.rows and f.entry.rows.name.startswith(wanted)
    ]
    failed = next((f for f in candidates if f.status == "diverged"), None)
    return failed or next((f for f in candidates if f.entry.key.name == "vision.merger"), None)
