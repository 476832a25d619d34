"""Decoding pictures of any format and mode that Pillow supports to 8-bit RGB, as the reference does.

Shape legend
    H, W   height, width in pixels
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from port.errors import InputError
from port.limits import DEFAULT_LIMITS, Limits

# Pillow runs Ghostscript for PostScript: a program written by the picture's author would run.
_RUN_BY_OTHERS = ("EPS",)
PictureSource = Path | str | bytes | Image.Image | np.ndarray


def load_picture(source: PictureSource, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """A picture as (H, W, 3) uint8, from a file's path, its bytes, a Pillow image, or an array (H, W[, 3]) uint8.

    As in ``transformers.image_utils.load_image``, the EXIF orientation is applied, then Pillow converts to RGB:

    - alpha is dropped, so the colours of transparent pixels show, and a palette's transparent colour is opaque;
    - 16-bit grey is cut off at 255 and so becomes mostly white (use an 8-bit picture);
    - CMYK is converted by Pillow's simple formula;
    - only the first frame of an animation is used.

    The reference's image processor, given a transparent Pillow image without ``load_image``, puts it on white, as
    qwen-vl-utils does. Here a picture has the same pixels whichever way it is given.

    Raises InputError for a URL, a folder or anything else that is not a regular file, and for a picture that cannot
    be read, has no pixels or too many, or is too narrow.
    """
    if isinstance(source, np.ndarray):
        return _checked(_from_array(source), "the array", limits)
    if isinstance(source, Image.Image):
        with _readable("the picture"):
            return _checked(_to_rgb(source, "the picture", limits), "the picture", limits)
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), f"the picture of {len(source)} bytes", limits)
    if not isinstance(source, str | Path):
        raise InputError(f"a picture is a {type(source).__name__}; give a path, bytes, a Pillow image or an array")
    if isinstance(source, str) and "://" in source[:16]:
        raise InputError(f"the picture {source} is a URL, and nothing is downloaded; give a file")
    path = Path(source)
    name = f"the picture {path}"
    try:
        if path.is_dir():
            raise InputError(f"{name} is a folder; give a file")
        if not path.exists():
            raise InputError(f"{name} does not exist")
        if not path.is_file():
            raise InputError(f"{name} is not a regular file (a pipe may never end); save it to a file first")
        if path.stat().st_size == 0:
            raise InputError(f"{name} is empty (0 bytes)")
        with path.open("rb") as file:
            return _decode(file, name, limits)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error}") from None


def _decode(file: IO[bytes], name: str, limits: Limits) -> np.ndarray:
    with _readable(name), Image.open(file) as image:
        if image.format in _RUN_BY_OTHERS:
            raise InputError(f"{name} is {image.format}, which Pillow would run another program for; convert it to PNG")
        return _checked(_to_rgb(image, name, limits), name, limits)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises inside the block into InputError; for a broken file it may raise anything.

    Pillow's warnings are silenced: large pictures are checked here, and alpha is dropped on purpose.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{name} is in an unknown format; convert it to PNG or JPEG") from None
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{name} is too large: {error} scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS and "
            "Limits.max_picture_pixels"
        ) from None
    except Exception as error:
        why = str(error) or type(error).__name__
        raise InputError(f"{name} cannot be decoded: {why}; convert it to PNG or JPEG") from None


def _to_rgb(image: Image.Image, name: str, limits: Limits) -> np.ndarray:
    pixels = image.width * image.height
    if pixels > limits.max_picture_pixels:  # known from the header, before anything is decoded
        raise InputError(
            f"{name} is {image.width} x {image.height}, {pixels:,} pixels; at most {limits.max_picture_pixels:,} are "
            "decoded: scale it down, or raise Limits.max_picture_pixels"
        )
    if pixels == 0:
        raise InputError(f"{name} is {image.width} x {image.height} pixels; both sides must be at least 1")
    upright = ImageOps.exif_transpose(image)
    return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise InputError(
            f"the array is {array.dtype} {list(array.shape)}; it must be uint8 [height, width, 3] or [height, width]"
        )
    return np.ascontiguousarray(array) if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2)


def _checked(pixels: np.ndarray, name: str, limits: Limits) -> np.ndarray:
    height, width = pixels.shape[:2]
    if height * width == 0:
        raise InputError(f"{name} is {width} x {height} pixels; both sides must be at least 1")
    if height * width > limits.max_picture_pixels:
        raise InputError(
            f"{name} is {width} x {height}; at most {limits.max_picture_pixels:,} pixels are allowed: scale it down"
        )
    if max(height, width) > limits.max_aspect_ratio * min(height, width):
        raise InputError(
            f"{name} is {width} x {height}, but the aspect ratio may be at most {limits.max_aspect_ratio}; crop it"
        )
    return pixels
