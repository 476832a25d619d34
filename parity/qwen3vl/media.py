"""Pictures and clips: from files, and the ones that ship with the package's own dependencies or come from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from matplotlib import cbook
from PIL import Image, UnidentifiedImageError

from parity.core.errors import ParityError
from reference.processor import VideoFrames

# A clip longer than this is refused rather than decoded: 4096 frames of 1080p are 25 GB.
MAX_FRAMES = 1024


@dataclass(frozen=True)
class Photo:
    """The photograph of Grace Hopper that matplotlib ships, resized to ``size`` (width, height) if given."""

    size: tuple[int, int] | None = None
    box: tuple[int, int, int, int] | None = None

    @property
    def title(self) -> str:
        return "grace_hopper.jpg" + (f", {self.size[0]} x {self.size[1]}" if self.size else "")

    def load(self) -> Image.Image:
        with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as file:
            image = file.convert("RGB")
        if self.box:
            image = image.crop(self.box)
        return image.resize(self.size, Image.Resampling.BICUBIC) if self.size else image


@dataclass(frozen=True)
class Noise:
    """A picture of random blocks, width x height, from a seed: no two patches alike."""

    width: int
    height: int
    seed: int = 0

    @property
    def title(self) -> str:
        return f"noise {self.width} x {self.height} (seed {self.seed})"

    def load(self) -> Image.Image:
        rng = np.random.default_rng(self.seed)
        small = rng.integers(0, 256, (self.height // 4 + 1, self.width // 4 + 1, 3), dtype=np.uint8)
        return Image.fromarray(small).resize((self.width, self.height), Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class PictureFile:
    """A picture on disk."""

    path: Path

    @property
    def title(self) -> str:
        return self.path.name

    def load(self) -> Image.Image:
        """RGB pixels. Raises ParityError when the file is absent, no picture, or a decompression bomb."""
        _check_file("picture", self.path)
        try:
            with Image.open(self.path) as image:
                return image.convert("RGB")
        except UnidentifiedImageError:
            raise ParityError(
                f"the picture {self.path} cannot be decoded: its format is unknown; convert it to PNG or JPEG"
            ) from None
        except (OSError, SyntaxError, ValueError) as error:
            raise ParityError(
                f"the picture {self.path} cannot be decoded: {error}; convert it to PNG or JPEG"
            ) from None
        except Image.DecompressionBombError as error:
            raise ParityError(f"the picture {self.path} is too large: {error}; scale it down") from None


@dataclass(frozen=True)
class Cropped:
    """The upper left part of another picture: three fifths of its width, nine tenths of its height."""

    picture: Picture

    @property
    def title(self) -> str:
        return f"{self.picture.title}, cropped"

    def load(self) -> Image.Image:
        image = self.picture.load()
        return image.crop((0, 0, max(1, image.width * 3 // 5), max(1, image.height * 9 // 10)))


@dataclass(frozen=True)
class Clip:
    """A camera panning over the photograph: ``frames`` frames of width x height at ``fps``."""

    frames: int
    width: int
    height: int
    fps: float = 4.0

    @property
    def title(self) -> str:
        return f"clip of {self.frames} frames, {self.width} x {self.height}"

    def load(self) -> VideoFrames:
        image = Photo().load()
        rng = np.random.default_rng(self.frames * 7919 + self.width)
        path = np.cumsum(rng.integers(3, 12, (self.frames, 2)), axis=0)
        frames = [np.asarray(image.crop((int(x), int(y), int(x) + self.width, int(y) + self.height))) for x, y in path]
        return VideoFrames(np.stack(frames), self.fps)


@dataclass(frozen=True)
class VideoFile:
    """A video on disk, decoded with PyAV."""

    path: Path

    @property
    def title(self) -> str:
        return self.path.name

    def load(self) -> VideoFrames:
        """All frames. Raises ParityError when the file is absent, no video, empty, or longer than MAX_FRAMES."""
        import av  # loads FFmpeg; only runs with a video need it

        _check_file("video", self.path)
        frames: list[np.ndarray] = []
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise ParityError(f"{self.path} has no video stream; name a video")
                stream = container.streams.video[0]
                fps = float(stream.average_rate or 0)
                for frame in container.decode(stream):
                    if len(frames) == MAX_FRAMES:
                        raise ParityError(f"the video {self.path} has more than {MAX_FRAMES} frames; cut it")
                    frames.append(frame.to_ndarray(format="rgb24"))
        except (av.FFmpegError, OSError) as error:
            why = error.strerror or error
            raise ParityError(f"the video {self.path} cannot be decoded: {why}; convert it to MP4") from None
        if not frames or fps <= 0:
            raise ParityError(
                f"the video {self.path} has {len(frames)} frames at {fps:g} frames a second; convert it to MP4"
            )
        return VideoFrames(np.stack(frames), fps)


def _check_file(what: str, path: Path) -> None:
    """Refuse what no decoder would name well."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise ParityError(f"the {what} {path} does not exist") from None
    except OSError as error:
        raise ParityError(f"the {what} {path} cannot be read: {error.strerror}") from None
    if path.is_dir():
        raise ParityError(f"the {what} {path} is a folder; name a file")
    if path.is_file() and size == 0:
        raise ParityError(f"the {what} {path} is empty (0 bytes)")


Picture = Photo | Noise | PictureFile | Cropped
Video = Clip | VideoFile
Source = str | Picture | Video


def is_picture(source: Source) -> TypeGuard[Picture]:
    """Whether a source is a still picture, and not a text or a video."""
    return isinstance(source, Photo | Noise | PictureFile | Cropped)


def load(source: Source) -> Any:
    """A text as it is, a picture or a clip decoded."""
    return source if isinstance(source, str) else source.load()
