"""Writes media to files, so that both processors start from the same bytes. Clips are MP4, pictures PNG by default."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from matplotlib import cbook
from PIL import Image

from parity.cases.media import Clip, Encoded, Photo, PictureFile, Source, VideoFile, WorldClip
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


def write_gif(video: VideoFrames, path: Path) -> Path:
    """Write frames (F, H, W, 3) uint8 as a GIF. Each has its own palette of 256 colours."""
    first, *rest = [Image.fromarray(frame).quantize(256) for frame in video.frames]
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / video.fps), loop=0)
    return path


def write_encoded(image: Image.Image, form: str, stem: Path) -> Path:
    """Write an RGB picture in one of ``media.FORMATS``. Adds the suffix to ``stem``. Raises ValueError for another."""
    jpeg, png = stem.with_suffix(".jpg"), stem.with_suffix(".png")
    match form:
        case "jpeg":
            image.save(jpeg, quality=90)
        case "turned":
            exif = Image.Exif()
            exif[_ORIENTATION] = _LIES_ON_ITS_SIDE
            image.save(jpeg, quality=90, exif=exif)
        case "cmyk":
            image.convert("CMYK").save(jpeg, quality=90)
        case "grey":
            image.convert("L").save(png)
        case "alpha":
            half = Image.new("L", image.size, 255)
            half.paste(64, (0, 0, image.width // 2, image.height))
            image.putalpha(half)
            image.save(png)
        case "palette":
            image.quantize(256).save(png, transparency=0)
        case "grey16":
            # Only numbers that fit into 8 bits: decoders treat larger ones differently.
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16)).save(png)
        case _:
            raise ValueError(f"there is no picture form {form!r}")
    return jpeg if form in ("jpeg", "turned", "cmyk") else png
