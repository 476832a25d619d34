"""Pixel configs, pictures and clips for the tests of the port's pixels, and the reference's processors for them.

Shape legend
    F, H, W   frames, height, width in pixels
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata

from port.pixel_config import PictureConfig, VideoConfig
from port.pixels import Patches
from port.tap import listening

_SHARED: dict[str, Any] = {
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
# As the published checkpoints have them.
PICTURE: dict[str, Any] = {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, **_SHARED}
VIDEO: dict[str, Any] = {"size": {"shortest_edge": 4096, "longest_edge": 25165824}, **_SHARED}
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def write_configs(folder: Path, *, picture: Any = PICTURE, video: Any = VIDEO) -> Path:
    """Write the two files of a checkpoint folder. None leaves one out."""
    for name, raw in (("preprocessor_config.json", picture), ("video_preprocessor_config.json", video)):
        if raw is not None:
            (folder / name).write_text(json.dumps(raw))
    return folder


def picture_config(**changes: Any) -> PictureConfig:
    return PictureConfig(**_fields({**PICTURE, **changes}))


def video_config(**changes: Any) -> VideoConfig:
    sampling = {"fps": 2.0, "num_frames": None, "min_frames": 4, "max_frames": 768}
    capping = {"cap_pixels_per_frame": False, "max_video_tokens": 768}
    raw = {**sampling, **capping, **VIDEO, **changes}
    return VideoConfig(**_fields(raw), **{name: raw[name] for name in (*sampling, *capping)})


def _fields(raw: dict[str, Any]) -> dict[str, Any]:
    size = raw["size"]
    names = ("patch_size", "temporal_patch_size", "merge_size")
    return {
        **{name: raw[name] for name in names},
        "min_pixels": size["shortest_edge"],
        "max_pixels": size["longest_edge"],
        "image_mean": tuple(raw["image_mean"]),
        "image_std": tuple(raw["image_std"]),
        "rescale_factor": raw.get("rescale_factor", 1 / 255),
    }


def reference_pictures(**changes: Any) -> Qwen2VLImageProcessor:
    return Qwen2VLImageProcessor(**{**PICTURE, **changes})


def reference_videos(**changes: Any) -> Qwen3VLVideoProcessor:
    return Qwen3VLVideoProcessor(**{**VIDEO, "cap_pixels_per_frame": False, **changes})


def reference_video(own: Qwen3VLVideoProcessor, frames: np.ndarray) -> dict[str, Tensor]:
    """Return the reference's pixel_values_videos and video_grid_thw of sampled frames (F, H, W, 3)."""
    metadata = VideoMetadata(total_num_frames=len(frames), fps=24, frames_indices=list(range(len(frames))))
    return own(
        videos=[frames],
        video_metadata=[metadata],
        do_sample_frames=False,
        input_data_format="channels_last",
        return_tensors="pt",
    )


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Return uint8 noise of any shape."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return (H, W, 3) uint8 with slow waves, different in each channel, similar to a photograph."""
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(seed)
    waves = [np.sin(y * a + x * b + c) for a, b, c in rng.uniform(0.01, 0.1, (3, 3))]
    return (np.stack(waves, -1) * 120 + 128).astype(np.uint8)


def moving(count: int, height: int, width: int) -> np.ndarray:
    """Return (F, H, W, 3) uint8: a pattern that moves three pixels to the right in every frame."""
    first = smooth(height, width)
    return np.stack([np.roll(first, 3 * index, axis=1) for index in range(count)])


def write_clip(path: Path, frames: Sequence[np.ndarray], *, fps: Fraction | int = 10, codec: str = "mpeg4") -> Path:
    """Write frames (H, W, 3) uint8 with even sides as a video. The suffix selects the container."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


class Heard:
    """Collects the tensors of all taps inside the block, by name."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def __enter__(self) -> Heard:
        self._listening = listening(self._hear)
        self._listening.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._listening.__exit__(*error)

    def _hear(self, name: str, value: Tensor) -> Tensor:
        self.values[name] = value
        return value


def grid_of(patches: Patches) -> list[list[int]]:
    """Return the grid as the reference gives it."""
    return [list(patches.grid_thw)]
