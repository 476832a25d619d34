"""Mistakes in the processor: decoding, sampling, resizing, cutting into patches, and the prompt.

Shape legend
    F, h, w    frames, height, width in pixels after the resize
    N, C       patches, channels
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

import port.picture
import port.pixels
import port.processor
import port.prompt
import port.resize
import port.video
from parity.mutants.base import BATCH, IMAGE, VIDEO, altered, around, family, replaced, result_changed
from parity.mutants.mistakes.inputs import CLIP_MEAN, CLIP_STD
from parity.seams.processor import STEP
from port.pixel_config import PictureConfig, VideoConfig
from port.tokenizer import IMAGE_PAD, Tokenizer

_RESIZED = "processor.images.{}.resized|processor.videos.{}.resized"
_PATCHES = "processor.images.{}.patches|processor.videos.{}.patches"


def _resize_with(kernel: Callable[[Tensor, tuple[int, int]], Tensor]) -> AbstractContextManager[None]:
    """Frames are resized by ``kernel(frames, size)``, which takes and returns (F, 3, H, W) in uint8."""

    def resize(_original: Any, frames: Tensor, height: int, width: int) -> Tensor:
        if tuple(frames.shape[1:3]) == (height, width):
            return frames
        return kernel(frames.permute(0, 3, 1, 2), (height, width)).permute(0, 2, 3, 1)

    return around(port.pixels, "resize_bicubic", resize)


def _bilinear(frames: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(frames, size, mode="bilinear", antialias=True, align_corners=False)


def _without_antialias(frames: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(frames.float(), size, mode="bicubic", align_corners=False).round().clamp(0, 255).byte()


def _truncated(frames: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(frames.float(), size, mode="bicubic", antialias=True).clamp(0, 255).byte()


def _lanczos(frames: Tensor, size: tuple[int, int]) -> Tensor:
    def one(frame: Tensor) -> Tensor:
        image = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
        return torch.from_numpy(np.array(image.resize(size[::-1], Image.Resampling.LANCZOS))).permute(2, 0, 1)

    return torch.stack([one(frame) for frame in frames])


def _nearest(frames: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(frames, size, mode="nearest")


def _resized_to(change: Callable[..., tuple[int, int]]) -> AbstractContextManager[None]:
    """``change(original, height, width, factor=, min_pixels=, max_pixels=)`` is the size of a resized picture."""
    return around(port.pixels, "smart_resize", change)


def _twice(original: Any, height: int, width: int, *, factor: int, **limits: int) -> tuple[int, int]:
    return original(*original(height, width, factor=28, **limits), factor=factor, **limits)


def _may_vanish(original: Any, height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> Any:
    h, w = original(height, width, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)
    beta = (height * width / max_pixels) ** 0.5
    if round(height / factor) * round(width / factor) * factor**2 <= max_pixels:
        return h, w
    return int(height / beta / factor) * factor, int(width / beta / factor) * factor


def _sides_rounded(rule: Callable[[int, int], int]) -> AbstractContextManager[None]:
    """Each side is ``rule(side, factor)`` where that keeps the picture within its limits."""

    def change(original: Any, height: int, width: int, *, factor: int, **limits: int) -> tuple[int, int]:
        h, w = rule(height, factor), rule(width, factor)
        within = limits["min_pixels"] <= h * w <= limits["max_pixels"]
        return (h, w) if within else original(height, width, factor=factor, **limits)

    return _resized_to(change)


@contextmanager
def _configs(**changes: Any) -> Iterator[None]:
    """Picture and video configs are read with other values."""

    def changed(original: Any, cls: Any, folder: Any) -> Any:
        config = original(cls, folder)
        return replace(config, **{name: value for name, value in changes.items() if hasattr(config, name)})

    with ExitStack() as stack:
        for owner in (PictureConfig, VideoConfig):
            stack.enter_context(around(owner, "from_folder", changed))
        yield


def _picture_budget(_original: Any, frames: int, height: int, width: int, config: VideoConfig) -> tuple[int, int]:
    return port.resize.smart_resize(
        height, width, factor=config.factor, min_pixels=config.min_pixels, max_pixels=config.max_pixels
    )


def _cut(change: Callable[..., Tensor]) -> AbstractContextManager[None]:
    """``change(original, frames, patch=, temporal_patch=, merge=)`` cuts frames into patches (N, C)."""
    return around(port.pixels, "cut_patches", change)


def _raster(original: Any, frames: Tensor, **sizes: int) -> Tensor:
    return original(frames, **sizes | {"merge": 1})


def _columns_first(original: Any, frames: Tensor, **sizes: int) -> Tensor:
    return _transposed(original(frames.transpose(1, 2), **sizes), sizes["patch"])


def _transposed_patches(original: Any, frames: Tensor, **sizes: int) -> Tensor:
    return _transposed(original(frames, **sizes), sizes["patch"])


def _transposed(patches: Tensor, patch: int) -> Tensor:
    return patches.unflatten(1, (-1, patch, patch)).transpose(2, 3).flatten(1)


def _channels_last(original: Any, frames: Tensor, **sizes: int) -> Tensor:
    return original(frames, **sizes).unflatten(1, (3, -1)).transpose(1, 2).flatten(1)


def _time_first(original: Any, frames: Tensor, **sizes: int) -> Tensor:
    return original(frames, **sizes).unflatten(1, (3, sizes["temporal_patch"], -1)).transpose(1, 2).flatten(1)


def _padded(change: Callable[[Tensor, int], Tensor]) -> AbstractContextManager[None]:
    """``change(frames, temporal_patch)`` are the frames that are cut into patches."""
    return around(port.pixels, "pad_frames", lambda _original, frames, patch: change(frames, patch))


def _pad_by_remainder(frames: Tensor, patch: int) -> Tensor:
    pad = len(frames) % patch
    return torch.cat([frames, frames[-1:].expand(pad, -1, -1, -1)]) if pad else frames


def _pad_with_black(frames: Tensor, patch: int) -> Tensor:
    return torch.cat([frames, torch.zeros_like(frames[:1]).expand(-len(frames) % patch, -1, -1, -1)])


def _drop_the_rest(frames: Tensor, patch: int) -> Tensor:
    return frames[: len(frames) // patch * patch]


def _first_frame_only(patches: Tensor, _index: int) -> Tensor:
    frames = patches.unflatten(1, (3, 2, -1)).clone()  # (N, C, T, P*P) with T = 2
    frames[:, :, 1:] = 0
    return frames.flatten(1)


def _sampled(change: Callable[..., Any]) -> AbstractContextManager[None]:
    """``change(total, fps, config)`` are the indices of the kept frames."""

    def call(_original: Any, total: int, fps: float, config: VideoConfig) -> tuple[int, ...]:
        return tuple(int(index) for index in change(total, fps, config))

    return around(port.video, "sample_frames", call)


def _count(total: int, fps: float, config: VideoConfig) -> int:
    return min(max(int(total / fps * (config.fps or 0)), config.min_frames), config.max_frames, total)


def _stamped(change: Callable[..., Any]) -> AbstractContextManager[None]:
    """``change(original, indices, fps, temporal_patch)`` are the timestamps of a video."""
    return around(port.processor, "timestamps", change)


def _first_of_each(_original: Any, indices: Any, fps: float, patch: int) -> tuple[float, ...]:
    return tuple(index / fps for index in indices[::patch])


def _in_kept_frames(original: Any, indices: Any, fps: float, patch: int) -> tuple[float, ...]:
    return original(range(len(indices)), fps, patch)


def _prompted(change: Callable[..., Any]) -> AbstractContextManager[None]:
    """``change(original, text, tokenizer, images=, **rest)`` are the ids of a prompt."""
    return around(port.processor, "prompt_ids", change)


def _counted(change: Callable[[list[int]], list[int]]) -> AbstractContextManager[None]:
    """``change(counts)`` are the numbers of placeholders of a prompt's pictures."""
    return _prompted(
        lambda original, text, tokenizer, *, images, **rest: original(
            text, tokenizer, images=change(list(images)), **rest
        )
    )


