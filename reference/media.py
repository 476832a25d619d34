"""Pictures and videos as the reference's processor takes them. Needs neither torch nor transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class VideoFrames:
    """A decoded video: frames (F, H, W, 3) uint8 and how fast they were shown."""

    frames: np.ndarray
    fps: float


@dataclass(frozen=True)
class PicturePath:
    """A picture file that the reference decodes itself: EXIF orientation applied, then converted to RGB."""

    path: Path


@dataclass(frozen=True)
class VideoPath:
    """A video file that the reference decodes itself, with PyAV, only the frames that it samples."""

    path: Path
