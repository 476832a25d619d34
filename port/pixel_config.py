"""``preprocessor_config.json`` and ``video_preprocessor_config.json``: how pixels become patches."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from port.errors import ConfigError

PICTURE_FILE = "preprocessor_config.json"
VIDEO_FILE = "video_preprocessor_config.json"
# transformers 5 saves both, and more, in this one.
BOTH_FILE = "processor_config.json"
# What published checkpoints leave out, because every version of the reference has had the same value.
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
    """What pictures and videos have in common.

    ``min_pixels`` and ``max_pixels`` bound the resized picture, for a video all its frames together.
    ``image_mean`` and ``image_std`` are of pixels between 0 and 1, one for each of three channels.
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
        """Sides of a resized picture are multiples of it: the side of a merged patch."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True)
class PictureConfig(PatchConfig):
    """``preprocessor_config.json``; ``min_pixels`` and ``max_pixels`` of older files go before ``size``."""

    @classmethod
    def from_folder(cls, folder: Path | str) -> PictureConfig:
        """Raises ConfigError naming file and field for what is missing, mistyped or not supported."""
        where, raw = _section(Path(folder), PICTURE_FILE, "image_processor")
        older = {"shortest_edge": raw.get("min_pixels"), "longest_edge": raw.get("max_pixels")}
        size: Any = raw.get("size", {})
        if isinstance(size, Mapping):
            size = {**size, **{edge: area for edge, area in older.items() if area is not None}}
        least, most = _areas(size, where)
        return cls(**_common(raw, where), min_pixels=least, max_pixels=most)


@dataclass(frozen=True)
class VideoConfig(PatchConfig):
    """``video_preprocessor_config.json``.

    ``fps`` frames a second are kept, between ``min_frames`` and ``max_frames`` (``fps`` is None where ``num_frames``
    says how many). With ``cap_pixels_per_frame`` a frame has at most ``max_video_tokens`` merged patches, as in
    qwen-vl-utils. A file that leaves it out, or says null, means no cap: that is what the reference does up to 5.23,
    though its warning announces the cap as the rule from 5.22 on. ``min_pixels`` and ``max_pixels`` beside ``size``,
    which older files have for pictures, are passed over, as in the reference.
    """

    fps: float | None
    num_frames: int | None
    min_frames: int
    max_frames: int
    cap_pixels_per_frame: bool
    max_video_tokens: int

    @classmethod
    def from_folder(cls, folder: Path | str) -> VideoConfig:
        """Raises ConfigError naming file and field for what is missing, mistyped or not supported."""
        where, raw = _section(Path(folder), VIDEO_FILE, "video_processor")
        if raw.get("num_frames") is not None and raw.get("fps") is not None:
            raise ConfigError(f"{where} has both fps = {raw['fps']!r} and num_frames = {raw['num_frames']!r}; keep one")
        raw = {**_VIDEO_CONSTANTS, **raw}
        if raw["do_sample_frames"] is not True:
            raise ConfigError(f"{where} has do_sample_frames = {raw['do_sample_frames']!r}, only true is supported")
        cap = raw["cap_pixels_per_frame"]
        if cap is not None and not isinstance(cap, bool):
            raise ConfigError(f"{where} has cap_pixels_per_frame = {cap!r}, expected true, false or null")
        count = raw["num_frames"]
        least, most = _areas(raw.get("size"), where)
        return cls(
            **_common(raw, where),
            min_pixels=least,
            max_pixels=most,
            fps=None if count is not None else _number(raw, "fps", where),
            num_frames=None if count is None else _whole(raw, "num_frames", where),
            min_frames=_whole(raw, "min_frames", where),
            max_frames=_whole(raw, "max_frames", where),
            cap_pixels_per_frame=bool(cap),
            max_video_tokens=_whole(raw, "max_video_tokens", where),
        )


def _section(folder: Path, own: str, name: str) -> tuple[str, dict[str, Any]]:
    """The file's name and its contents; where ``processor_config.json`` has the section, it comes first."""
    both = folder / BOTH_FILE
    if both.is_file():
        section = _read(both).get(name)
        if isinstance(section, dict):
            return f"{both} ({name})", section
    path = folder / own
    if not path.is_file():
        raise ConfigError(f"{folder} has neither {own} nor a {name} in {BOTH_FILE}; is it a whole checkpoint?")
    return str(path), _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds a {type(raw).__name__}, expected an object")
    return raw


def _common(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    raw = {**_CONSTANTS, **raw}
    for name in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        if raw[name] is not True:
            raise ConfigError(f"{where} has {name} = {raw[name]!r}, only true is supported")
    if raw["resample"] != _BICUBIC:
        raise ConfigError(f"{where} has resample = {raw['resample']!r}, only {_BICUBIC} (bicubic) is supported")
    return {
        "patch_size": _whole(raw, "patch_size", where),
        "temporal_patch_size": _whole(raw, "temporal_patch_size", where),
        "merge_size": _whole(raw, "merge_size", where),
        "image_mean": _channels(raw, "image_mean", where),
        "image_std": _channels(raw, "image_std", where, positive=True),
        "rescale_factor": _number(raw, "rescale_factor", where),
    }


def _areas(size: Any, where: str) -> tuple[int, int]:
    """Least and most pixels of a resized picture: ``size``'s edges are areas here."""
    if not isinstance(size, Mapping):
        raise ConfigError(f"{where} has size = {size!r}, expected an object with shortest_edge and longest_edge")
    edges = {f"size.{edge}": size.get(edge) for edge in ("shortest_edge", "longest_edge")}
    least, most = (_whole(edges, name, where) for name in edges)
    if least > most:
        raise ConfigError(f"{where} asks for at least {least} and at most {most} pixels; swap the limits")
    return least, most


def _whole(raw: Mapping[str, Any], name: str, where: str) -> int:
    value = _present(raw, name, where)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{where} has {name} = {value!r}, expected a whole number of at least 1")
    return value


def _number(raw: Mapping[str, Any], name: str, where: str) -> float:
    value = _present(raw, name, where)
    if not _is_number(value) or value <= 0:
        raise ConfigError(f"{where} has {name} = {value!r}, expected a number larger than 0")
    return float(value)


def _channels(raw: Mapping[str, Any], name: str, where: str, *, positive: bool = False) -> tuple[float, float, float]:
    value = _present(raw, name, where)
    good = isinstance(value, list) and len(value) == 3 and all(_is_number(part) for part in value)
    if not good or (positive and not all(part > 0 for part in value)):
        raise ConfigError(f"{where} has {name} = {value!r}, expected three numbers" + " above 0" * positive)
    return (float(value[0]), float(value[1]), float(value[2]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _present(raw: Mapping[str, Any], name: str, where: str) -> Any:
    if raw.get(name) is None:
        raise ConfigError(f"{where} has no {name}; add it, a guess would change every pixel")
    return raw[name]