def _in_place(original: Any, text: str, tokenizer: Any, *, style: Any, **rest: Any) -> Any:
    return original(text, tokenizer, style="in place", **rest)


def _text_changed(change: Callable[[str], str]) -> AbstractContextManager[None]:
    """``change(text)`` is the text of a prompt after timestamps and frame pairs were inserted."""
    return result_changed(port.prompt, "_with_frames", change)


def _without_timestamps(text: str) -> str:
    return re.sub(r"<[0-9.]+ seconds>", "", text)


def _hoisted(text: str) -> str:
    """Pictures are moved before the text of their turn."""
    triple = f"<|vision_start|>{IMAGE_PAD}<|vision_end|>"
    found = text.count(triple)
    head, sep, tail = text.replace(triple, "").partition("<|im_start|>user\n")
    return head + sep + triple * found + tail


def _other_side(original: Any, self: Tokenizer, rows: Any, side: str) -> Any:
    return original(self, rows, "right" if side == "left" else "left")


def _no_mask(original: Any, self: Tokenizer, rows: Any, side: Any) -> Any:
    ids, mask = original(self, rows, side)
    return ids, torch.ones_like(mask)


def _on_white(image: Any) -> Any:
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _converted(change: Callable[[Any], Any]) -> AbstractContextManager[None]:
    """``change(image)`` converts an image to RGB after its orientation is applied."""

    class Ops:
        @staticmethod
        def exif_transpose(image: Any) -> Any:
            return change(ImageOps.exif_transpose(image))

    return replaced(port.picture, "ImageOps", Ops)


