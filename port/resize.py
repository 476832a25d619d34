"""The resize to a whole number of patches.

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
    """Height and width close to the given ones, as multiples of ``factor`` with a product within the limits.

    Same as the reference's ``smart_resize`` of Qwen2-VL. The sides are rounded first (halves to even, as in Python's
    ``round``), then the limits are checked. Shrinking never makes a side smaller than ``factor``. Raises InputError
    for a picture without pixels or with an aspect ratio of more than 200.
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
    """As ``smart_resize``, but the limits are for all frames together, as in ``Qwen3VLVideoProcessor``.

    To check the limits, the number of frames is rounded to a multiple of ``temporal_factor``; the scale is computed
    from the exact number. Frames smaller than ``factor`` are scaled up to it first.
    """
    if frames < temporal_factor:
        raise InputError(
            f"the video has {frames} frames, but a temporal patch needs {temporal_factor}; use a longer video"
        )
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

    This is torch's own kernel, which torchvision uses, transformers' default backend. The results are equal bit for
    bit. Pillow, the reference's other backend, differs by one or two steps in up to 3 % of the pixels, and by 10 or
    more at hard edges when the height shrinks while the width grows.
    """
    if tuple(frames.shape[1:3]) == (height, width):
        return frames
    # A view with the channels first. In memory they stay last, for which the kernel is fastest.
    resized = F.interpolate(
        frames.permute(0, 3, 1, 2), (height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return resized.permute(0, 2, 3, 1)


def check_aspect(height: int, width: int) -> None:
    """Raise InputError for a picture without pixels, or with too large an aspect ratio."""
    most = DEFAULT_LIMITS.max_aspect_ratio
    if height < 1 or width < 1:
        raise InputError(f"the picture is {width} x {height} pixels; both sides must be at least 1")
    if max(height, width) > most * min(height, width):
        raise InputError(f"the picture is {width} x {height}, but the aspect ratio may be at most {most}; crop it")


def _shrunk(height: int, width: int, scale: float, factor: int) -> tuple[int, int]:
    def side(length: int) -> int:
        return max(factor, math.floor(length / scale / factor) * factor)

    return side(height), side(width)


def _grown(height: int, width: int, scale: float, factor: int) -> tuple[int, int]:
    return math.ceil(height * scale / factor) * factor, math.ceil(width * scale / factor) * factor
