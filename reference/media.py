"""Pictures and videos in the form that the reference's processor takes. Needs neither torch nor transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class VideoFrames:
    """A decoded video: frames (F, H, W, 3) uint8 and frames per second."""

    frames: np.ndarray
    fps: float


@dataclass(frozen=True)
class PicturePath:
    """A picture file that the reference decodes itself. It applies the EXIF orientation and converts to RGB."""

    path: Path


@dataclass(frozen=True)
class VideoPath:
    """A video file that the reference decodes itself with PyAV. Only the sampled frames are decoded."""

    path: Path
