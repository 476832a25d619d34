"""Videos: which frames are kept, when they were shown, and decoding just those.

Shape legend
    F, H, W   kept frames, height, width in pixels
    T         temporal_patch_size
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from port.errors import InputError
from port.limits import DEFAULT_LIMITS, Limits
from port.picture import PictureSource, load_picture
from port.pixel_config import VideoConfig

# What the reference assumes for frames without a rate.
DEFAULT_FPS = 24.0
# FFmpeg's names of the formats that are opened: only those that hold their frames themselves.
_CONTAINERS = "mov,matroska,avi,flv,mpegts,mpeg,asf,ogg,gif,apng,h264,hevc,ivf,m4v,mpegvideo,nut,mxf,dv,rm"
VideoSource = Path | str | np.ndarray | Sequence[PictureSource]


@dataclass(frozen=True)
class Frames:
    """The kept frames (F, H, W, 3) uint8 of a video.

    ``indices`` are their places among all ``total`` frames of the source, whose frame rate is ``fps``.
    """

    frames: np.ndarray
    fps: float
    indices: tuple[int, ...]
    total: int


def load_video(
    source: VideoSource, config: VideoConfig, *, fps: float | None = None, limits: Limits = DEFAULT_LIMITS
) -> Frames:
    """Sample and decode a video.

    A file is read as in ``transformers.video_utils.read_video_pyav``, with the number of frames and the average rate
    that the container states. A rotated phone video stays as it is stored. If the container states no number of
    frames (Matroska, WebM, MPEG-TS; the reference fails for these), its packets are counted. If it states too many
    (an edit list cuts frames off), the sampled frames that do not exist are left out, also from ``indices``. The
    reference keeps their indices, so its last timestamp may be later.

    The source may also be a folder of pictures (in natural order of their names), a sequence of pictures or an array
    (frames, H, W, 3) uint8. ``fps`` is then their frame rate, by default 24 as in the reference.

    Only frames that are kept are converted and held in memory. Raises InputError if the video cannot be decoded, has
    too few frames, frames of different sizes, no rate, or too many pixels. Any number of frames may be kept, as in the
    reference; qwen-vl-utils keeps an even number.
    """
    if fps is not None and not _is_rate(fps):
        raise InputError(f"the video's fps is {fps!r}; it must be a number larger than 0")
    if isinstance(source, str) and "://" in source[:16]:
        raise InputError(f"the video {source} is a URL, and nothing is downloaded; give a file")
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            return _from_pictures(_pictures_of(path), config, fps, limits, f"the folder {path}")
        if fps is not None:
            raise InputError(f"the video {path} has its own frame rate; remove fps")
        return _from_file(path, config, limits)
    if isinstance(source, np.ndarray):
        if source.ndim != 4 or source.dtype != np.uint8 or source.shape[3] != 3:
            raise InputError(
                f"the video is {source.dtype} {list(source.shape)}; it must be uint8 [frames, height, width, 3]"
            )
    elif isinstance(source, bytes) or not isinstance(source, Sequence):
        raise InputError(f"a video is a {type(source).__name__}; give a path, an array, or a list of pictures")
    return _from_pictures(source, config, fps, limits, "the video")


def sample_frames(total: int, fps: float, config: VideoConfig) -> tuple[int, ...]:
    """Indices of the frames to keep among ``total``, evenly spread, as ``Qwen3VLVideoProcessor.sample_frames`` does.

    Raises InputError for a video without frames or without a rate.
    """
    if total < 1 or not _is_rate(fps):
        raise InputError(f"the video has {total} frames at {fps:g} frames a second; both must be above 0")
    if config.num_frames is not None:
        count = config.num_frames
    else:
        count = int(min(total / fps * (config.fps or 0.0), total))  # in floats: for a tiny rate the number is huge
        count = min(max(count, config.min_frames), config.max_frames, total)
    return tuple(np.linspace(0, total - 1, count).round().astype(int).tolist())


def timestamps(indices: Sequence[int], fps: float, temporal_patch: int) -> tuple[float, ...]:
    """Seconds of each temporal patch: halfway between its first and last frame. The last frame may be repeated."""
    padded = [*indices, *[indices[-1]] * (-len(indices) % temporal_patch)]
    seconds = [index / fps for index in padded]
    return tuple((seconds[i] + seconds[i + temporal_patch - 1]) / 2 for i in range(0, len(seconds), temporal_patch))


def _from_pictures(
    source: np.ndarray | Sequence[PictureSource], config: VideoConfig, fps: float | None, limits: Limits, name: str
) -> Frames:
    rate = DEFAULT_FPS if fps is None else fps
    _check_count(len(source), config, name)
    indices = sample_frames(len(source), rate, config)
    if isinstance(source, np.ndarray):
        _check_pixels(len(indices), source.shape[1], source.shape[2], limits, name)
        return Frames(source[list(indices)], rate, indices, len(source))
    kept = _Kept(len(indices), limits, name)
    for index in indices:
        kept.add(load_picture(source[index], limits))
    return Frames(kept.frames(), rate, indices, len(source))


def _pictures_of(folder: Path) -> list[Path]:
    """Files of a folder, frame-2 before frame-10, without hidden files."""

    def key(path: Path) -> list[tuple[int, str]]:
        # Digits are at odd places. They are compared by how many there are, then as text, without large integers.
        parts = [part.lstrip("0") if place % 2 else part for place, part in enumerate(re.split("([0-9]+)", path.name))]
        return [(len(part) if place % 2 else 0, part) for place, part in enumerate(parts)] + [(0, path.name)]

    files = sorted((path for path in folder.iterdir() if path.is_file() and path.name[0] != "."), key=key)
    if not files:
        raise InputError(f"the folder {folder} holds no pictures; put the frames of the video there")
    known = Image.registered_extensions()
    for path in files:
        if path.suffix.lower() not in known:
            raise InputError(f"the folder {folder} holds {path.name}, which is not a picture; keep only frames there")
    return files


def _from_file(path: Path, config: VideoConfig, limits: Limits) -> Frames:
    name = f"the video {path}"
    try:
        if not path.exists():
            raise InputError(f"{name} does not exist")
        if not path.is_file():
            raise InputError(f"{name} is not a regular file (a pipe may never end); save it to a file first")
        if path.stat().st_size == 0:
            raise InputError(f"{name} is empty (0 bytes)")
        return _decoded(path, config, limits, name)
    except InputError:
        raise
    except Exception as error:  # for a broken file, decoders may raise anything
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{name} cannot be decoded: {why}; convert it to MP4") from None


def _decoded(path: Path, config: VideoConfig, limits: Limits, name: str) -> Frames:
    import av  # imported here, because it loads FFmpeg, which only videos need

    # Without the lists, a playlist could make FFmpeg read other files or download them.
    with av.open(str(path), options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}) as container:
        if not container.streams.video:
            raise InputError(f"{name} has no video stream; give a video")
        stream = container.streams.video[0]
        total = stream.frames if stream.frames > 0 else _count_packets(container, stream, limits)
        if total > limits.max_video_packets:
            raise InputError(
                f"{name} has more than {limits.max_video_packets:,} frames; cut it, or raise Limits.max_video_packets"
            )
        _check_count(total, config, name)
        fps = float(stream.average_rate or 0)
        indices = sample_frames(total, fps, config)
        kept = _Kept(len(indices), limits, name)
        kept.check(stream.height, stream.width)
        # Frames may get larger in the middle of a stream. FFmpeg then stops before it allocates memory for them. The
        # limit is higher than ours, because FFmpeg also counts its padding.
        stream.codec_context.options = {"max_pixels": str(2 * limits.max_picture_pixels + 2**16)}
        container.seek(0)
        # The threads stay as PyAV sets them: with frame threads, FFmpeg ignores damage at which it should stop.
        for place, frame in enumerate(container.decode(video=0)):
            if place == indices[kept.count]:
                kept.check(frame.height, frame.width)
                pixels = frame.to_ndarray(format="rgb24")
                for _ in range(indices.count(place)):  # num_frames may be more than there are
                    kept.add(pixels)
            if kept.count == len(indices):
                break
    if kept.count < config.temporal_patch_size:
        raise InputError(
            f"{name} states {total} frames, but only {kept.count} of the {len(indices)} to be kept exist; remux it"
        )
    return Frames(kept.frames(), fps, indices[: kept.count], total)


def _count_packets(container: Any, stream: Any, limits: Limits) -> int:
    """The number of frames of a container that does not state it. Nothing is decoded; stops just above the limit."""
    count = 0
    for packet in container.demux(stream):
        count += packet.size > 0
        if count > limits.max_video_packets:
            break
    return count


class _Kept:
    """Kept frames, all of one size, in one array. The first frame allocates it, for ``most`` frames."""

    def __init__(self, most: int, limits: Limits, name: str) -> None:
        self.most, self.limits, self.name = most, limits, name
        self.count = 0
        self._frames: np.ndarray | None = None

    def check(self, height: int, width: int) -> None:
        """Raise InputError if frames of this size have too many pixels."""
        _check_pixels(self.most, height, width, self.limits, self.name)

    def add(self, frame: np.ndarray) -> None:
        """Add (H, W, 3) uint8. Raises InputError if its size differs from the others or is too large."""
        if self._frames is None:
            self.check(*frame.shape[:2])
            self._frames = np.empty((self.most, *frame.shape), dtype=np.uint8)
        height, width = self._frames.shape[1:3]
        if frame.shape[:2] != (height, width):
            raise InputError(
                f"{self.name} has frames of {width} x {height} and of {frame.shape[1]} x {frame.shape[0]}; they must "
                "all have the same size"
            )
        self._frames[self.count] = frame
        self.count += 1

    def frames(self) -> np.ndarray:
        """(F, H, W, 3) uint8. Raises InputError if there are none."""
        if self._frames is None:
            raise InputError(f"{self.name} has no frames")
        return self._frames[: self.count]


def _check_count(total: int, config: VideoConfig, name: str) -> None:
    if total < config.temporal_patch_size:
        raise InputError(
            f"{name} has {total} frame(s), but a temporal patch needs {config.temporal_patch_size}; use a longer video"
        )


def _is_rate(fps: float) -> bool:
    number = isinstance(fps, int | float) and not isinstance(fps, bool)
    return number and math.isfinite(fps) and fps > 0


def _check_pixels(kept: int, height: int, width: int, limits: Limits, name: str) -> None:
    if height * width > limits.max_picture_pixels:
        raise InputError(
            f"frames of {name} are {width} x {height}; at most {limits.max_picture_pixels:,} pixels are decoded: scale "
            "it down, or raise Limits.max_picture_pixels"
        )
    pixels = kept * height * width
    if pixels > limits.max_video_pixels:
        raise InputError(
            f"{kept} frames of {width} x {height} would be kept of {name}, {pixels:,} pixels; at most "
            f"{limits.max_video_pixels:,} are allowed: cut it, scale it down, or raise Limits.max_video_pixels"
        )
