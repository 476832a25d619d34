"""``preprocessor_config.json`` and ``video_preprocessor_config.json``: how pixels become patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from port.errors import ConfigError
from port.json_fields import Fields, read_object

PICTURE_FILE = "preprocessor_config.json"
VIDEO_FILE = "video_preprocessor_config.json"
# transformers 5 saves both, and more, in this file.
BOTH_FILE = "processor_config.json"
# Fields that published checkpoints leave out. They have had the same value in every version of the reference.
_CONSTANTS: Mapping[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
}
_VIDEO_CONSTANTS: Mapping[str, Any] = {
    "do_sample_frames": True,
    "fps": 2,
    "num_frames": None,
    "min_frames": 4,
    "max_frames": 768,
    "cap_pixels_per_frame": None,
    "max_video_tokens": 768,
}
_BICUBIC = 3  # Pillow's number


@dataclass(frozen=True)
class PatchConfig:
    """The fields that pictures and videos have in common.

    ``min_pixels`` and ``max_pixels`` are limits of the resized picture, or of all frames of a video together.
    ``image_mean`` and ``image_std`` are for pixels between 0 and 1, with one number for each of the three channels.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    rescale_factor: float

    @property
    def factor(self) -> int:
        """The side of a merged patch in pixels. The sides of a resized picture are multiples of it."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True)
class PictureConfig(PatchConfig):
    """``preprocessor_config.json``. ``min_pixels`` and ``max_pixels`` of older files take precedence over ``size``."""

    @classmethod
    def from_folder(cls, folder: Path | str) -> PictureConfig:
        """Raises ConfigError, with file and field, for what is missing, of the wrong type or not supported."""
        where, raw = _section(Path(folder), PICTURE_FILE, "image_processor")
        older = {"shortest_edge": raw.get("min_pixels"), "longest_edge": raw.get("max_pixels")}
        size = raw.get("size", {})
        if isinstance(size, Mapping):
            size = {**size, **{edge: area for edge, area in older.items() if area is not None}}
        fields = Fields({**_CONSTANTS, **raw, "size": size}, where)
        least, most = _areas(fields)
        return cls(**_common(fields), min_pixels=least, max_pixels=most)


@dataclass(frozen=True)
class VideoConfig(PatchConfig):
    """``video_preprocessor_config.json``.

    ``fps`` frames per second are kept, but at least ``min_frames`` and at most ``max_frames``. If ``num_frames`` is
    set, that many are kept and ``fps`` is None. With ``cap_pixels_per_frame`` a frame has at most
    ``max_video_tokens`` merged patches, as in qwen-vl-utils. If it is missing or null there is no cap: the reference
    does the same up to 5.23, although its warning says that the cap becomes the default in 5.22. ``min_pixels`` and
    ``max_pixels`` beside ``size``, which older files have for pictures, are ignored, as in the reference.
    """

    fps: float | None
    num_frames: int | None
    min_frames: int
    max_frames: int
    cap_pixels_per_frame: bool
    max_video_tokens: int

    @classmethod
    def from_folder(cls, folder: Path | str) -> VideoConfig:
        """Raises ConfigError, with file and field, for what is missing, of the wrong type or not supported."""
        where, raw = _section(Path(folder), VIDEO_FILE, "video_processor")
        if raw.get("num_frames") is not None and raw.get("fps") is not None:
            raise ConfigError(f"{where} has both fps = {raw['fps']!r} and num_frames = {raw['num_frames']!r}; keep one")
        fields = Fields({**_CONSTANTS, **_VIDEO_CONSTANTS, **raw}, where)
        fields.require("do_sample_frames", True)
        counted = fields.has("num_frames")
        least, most = _areas(fields)
        return cls(
            **_common(fields),
            min_pixels=least,
            max_pixels=most,
            fps=None if counted else fields.number("fps", above=0),
            num_frames=fields.integer("num_frames") if counted else None,
            min_frames=fields.integer("min_frames"),
            max_frames=fields.integer("max_frames"),
            cap_pixels_per_frame=fields.flag("cap_pixels_per_frame", default=False),
            max_video_tokens=fields.integer("max_video_tokens"),
        )


def _section(folder: Path, own: str, name: str) -> tuple[str, dict[str, Any]]:
    """The file and its fields. A section of ``processor_config.json`` takes precedence over the file of its own."""
    both = folder / BOTH_FILE
    if both.exists():
        section = read_object(both).get(name)
        if isinstance(section, dict):
            return f"{both} ({name})", section
    path = folder / own
    if not path.exists():
        raise ConfigError(
            f"{path} does not exist, and {BOTH_FILE} has no {name}; give the folder of a complete Qwen3-VL checkpoint"
        )
    return str(path), read_object(path)


class _Common(TypedDict):
    """The fields of ``PatchConfig`` that pictures and videos read in the same way."""

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    rescale_factor: float


def _common(fields: Fields) -> _Common:
    for name in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        fields.require(name, True)
    fields.require("resample", _BICUBIC)
    return {
        "patch_size": fields.integer("patch_size"),
        "temporal_patch_size": fields.integer("temporal_patch_size"),
        "merge_size": fields.integer("merge_size"),
        "image_mean": fields.three_numbers("image_mean"),
        "image_std": fields.three_numbers("image_std", above=0),
        "rescale_factor": fields.number("rescale_factor", above=0),
    }


def _areas(fields: Fields) -> tuple[int, int]:
    """The smallest and largest number of pixels of a resized picture: the edges in ``size`` are areas here."""
    size = fields.section("size")
    least, most = size.integer("shortest_edge"), size.integer("longest_edge")
    if least > most:
        raise ConfigError(f"{size.where} asks for at least {least} and at most {most} pixels; swap the two limits")
    return least, most
