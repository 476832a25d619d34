"""From decoded pixels to the input of the vision tower: resized, normalised and cut into patches.

Shape legend
    F, H, W      frames, height, width in pixels; h, w after the resize
    N            patches
    C, T, P      channels, temporal_patch_size, patch_size
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from port.patches import cut_patches, pad_frames, patch_grid
from port.pixel_config import PatchConfig, PictureConfig, VideoConfig
from port.resize import resize_bicubic, smart_resize, smart_resize_video
from port.tap import Tap

# Patches normalised at a time: few enough to stay in the CPU's cache.
_BLOCK = 256


@dataclass(frozen=True)
class Patches:
    """pixel_values (N, C*T*P*P) float32 and the grid (t, h, w) of one picture or video."""

    pixel_values: Tensor
    grid_thw: tuple[int, int, int]


def process_picture(picture: np.ndarray, config: PictureConfig, tap: Tap) -> Patches:
    """(H, W, 3) uint8 to patches, bit for bit as in the reference. The picture fills a whole temporal patch."""
    frames = _tensor(picture).unsqueeze(0)  # (1, H, W, 3)
    height, width = smart_resize(
        *picture.shape[:2], factor=config.factor, min_pixels=config.min_pixels, max_pixels=config.max_pixels
    )
    resized = tap("resized", resize_bicubic(frames, height, width))  # (1, h, w, 3)
    grid = patch_grid(resized, patch=config.patch_size, temporal_patch=config.temporal_patch_size)
    flat = cut_patches(resized, patch=config.patch_size, temporal_patch=1, merge=config.merge_size)  # (N, C*P*P)
    pixels = torch.empty(len(flat), 3, config.temporal_patch_size, config.patch_size**2, dtype=torch.float32)
    for rows, block in zip(torch.split(pixels, _BLOCK), torch.split(flat, _BLOCK), strict=True):
        values = normalise(block, config).view(len(block), 3, -1)  # (_BLOCK, C, P*P)
        for frame in range(config.temporal_patch_size):
            rows[:, :, frame] = values
    return Patches(tap("patches", pixels.flatten(1)), grid)


def process_video(frames: np.ndarray, config: VideoConfig, tap: Tap) -> Patches:
    """Kept frames (F, H, W, 3) uint8 to patches. The last frame is repeated to fill the temporal patch."""
    count, height, width = frames.shape[:3]
    height, width = video_size(count, height, width, config)
    resized = tap("resized", resize_bicubic(_tensor(frames), height, width))  # (F, h, w, 3)
    grid = patch_grid(resized, patch=config.patch_size, temporal_patch=config.temporal_patch_size)
    padded = pad_frames(resized, config.temporal_patch_size)
    flat = cut_patches(
        padded, patch=config.patch_size, temporal_patch=config.temporal_patch_size, merge=config.merge_size
    )
    return Patches(tap("patches", normalise(flat, config)), grid)


def video_size(frames: int, height: int, width: int, config: VideoConfig) -> tuple[int, int]:
    """Height and width of the resized frames, within the pixel limits, as in ``Qwen3VLVideoProcessor.resize``."""
    most = config.max_pixels
    if config.cap_pixels_per_frame:
        cap = config.max_video_tokens * config.factor**2
        most = max(min(cap, config.max_pixels // frames), int(config.min_pixels * 1.05)) * frames
    return smart_resize_video(
        frames,
        height,
        width,
        factor=config.factor,
        temporal_factor=config.temporal_patch_size,
        min_pixels=config.min_pixels,
        max_pixels=most,
    )


def normalise(patches: Tensor, config: PatchConfig) -> Tensor:
    """(N, C*L) uint8, channels first in each row, to float32: (x - mean/s) / (std/s) with s = rescale_factor.

    As in the reference, the rescale is folded into mean and std, in float32.
    """
    scale = 1.0 / config.rescale_factor
    mean = torch.tensor(config.image_mean, dtype=torch.float32).mul(scale).view(1, -1, 1)
    std = torch.tensor(config.image_std, dtype=torch.float32).mul(scale).view(1, -1, 1)
    pixels = patches.view(len(patches), 3, -1).to(torch.float32, copy=True)  # (N, C, L)
    return pixels.sub_(mean).div_(std).flatten(1)


def _tensor(pixels: np.ndarray) -> Tensor:
    """As a tensor, without a copy if the array is writable (torch warns otherwise). Nothing here writes to it."""
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
