"""Grid arithmetic of the vision tower: pure functions of ``grid_thw``.

Shape legend
    M   pictures or videos in the call
    N   patches of all of them: sum of t * h * w
    m   spatial merge size; patches come in merge order: m x m blocks, raster inside and among blocks
    grid_thw (M, 3): frames (of temporal patches), rows and columns of patches
"""

from __future__ import annotations

import torch
from torch import Tensor

from port.errors import InputError


def check_grid(grid_thw: Tensor, merge: int, *, name: str = "grid_thw") -> None:
    """Raise InputError unless ``grid_thw`` is (M, 3), positive, with with h and w multiples of ``merge``."""
    if grid_thw.ndim != 2 or grid_thw.shape[1] != 3 or grid_thw.shape[0] == 0:
        raise InputError(f"{name} has shape {tuple(grid_thw.shape)}; it needs (pictures, 3) with at least one picture")
    for index, (t, h, w) in enumerate(grid_thw.tolist()):
        if min(t, h, w) < 1 or h % merge or w % merge:
            raise InputError(
                f"{name}[{index}] is (t, h, w) = ({t}, {h}, {w}); all must be at least 1, "
                f"and h and w multiples of spatial_merge_size {merge}"
            )


def merge_order(height: int, width: int, merge: int) -> tuple[Tensor, Tensor]:
    """Row and column of each patch of one frame, in merge order: two (h * w,) int64 tensors."""
    rows = torch.arange(height).view(height // merge, 1, merge, 1)  # (bh, 1, m, 1)
    cols = torch.arange(width).view(1, width // merge, 1, merge)  # (1, bw, 1, m)
    shape = (height // merge, width // merge, merge, merge)
    return rows.expand(shape).reshape(-1), cols.expand(shape).reshape(-1)


def patch_coordinates(grid_thw: Tensor, merge: int) -> Tensor:
    """(N, 2) int64: row and column of every patch; the frames of a video repeat the same coordinates.

    Source: ``get_vision_position_ids`` (transformers 5), ``rot_pos_emb`` (4.57).
    """
    frames = []
    for t, h, w in grid_thw.tolist():
        frame = torch.stack(merge_order(h, w, merge), dim=-1)  # (h*w, 2)
        frames.append(frame.repeat(t, 1))  # (t*h*w, 2)
    return torch.cat(frames).to(grid_thw.device)


def interpolation(
    grid_thw: Tensor, side: int, merge: int, *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Where each patch reads the learned ``side`` x ``side`` position table: bilinear, corners aligned.

    Returns indices (N, 4) int64 into the flattened table and weights (N, 4) in ``dtype``. A grid with one row reads
    row 0 of the table, and a grid with one column reads column 0. index * (side - 1) is exact in float32, so each
    source coordinate is rounded only once.
    Source: ``get_vision_interpolation_indices_and_weights``.
    """
    indices, weights = [], []
    for t, h, w in grid_thw.tolist():
        rows, cols = merge_order(h, w, merge)
        row_low, row_high, row_part = _axis(rows, h, side, dtype)
        col_low, col_high, col_part = _axis(cols, w, side, dtype)
        index = torch.stack(
            [
                row_low * side + col_low,
                row_low * side + col_high,
                row_high * side + col_low,
                row_high * side + col_high,
            ],
            dim=-1,
        )  # (h*w, 4)
        weight = torch.stack(
            [
                (1 - row_part) * (1 - col_part),
                (1 - row_part) * col_part,
                row_part * (1 - col_part),
                row_part * col_part,
            ],
            dim=-1,
        )  # (h*w, 4)
        indices.append(index.repeat(t, 1))
        weights.append(weight.repeat(t, 1))
    return torch.cat(indices).to(grid_thw.device), torch.cat(weights).to(grid_thw.device)


def _axis(index: Tensor, size: int, side: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The two table rows (or columns) around each ``index`` of an axis of ``size``, and the weight of the second."""
    source = index.to(dtype) * (side - 1) / max(size - 1, 1)
    low = source.floor()
    part = source - low
    low = low.long()
    return low, (low + 1).clamp(max=side - 1), part


def segment_lengths(grid_thw: Tensor) -> list[int]:
    """Patches in each attention segment; every frame of a video is its own segment."""
    return [h * w for t, h, w in grid_thw.tolist() for _ in range(t)]


def segment_boundaries(grid_thw: Tensor) -> Tensor:
    """cu_seqlens (segments + 1,) int32: where each segment starts, and N at the end."""
    lengths = torch.tensor([0, *segment_lengths(grid_thw)])
    return lengths.cumsum(0).to(torch.int32).to(grid_thw.device)


def merged_count(grid_thw: Tensor, merge: int) -> int:
    """How many tokens all pictures of ``grid_thw`` together have in the prompt."""
    grids: list[list[int]] = grid_thw.tolist()
    return sum(t * h * w for t, h, w in grids) // merge**2
