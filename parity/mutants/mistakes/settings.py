"""Numbers that a port writes down instead of reading them, and limits that only large or small media reach.

Shape legend
    F, h, w    frames, height, width in pixels after the resize
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import port.pixel_config
import port.pixels
import port.resize
from parity.mutants.base import FLOAT32, LOADING, around, family, replaced
from port.config import Qwen3VLConfig
from port.pixel_config import PictureConfig, VideoConfig
from port.text import DecoderLayer, TextAttention, TextModel


def _reads(owner: Any, **fixed: Any) -> AbstractContextManager[None]:
    """``owner`` is read from its file with these fields written down."""
    return around(owner, "from_folder", lambda original, cls, folder: replace(original(cls, folder), **fixed))


def _fixed(field: str, value: Any) -> AbstractContextManager[None]:
    """A field of text_config is written down."""

    def wrapper(original: Any, cls: Any, raw: Mapping[str, Any], **options: Any) -> Qwen3VLConfig:
        config = original(cls, raw, **options)
        return replace(config, text=replace(config.text, **{field: value}))

    return around(Qwen3VLConfig, "from_dict", wrapper)


def _epsilon_of(owner: Any, *norms: str) -> AbstractContextManager[None]:
    """Some norms of a module have the epsilon 1e-6."""

    def build(original: Any, self: Any, *args: Any) -> None:
        original(self, *args)
        for name in norms:
            getattr(self, name).eps = 1e-6

    return around(owner, "__init__", build)


def _picture_limits(change: Callable[[int, int], tuple[int, int]]) -> AbstractContextManager[None]:
    """``change(least, most)`` are the limits of a picture's pixels."""

    def call(original: Any, *sides: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
        least, most = change(min_pixels, max_pixels)
        return original(*sides, factor=factor, min_pixels=least, max_pixels=most)

    return around(port.pixels, "smart_resize", call)


def _video_limit(most: int) -> AbstractContextManager[None]:
    """A video has at most so many pixels, whatever the config says."""

    def call(original: Any, *sizes: int, max_pixels: int, **rest: int) -> tuple[int, int]:
        return original(*sizes, max_pixels=min(max_pixels, most), **rest)

    return around(port.pixels, "smart_resize_video", call)


def _strict_limit(original: Any, *sides: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    return original(*sides, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels - 1)


def _grown_to_nearest(height: int, width: int, scale: float, factor: int) -> tuple[int, int]:
    return max(factor, round(height * scale / factor) * factor), max(factor, round(width * scale / factor) * factor)


def _half_frames_up(original: Any, frames: int, *sides: int, temporal_factor: int, **rest: int) -> tuple[int, int]:
    """The limits are checked with the number of frames rounded up to whole temporal patches."""
    counted = math.ceil(frames / temporal_factor) * temporal_factor
    return original(counted, *sides, temporal_factor=temporal_factor, **rest)


def _pictures_settings(name: str) -> AbstractContextManager[None]:
    """Videos have a setting of pictures."""

    def read(original: Any, cls: Any, folder: Any) -> VideoConfig:
        return replace(original(cls, folder), **{name: getattr(PictureConfig.from_folder(folder), name)})

    return around(VideoConfig, "from_folder", read)


def _both(**fixed: Any) -> AbstractContextManager[None]:
    """Picture and video configs are read with these fields written down."""
    stack = ExitStack()

    @contextmanager
    def planted() -> Iterator[None]:
        with stack:
            for owner in (PictureConfig, VideoConfig):
                stack.enter_context(_reads(owner, **fixed))
            yield

    return planted()


def _size_alone(original: Any, cls: Any, folder: Any) -> PictureConfig:
    """min_pixels and max_pixels of older files are ignored."""
    _, raw = port.pixel_config._section(folder, port.pixel_config.PICTURE_FILE, "image_processor")
    size = raw["size"]
    return replace(original(cls, folder), min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"])


_PROCESSOR: dict[str, Any] = {"component": "settings", "step": "processor", "stage": "processor"}
_RESIZED = "processor.images.{}.resized"
picture = family(**_PROCESSOR, seam=_RESIZED)
sized = family(**_PROCESSOR, seam="processor.image_grid_thw", needs=frozenset({"huge"}))
video = family(**_PROCESSOR, seam="processor.videos.{}.resized")
frames = family(**_PROCESSOR, seam="processor.videos.{}.frame_indices")
patches = family(**_PROCESSOR, seam="processor.images.{}.patches|processor.videos.{}.patches")
text = family(component="settings", step="prefill", loads=True)

MUTANTS = [
    sized(
        "picture-capped-at-12-million",
        "pictures have at most 12,845,056 pixels, whatever the config says",
        lambda: _picture_limits(lambda least, most: (least, min(most, 12845056))),
    ),
    sized(
        "video-capped-at-16-million",
        "videos have at most 16,777,216 pixels, whatever the config says",
        lambda: _video_limit(16777216),
        seam="processor.video_grid_thw",
    ),
    picture(
        "smallest-picture-fixed",
        "pictures have at least 4,096 pixels, whatever the config says",
        lambda: _picture_limits(lambda _least, most: (4096, most)),
        needs=frozenset({"released limits"}),
    ),
    picture(
        "largest-picture-excluded",
        "a picture of exactly the largest number of pixels is shrunk",
        lambda: around(port.pixels, "smart_resize", _strict_limit),
        needs=frozenset({"picture at the limit"}),
    ),
    picture(
        "growth-to-nearest",
        "small pictures grow to the nearest size instead of the next larger one",
        lambda: replaced(port.resize, "_grown", _grown_to_nearest),
        needs=frozenset({"grown unevenly"}),
    ),
    video(
        "frames-counted-up",
        "the limits of a video are checked with its frames rounded up",
        lambda: around(port.pixels, "smart_resize_video", _half_frames_up),
        needs=frozenset({"frames decide the size"}),
    ),
    patches(
        "video-mean-of-pictures",
        "videos are normalised with the mean of pictures",
        lambda: _pictures_settings("image_mean"),
        seam="processor.videos.{}.patches",
        needs=frozenset({"video", "set image_mean"}),
    ),
    patches(
        "rescale-factor-fixed",
        "pixels are divided by 255, whatever the config says",
        lambda: _both(rescale_factor=1 / 255),
        needs=frozenset({"image", "set rescale_factor"}),
    ),
    patches(
        "mean-and-std-fixed",
        "mean and standard deviation are 0.5, whatever the config says",
        lambda: _both(image_mean=(0.5,) * 3, image_std=(0.5,) * 3),
        needs=frozenset({"image", "set image_std"}),
    ),
    frames(
        "fps-fixed",
        "two frames per second are kept, whatever the config says",
        lambda: _reads(VideoConfig, fps=2.0),
        needs=frozenset({"sampled", "set fps", "set max_frames"}),
    ),
    frames(
        "max-frames-fixed",
        "at most 768 frames are kept, whatever the config says",
        lambda: _reads(VideoConfig, max_frames=768),
        needs=frozenset({"sampled", "set max_frames"}),
    ),
    frames(
        "min-frames-fixed",
        "at least four frames are kept, whatever the config says",
        lambda: _reads(VideoConfig, min_frames=4),
        needs=frozenset({"set min_frames"}),
    ),
    frames(
        "number-of-frames-ignored",
        "a fixed number of frames is ignored, two per second are kept",
        lambda: _reads(VideoConfig, num_frames=None, fps=2.0),
        needs=frozenset({"sampled", "set num_frames"}),
    ),
    video(
        "cap-per-frame-ignored",
        "the largest number of tokens of a frame is ignored",
        lambda: _reads(VideoConfig, cap_pixels_per_frame=False),
        needs=frozenset({"set cap_pixels_per_frame"}),
    ),
    video(
        "tokens-per-frame-fixed",
        "a capped frame has up to 768 tokens, whatever the config says",
        lambda: _reads(VideoConfig, max_video_tokens=768),
        needs=frozenset({"set max_video_tokens"}),
    ),
    picture(
        "older-limits-ignored",
        "min_pixels and max_pixels of older files are ignored",
        lambda: around(PictureConfig, "from_folder", _size_alone),
        needs=frozenset({"stored as older-pixel-limits"}),
    ),
    text(
        "qk-norm-eps-fixed",
        "the norms of queries and keys have the epsilon 1e-6, whatever the config says",
        lambda: _epsilon_of(TextAttention, "q_norm", "k_norm"),
        seam="text.layers.{}.attn.q_norm",
        needs=frozenset({"set rms_norm_eps"}),
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    text(
        "final-norm-eps-fixed",
        "the last norm has the epsilon 1e-6, whatever the config says",
        lambda: _epsilon_of(TextModel, "norm"),
        seam="text.norm",
        needs=frozenset({"set rms_norm_eps"}),
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    text(
        "layer-norm-eps-fixed",
        "the input norms have the epsilon 1e-6, whatever the config says",
        lambda: _epsilon_of(DecoderLayer, "input_layernorm"),
        seam="text.layers.{}.input_norm",
        needs=frozenset({"set rms_norm_eps"}),
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    text(
        "rope-theta-fixed",
        "rope_theta is 5,000,000, whatever the config says",
        lambda: _fixed("rope_theta", 5_000_000.0),
        seam="text.rope_cos",
        needs=frozenset({"other rope_theta"}),
    ),
    text(
        "attention-bias-ignored",
        "the projections of attention have no bias, whatever the config says",
        lambda: _fixed("attention_bias", False),
        seam=LOADING,
        step=LOADING,
        needs=frozenset({"attention bias"}),
    ),
]
