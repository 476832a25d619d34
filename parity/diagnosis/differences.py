"""What engines do otherwise without a gate of the processor calling it wrong, and yet it shows in what they say.

These are hypotheses of a diagnosis beside the known mistakes. They are in no kill matrix: a pixel that is rounded the
other way is within the gate of pixels, but the log-probabilities that follow from it are not those of the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import port.pixels
from parity.mutants.base import around, family
from parity.mutants.registry import ALL

_resize = family(
    component="processor",
    stage="processor",
    seam="processor.images.{}.resized|processor.videos.{}.resized",
    step="*",
    needs=frozenset({"resized"}),
    real=True,
)


def _with(kernel: Callable[[Tensor, int, int], Tensor]) -> AbstractContextManager[None]:
    """Frames are resized by ``kernel(frames, height, width)``, which takes (F, 3, H, W) uint8 and returns it so."""

    def resize(_original: Any, frames: Tensor, height: int, width: int) -> Tensor:
        if tuple(frames.shape[1:3]) == (height, width):
            return frames
        return kernel(frames.permute(0, 3, 1, 2), height, width).permute(0, 2, 3, 1)

    return around(port.pixels, "resize_bicubic", resize)


def _bicubic(frames: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(frames, (height, width), mode="bicubic", antialias=True, align_corners=False)


def _rounded_once(frames: Tensor, height: int, width: int) -> Tensor:
    return _bicubic(frames.float(), height, width).clamp(0, 255).round().byte()


def _as_pillow(frames: Tensor, height: int, width: int) -> Tensor:
    """Resize rows of pixels, then columns, each with exact weights and rounded to bytes.

    Torch's weights for bytes have 15 bits. Pillow did it in this order until version 13, and llama.cpp does.
    """
    wide = _bicubic(frames.double(), frames.shape[2], width).clamp(0, 255).round()
    return _bicubic(wide, height, width).clamp(0, 255).round().byte()


def _padded(frames: Tensor, height: int, width: int) -> Tensor:
    """Keep the ratio of the sides, and fill the rest with black, half on each side."""
    old_height, old_width = frames.shape[2:]
    # The smaller scale, as fractions of whole numbers: old_height * height scales as old_width * width.
    if height * old_width <= width * old_height:
        inner = height, min(width, -(-old_width * height // old_height))
    else:
        inner = min(height, -(-old_height * width // old_width)), width
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    found = torch.zeros(*frames.shape[:2], height, width, dtype=torch.uint8)
    found[:, :, top : top + inner[0], left : left + inner[1]] = _as_pillow(frames, *inner)
    return found


DIFFERENCES = [
    _resize(
        "resize-rounded-once",
        "a picture is resized in floating point and rounded at the end, not after each of the two directions",
        lambda: _with(_rounded_once),
        source="mistral.rs 0.9.5, found by its log-probabilities",
    ),
    _resize(
        "resize-as-pillow",
        "a picture is resized with Pillow's weights, which are finer than torch's for bytes",
        lambda: _with(_as_pillow),
        source="transformers' processors that use Pillow; llama.cpp b11434, resize_pillow",
    ),
    _resize(
        "resize-padded",
        "a resized picture keeps the ratio of its sides, the rest is black, and the weights are Pillow's",
        lambda: _with(_padded),
        source="llama.cpp, tools/mtmd (PAD_CEIL is the default), found by its log-probabilities",
    ),
]
# All that a diagnosis tries.
HYPOTHESES = [*ALL, *DIFFERENCES]