class _NoOps:
    @staticmethod
    def exif_transpose(image: Any) -> Any:
        return image


def _scaled_down(image: Any) -> Any:
    """16-bit grey is divided by 256 before it is converted to RGB."""
    if not image.mode.startswith("I"):
        return image.convert("RGB")
    return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")


_PROCESSOR: dict[str, Any] = {"component": "processor", "step": STEP, "stage": "processor"}
processor = family(**_PROCESSOR)
sampling = family(**_PROCESSOR, seam="processor.videos.{}.frame_indices", needs=frozenset({"sampled"}))
timestamp = family(**_PROCESSOR, seam="processor.videos.{}.timestamps", needs=VIDEO)
resize = family(**_PROCESSOR, seam=_RESIZED, needs=frozenset({"resized"}))
patches = family(**_PROCESSOR, seam=_PATCHES, needs=IMAGE)
video_patches = family(**_PROCESSOR, seam="processor.videos.{}.patches", needs=frozenset({"odd frames"}))
prompt = family(**_PROCESSOR, seam="processor.input_ids", needs=IMAGE)

MUTANTS = [
    # Decoding.
    processor(
        "exif-orientation-ignored",
        "the EXIF orientation of a photo is not applied",
        lambda: replaced(port.picture, "ImageOps", _NoOps),
        seam="processor.images.{}.decoded",
        needs=frozenset({"turned"}),
    ),
    processor(
        "rgba-not-converted",
        "alpha is blended onto white instead of being dropped",
        lambda: _converted(_on_white),
        seam="processor.images.{}.decoded",
        needs=frozenset({"alpha"}),
        real=True,
        source="mistral.rs dbf6dc023 (#936)",
    ),
    processor(
        "grey16-scaled",
        "16-bit grey is scaled to 8 bits instead of clipped",
        lambda: _converted(_scaled_down),
        seam="processor.images.{}.decoded",
        needs=frozenset({"grey16"}),
    ),
    patches(
        "picture-bgr",
        "red and blue are swapped in pictures",
        lambda: altered("processor.images.{}.decoded", lambda x, _i: x.flip(-1)),
        seam="processor.images.{}.decoded",
    ),
    timestamp(
        "video-bgr",
        "red and blue are swapped in videos",
        lambda: altered("processor.videos.{}.decoded", lambda x, _i: x.flip(-1)),
        seam="processor.videos.{}.decoded",
    ),
    timestamp(
        "video-frames-one-early",
        "the frame before each sampled one is decoded",
        lambda: altered("processor.videos.{}.decoded", lambda x, _i: x.roll(1, 0)),
        seam="processor.videos.{}.decoded",
    ),
    # Sampling.
    sampling(
        "frames-truncated",
        "the indices of sampled frames are truncated instead of rounded",
        lambda: _sampled(lambda total, fps, config: np.linspace(0, total - 1, _count(total, fps, config))),
    ),
    sampling(
        "frames-every-nth",
        "every n-th frame is sampled, and the last one never is",
        lambda: _sampled(
            lambda total, fps, config: np.arange(_count(total, fps, config)) * (total // _count(total, fps, config))
        ),
    ),
    sampling(
        "frames-all-kept",
        "videos are not sampled: every frame is kept",
        lambda: _sampled(lambda total, fps, config: range(total)),
    ),
    sampling(
        "frames-at-one-fps",
        "one frame per second is sampled instead of the config's two",
        lambda: _configs(fps=1.0),
    ),
    sampling(
        "frames-min-ignored",
        "short videos may have fewer frames than min_frames",
        lambda: _configs(min_frames=2),
        needs=frozenset({"few frames"}),
    ),
    # Timestamps.
    timestamp(
        "timestamp-half-a-frame",
        "a timestamp is the time of a pair's first frame instead of its middle",
        lambda: _stamped(_first_of_each),
    ),
    sampling(
        "timestamps-lost-frame-indices",
        "timestamps count the kept frames instead of the frames of the file",
        lambda: _stamped(_in_kept_frames),
        seam="processor.videos.{}.timestamps",
        real=True,
        source="LLaMA-Factory #10335; QwenLM #2117; vLLM #35909",
    ),
    timestamp(
        "timestamps-use-merge-size",
        "timestamps are averaged over merge_size frames instead of temporal_patch_size",
        lambda: _stamped(lambda original, indices, fps, patch: original(indices, fps, 3)),
        needs=frozenset({"frames in threes"}),
        real=True,
        source="transformers #43519, #43659; vLLM #37439",
    ),
    # Size and resize.
    resize(
        "resize-wh-swapped",
        "width and height are swapped when a picture is resized",
        lambda: result_changed(port.pixels, "smart_resize", lambda size: size[::-1]),
        seam="processor.images.{}.resized",
        needs=frozenset({"oblong"}),
        real=True,
        source="mistral.rs a246cab0c (#1950, #1881)",
    ),
    resize(
        "size-edges-ignored",
        "the size limits of another model are used instead of the config's",
        lambda: _configs(min_pixels=256 * 256, max_pixels=1536 * 1536),
        needs=frozenset({"outside other limits"}),
        real=True,
        source="mistral.rs a246cab0c",
    ),
    resize(
        "double-resize-factor-28",
        "sizes are rounded to multiples of 28 first, then to multiples of the factor",
        lambda: _resized_to(_twice),
        seam="processor.images.{}.resized",
        real=True,
        source="SGLang #12390; lmms-engine #132; slime #1227; QwenLM/Qwen3-VL #1655",
    ),
    processor(
        "smart-resize-missing-max-factor",
        "a side may shrink to zero",
        lambda: _resized_to(_may_vanish),
        seam="processor.images.{}.resized",
        needs=frozenset({"narrow"}),
        real=True,
        source="transformers #38423, #38150; mistral.rs; ollama",
    ),
    processor(
        "resize-halves-up",
        "halves are rounded up instead of to even",
        lambda: _sides_rounded(lambda side, factor: int(side / factor + 0.5) * factor),
        seam="processor.images.{}.resized",
        needs=frozenset({"halves"}),
    ),
    processor(
        "resize-floored",
        "sizes are rounded down to multiples of the factor",
        lambda: _sides_rounded(lambda side, factor: max(factor, side // factor * factor)),
        seam="processor.images.{}.resized",
        needs=frozenset({"rounded up"}),
    ),
    processor(
        "video-resize-image-budget",
        "each frame may use the pixel budget of the whole video",
        lambda: around(port.pixels, "video_size", _picture_budget),
        seam="processor.videos.{}.resized",
        needs=frozenset({"long video"}),
        real=True,
        source="mistral.rs ae2b71cd3 (#2368)",
    ),
    processor(
        "video-pixels-capped",
        "the pixels of a frame are capped as in qwen-vl-utils, where the reference has no cap",
        lambda: _configs(cap_pixels_per_frame=True, max_video_tokens=4),
        seam="processor.videos.{}.resized",
        needs=frozenset({"long video"}),
    ),
    resize(
        "bilinear-instead-of-bicubic",
        "bilinear resize instead of bicubic",
        lambda: _resize_with(_bilinear),
        real=True,
        source="ollama d573921a; llama.cpp #27594, #16878; MNN #4595",
    ),
    resize("resize-lanczos", "Lanczos resize instead of bicubic", lambda: _resize_with(_lanczos)),
    resize("resize-nearest", "nearest-neighbour resize instead of bicubic", lambda: _resize_with(_nearest)),
    resize(
        "antialias-off",
        "bicubic resize without antialiasing",
        lambda: _resize_with(_without_antialias),
        needs=frozenset({"shrunk"}),
    ),
    resize(
        "resize-truncated",
        "resized pixels are truncated instead of rounded, so they are off by one at most",
        lambda: _resize_with(_truncated),
    ),
    # Patches.
    patches("patches-raster-order", "patches are cut row by row instead of in merge order", lambda: _cut(_raster)),
    patches("patches-columns-first", "patches are cut column by column", lambda: _cut(_columns_first)),
    patches("patches-transposed", "rows and columns are swapped within each patch", lambda: _cut(_transposed_patches)),
    patches("patches-channels-last", "channels come last within each patch", lambda: _cut(_channels_last)),
    timestamp(
        "video-patches-time-first",
        "time comes before channels within each patch of a video",
        lambda: _cut(_time_first),
        seam="processor.videos.{}.patches",
    ),
    processor(
        "patches-second-frame-empty",
        "the second frame of a picture's temporal patch stays 0",
        lambda: altered("processor.images.{}.patches", _first_frame_only),
        seam="processor.images.{}.patches",
        needs=frozenset({"image", "two frames a patch"}),
    ),
    patches(
        "clip-mean-and-std",
        "pixels are normalised with the mean and std of CLIP, as in Qwen2-VL",
        lambda: _configs(image_mean=CLIP_MEAN, image_std=CLIP_STD),
    ),
    patches(
        "pixels-not-rescaled",
        "mean and std are applied to values of 0 to 255",
        lambda: _configs(rescale_factor=1.0),
    ),
    patches(
        "pixels-without-mean",
        "the mean is not subtracted",
        lambda: result_changed(port.pixels, "normalise", lambda pixels: pixels + 1),
    ),
    patches(
        "pixels-divided-by-256",
        "pixels are divided by 256 instead of 255",
        lambda: _configs(rescale_factor=1 / 256),
    ),
    video_patches(
        "video-temporal-pad-count",
        "a video is padded by the remainder instead of up to a whole temporal patch",
        lambda: _padded(_pad_by_remainder),
        needs=frozenset({"three frames missing"}),
        real=True,
        source="transformers #42083; vLLM #13148",
    ),
    video_patches(
        "video-padded-with-black",
        "the last temporal patch is padded with black frames",
        lambda: _padded(_pad_with_black),
    ),
    video_patches(
        "video-rest-dropped",
        "frames that do not fill a temporal patch are dropped",
        lambda: _padded(_drop_the_rest),
    ),
    # Grids.
    patches(
        "picture-grid-swapped",
        "height and width are swapped in the processor's picture grids",
        lambda: altered("processor.image_grid_thw", lambda x: x[:, [0, 2, 1]]),
        seam="processor.image_grid_thw",
    ),
    timestamp(
        "video-grid-counts-frames",
        "video grids count frames instead of temporal patches",
        lambda: altered("processor.video_grid_thw", lambda x: x * torch.tensor([2, 1, 1])),
        seam="processor.video_grid_thw",
    ),
    # Prompt.
    prompt(
        "one-placeholder-too-few",
        "a picture has one placeholder fewer than it has features",
        lambda: _counted(lambda counts: [max(1, count - 1) for count in counts]),
    ),
    prompt(
        "placeholders-unmerged",
        "a picture has one placeholder per patch instead of one per merged patch",
        lambda: _counted(lambda counts: [count * 4 for count in counts]),
    ),
    prompt(
        "placeholders-of-other-picture",
        "the pictures of a prompt get each other's number of placeholders",
        lambda: _counted(lambda counts: counts[::-1]),
        needs=frozenset({"pictures"}),
    ),
    timestamp(
        "outer-vision-wrapper-dropped",
        "a video's frame pairs replace the template's vision tokens instead of standing between them",
        lambda: _prompted(_in_place),
        seam="processor.input_ids",
        real=True,
        source="vLLM #46817",
    ),
    timestamp(
        "video-timestamps-missing",
        "the prompt has no timestamps",
        lambda: _text_changed(_without_timestamps),
        seam="processor.input_ids",
        real=True,
        source="mlx-vlm #2142; mistral.rs ae2b71cd3",
    ),
    prompt("pictures-hoisted", "pictures are moved before the text of their turn", lambda: _text_changed(_hoisted)),
    prompt(
        "processor-pads-other-side",
        "prompts are padded on the other side",
        lambda: around(Tokenizer, "pad", _other_side),
        needs=BATCH,
    ),
    processor(
        "processor-padding-not-masked",
        "the attention mask is 1 at padding",
        lambda: around(Tokenizer, "pad", _no_mask),
        seam="processor.attention_mask",
        needs=BATCH,
    ),
]
