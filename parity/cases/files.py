"""Writes media to files, so that both processors start from the same bytes. Clips are MP4, pictures PNG by default."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import cbook
from PIL import Image

from parity.cases.media import (
    Clip,
    Encoded,
    FrameFolder,
    GivenFrames,
    GivenPicture,
    Photo,
    PictureFile,
    Source,
    VideoFile,
    WorldClip,
)
from reference.media import PicturePath, VideoFrames, VideoPath

_ORIENTATION = 0x0112  # EXIF
_LIES_ON_ITS_SIDE = 6
# This codec is part of FFmpeg itself, so every build has it.
_CODEC, _PIXELS, _QUALITY = "mpeg4", "yuv420p", "2"


def as_file(source: Source, folder: Path, stem: str) -> str | PicturePath | VideoPath:
    """Return a text as it is, and a path for media. Media that are not files yet are written to ``folder``."""
    if isinstance(source, str):
        return source
    if isinstance(source, PictureFile):
        return PicturePath(source.path)
    if isinstance(source, VideoFile):
        return VideoPath(source.path)
    if isinstance(source, GivenPicture):
        picture = as_file(source.picture, folder, stem)
        assert isinstance(picture, PicturePath)
        return replace(picture, given=source.form)
    if isinstance(source, GivenFrames):
        return VideoPath(write_frames(source.load(), folder / stem), source.form, source.fps)
    if isinstance(source, FrameFolder):
        return VideoPath(write_frames(source.load(), folder / stem))
    if isinstance(source, Clip | WorldClip):
        return VideoPath(write_clip(source.load(), folder / f"{stem}.mp4"))
    if source == Photo():
        return PicturePath(Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    if isinstance(source, Encoded):
        return PicturePath(write_encoded(source.load(), source.form, folder / stem))
    path = folder / f"{stem}.png"
    source.load().save(path)
    return PicturePath(path)


def write_clip(video: VideoFrames, path: Path) -> Path:
    """Write frames (F, H, W, 3) uint8 with even sides as an MP4."""
    import av  # loads FFmpeg, which only runs with a video need

    with av.open(str(path), "w") as container:
        stream = container.add_stream(_CODEC, rate=Fraction(video.fps).limit_denominator(1000))
        stream.height, stream.width = video.frames.shape[1:3]
        stream.pix_fmt, stream.options = _PIXELS, {"qscale": _QUALITY}
        for frame in video.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_frames(video: VideoFrames, folder: Path) -> Path:
    """Write frames (F, H, W, 3) uint8 as PNGs with numbers of unequal length in their names."""
    folder.mkdir()
    for number, frame in enumerate(video.frames):
        Image.fromarray(frame).save(folder / f"frame-{number}.png")
    return folder


def write_gif(video: VideoFrames, path: Path) -> Path:
    """Write frames (F, H, W, 3) uint8 as a GIF. Each has its own palette of 256 colours."""
    first, *rest = [Image.fromarray(frame).quantize(256) for frame in video.frames]
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / video.fps), loop=0)
    return path


def write_encoded(image: Image.Image, form: str, stem: Path) -> Path:
    """Write an RGB picture in one of ``media.FORMATS`` or ``media.FURTHER_FORMATS``. Adds the suffix to ``stem``.

    Raises ValueError for another form.
    """
    path = stem.with_suffix(_SUFFIXES.get(form, ".jpg" if form.startswith("exif-") else ".png"))
    options: dict[str, Any] = {"quality": 90} if path.suffix == ".jpg" else {}
    match form:
        case "jpeg" | "bmp":
            pass
        case "turned":
            options["exif"] = _oriented(_LIES_ON_ITS_SIDE)
        case "exif-2" | "exif-3" | "exif-4" | "exif-5" | "exif-7" | "exif-8":
            options["exif"] = _oriented(int(form[-1]))
        case "cmyk":
            image = image.convert("CMYK")
        case "grey":
            image = image.convert("L")
        case "alpha":
            image.putalpha(_half_transparent(image.size))
        case "grey-alpha":
            image = image.convert("L")
            image.putalpha(_half_transparent(image.size))
        case "palette":
            image, options = image.quantize(256), {"transparency": 0}
        case "opaque-palette":
            image = image.quantize(64)
        case "bilevel":
            image = image.convert("1")
        case "grey16":
            # Only numbers that fit into 8 bits: decoders treat larger ones differently.
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16))
        case "white16":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 2)
        case "animated":
            options = {"save_all": True, "append_images": [image.rotate(180)], "duration": 100}
        case "webp":
            options = {"lossless": True}
        case _:
            raise ValueError(f"there is no picture form {form!r}")
    image.save(path, **options)
    return path


_SUFFIXES = {"jpeg": ".jpg", "turned": ".jpg", "cmyk": ".jpg", "animated": ".gif", "webp": ".webp", "bmp": ".bmp"}


def _oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return exif


def _half_transparent(size: tuple[int, int]) -> Image.Image:
    alpha = Image.new("L", size, 255)
    alpha.paste(64, (0, 0, size[0] // 2, size[1]))
    return alpha
