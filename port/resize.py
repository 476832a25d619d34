"""Sizes that the patches divide, and the resize to them.

Shape legend
    F, H, W   frames, height, width in pixels; h, w after the resize
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from port.errors import InputError
from port.limits import DEFAULT_LIMITS


def smart_resize(height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Height and width near the given ones: multiples of ``factor`` whose product lies within the limits.

    The reference's ``smart_resize`` of Qwen2-VL pictures. Halves round to even, as Python's ``round`` does, before
    the limits are looked at; a side never falls below ``factor`` when shrinking. Raises InputError for a picture
    without pixels or with an aspect ratio of more than 200.
    """
    check_aspect(height, width)
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > max_pixels:
        return _shrunk(height, width, math.sqrt(height * width / max_pixels), factor)
    if h * w < min_pixels:
        return _grown(height, width, math.sqrt(min_pixels / (height * width)), factor)
    return h, w


def smart_resize_video(
    frames: int, height: int, width: int, *, factor: int, temporal_factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """As ``smart_resize``, with limits for all frames of a video together: ``Qwen3VLVideoProcessor``'s.

    Frames are counted rounded to ``temporal_factor`` when the limits are looked at, and as they are when the scale
    is worked out. Frames smaller than ``factor`` are scaled up to it first.
    """
    if frames < temporal_factor:
        raise InputError(f"the video has {frames} frames, a temporal patch takes {temporal_factor}; use a longer one")
    if 0 < min(height, width) < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    check_aspect(height, width)
    h, w = round(height / factor) * factor, round(width / factor) * factor
    counted = round(frames / temporal_factor) * temporal_factor
    if counted * h * w > max_pixels:
        return _shrunk(height, width, math.sqrt(frames * height * width / max_pixels), factor)
    if counted * h * w < min_pixels:
        return _grown(height, width, math.sqrt(min_pixels / (frames * height * width)), factor)
    return h, w


def resize_bicubic(frames: Tensor, height: int, width: int) -> Tensor:
    """(F, H, W, 3) uint8 to (F, h, w, 3) uint8: bicubic (a = -0.5) with antialiasing, in 16-bit fixed point.

    The kernel is torch's own, the one behind torchvision, transformers' default backend: results are equal bit for
    bit. Pillow's, the reference's other backend, differs by a step or two in up to three pixels of a hundred, and
    where the height shrinks and the width grows by 10 and more at hard edges.
    """
    if tuple(frames.shape[1:3]) == (height, width):
        return frames
    # A view with the channels first; in memory they stay last, which is what the kernel is fastest at.
    resized = F.interpolate(
        frames.permute(0, 3, 1, 2), (height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return resized.permute(0, 2, 3, 1)


def check_aspect(height: int, width: int) -> None:
    """Raise InputError for a picture without pixels, or one that is far too narrow."""
    most = DEFAULT_LIMITS.max_aspect_ratio
    if height < 1 or width < 1:
        raise InputError(f"the picture is {width} x {height} pixels; it needs at least one each way")
    if max(height, width) > most * min(height, width):
        raise InputError(f"the picture is {width} x {height}, the aspect ratio may be at most {most}; crop it")


def _shrunk(height: int, width: int, scale: float, factor: int) -> tuple[int, int]:
    def side(length: int) -> int:
        return max(factor, math.floor(length / scale / factor) * factor)

    return side(height), side(width)


def _grown(height: int, width: int, scale: float, factor: int) -> tuple[int, int]:
    return math.ceil(height * scale / factor) * factor, math.ceil(width * scale / factor) * factor
