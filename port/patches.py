"""Pixels to rows of patches, in merge order: the patches of one merged token are next to each other.

Shape legend
    F, h, w      frames, height, width in pixels; multiples of T, P*M, P*M
    T, P, M, C   temporal_patch_size, patch_size, merge_size, channels
    N            patches: (F/T) * (h/P) * (w/P)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from port.errors import InputError


def pad_frames(frames: Tensor, temporal_patch: int) -> Tensor:
    """Repeat the last frame of (F, h, w, C) until F is a multiple of ``temporal_patch``."""
    missing = -len(frames) % temporal_patch
    return torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)]) if missing else frames


def patch_grid(frames: Tensor, *, patch: int, temporal_patch: int) -> tuple[int, int, int]:
    """(t, h, w): the number of patches in time, from top to bottom and from left to right."""
    count, height, width = frames.shape[:3]
    return -(-count // temporal_patch), height // patch, width // patch


def cut_patches(frames: Tensor, *, patch: int, temporal_patch: int, merge: int) -> Tensor:
    """(F, h, w, C) of any numpy dtype to (N, C*T*P*P). Raises InputError if a side is not a multiple of its patch.

    The order of patches is time, merged row, merged column, then row and column within the merged patch. The order
    within a patch is channels, time, then rows and columns of pixels.
    """
    count, height, width, channels = frames.shape
    if count % temporal_patch or height % (patch * merge) or width % (patch * merge):
        raise InputError(
            f"frames of {count} x {height} x {width} cannot be divided into patches of {temporal_patch} x {patch} x "
            f"{patch}, merged by {merge}; resize and pad them first"
        )
    t, h, w = count // temporal_patch, height // (patch * merge), width // (patch * merge)
    # (t, T, h/M, M, P, w/M, M, P, C)
    blocks = frames.reshape(t, temporal_patch, h, merge, patch, w, merge, patch, channels)
    # (t, h/M, w/M, M, M, C, T, P, P)
    blocks = blocks.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)
    # numpy moves single bytes twice as fast as torch.
    moved = torch.from_numpy(np.ascontiguousarray(blocks.numpy()))
    return moved.reshape(t * h * w * merge**2, channels * temporal_patch * patch**2)  # (N, C*T*P*P)
