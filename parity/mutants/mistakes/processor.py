"""Mistakes between the files and the model: decoding, sampling, resizing, cutting into patches, and the prompt.

Shape legend
    F, h, w    frames, height, width in pixels after the resize
    N, C       patches, channels
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import port.picture
import port.pixels
import port.processor
import port.prompt
import port.resize
import port.video
from parity.mutants.base import Mutant, altered, around, replaced
from parity.mutants.mistakes.inputs import CLIP_MEAN, CLIP_STD
from parity.seams.processor import STEP
from port.pixel_config import PictureConfig, VideoConfig
from port.tokenizer import IMAGE_PAD, Tokenizer

_RESIZED = "processor.images.{}.resized|processor.videos.{}.resized"
_PATCHES = "processor.images.{}.patches|processor.videos.{}.patches"

_front = partial(Mutant, component="processor", step=STEP, stage="processor")


def _resize_with(kernel: Callable[[Tensor, tuple[int, int]], Tensor]) -> AbstractContextManager[None]:
    """Frames (F, H, W, 3) resized by ``kernel``, which takes and gives (F, 3, H, W) uint8."""

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


def _sizes(change: Callable[..., tuple[int, int]]) -> AbstractContextManager[None]:
    """``change(original, height, width, factor=, min_pixels=, max_pixels=)`` in place of the pictures' resize rule."""
    return around(port.pixels, "smart_resize", change)


def _swapped_size(original: Any, height: int, width: int, **limits: int) -> tuple[int, int]:
    return original(height, width, **limits)[::-1]


def _twice(original: Any, height: int, width: int, *, factor: int, **limits: int) -> tuple[int, int]:
    return original(*original(height, width, factor=28, **limits), factor=factor, **limits)


def _may_vanish(original: Any, height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> Any:
    h, w = original(height, width, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)
    beta = (height * width / max_pixels) ** 0.5
    if round(height / factor) * round(width / factor) * factor**2 <= max_pixels:
        return h, w
    return int(height / beta / factor) * factor, int(width / beta / factor) * factor


def _half_up(original: Any, height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> Any:
    h, w = (int(side / factor + 0.5) * factor for side in (height, width))
    within = min_pixels <= h * w <= max_pixels
    return (h, w) if within else original(height, width, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)


def _floored(original: Any, height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> Any:
    h, w = (max(factor, side // factor * factor) for side in (height, width))
    within = min_pixels <= h * w <= max_pixels
    return (h, w) if within else original(height, width, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)


@contextmanager
def _configs(**changes: Any) -> Iterator[None]:
    """Picture and video configs read with other values."""

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
    """``change(original, frames, patch=, temporal_patch=, merge=)`` in place of cutting patches."""
    return around(port.pixels, "cut_patches", change)


def _raster(original: Any, frames: Tensor, *, patch: int, temporal_patch: int, merge: int) -> Tensor:
    return original(frames, patch=patch, temporal_patch=temporal_patch, merge=1)


def _columns_first(original: Any, frames: Tensor, *, patch: int, temporal_patch: int, merge: int) -> Tensor:
    flat = original(frames.transpose(1, 2), patch=patch, temporal_patch=temporal_patch, merge=merge)
    return flat.unflatten(1, (-1, patch, patch)).transpose(2, 3).flatten(1)


def _transposed_patches(original: Any, frames: Tensor, *, patch: int, temporal_patch: int, merge: int) -> Tensor:
    flat = original(frames, patch=patch, temporal_patch=temporal_patch, merge=merge)
    return flat.unflatten(1, (-1, patch, patch)).transpose(2, 3).flatten(1)


def _channels_last(original: Any, frames: Tensor, *, patch: int, temporal_patch: int, merge: int) -> Tensor:
    flat = original(frames, patch=patch, temporal_patch=temporal_patch, merge=merge)
    return flat.unflatten(1, (3, -1)).transpose(1, 2).flatten(1)


def _time_first(original: Any, frames: Tensor, *, patch: int, temporal_patch: int, merge: int) -> Tensor:
    flat = original(frames, patch=patch, temporal_patch=temporal_patch, merge=merge)
    return flat.unflatten(1, (3, temporal_patch, -1)).transpose(1, 2).flatten(1)


def _padded(change: Callable[[Tensor, int], Tensor]) -> AbstractContextManager[None]:
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


def _normalised(change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    return around(port.pixels, "normalise", lambda original, patches, config: change(original(patches, config)))


def _sampled(change: Callable[..., Any]) -> AbstractContextManager[None]:
    """``change(total, fps, config)`` gives the kept frames."""

    def call(_original: Any, total: int, fps: float, config: VideoConfig) -> tuple[int, ...]:
        return tuple(int(index) for index in change(total, fps, config))

    return around(port.video, "sample_frames", call)


def _count(total: int, fps: float, config: VideoConfig) -> int:
    return min(max(int(total / fps * (config.fps or 0)), config.min_frames), config.max_frames, total)


def _stamped(change: Callable[..., Any]) -> AbstractContextManager[None]:
    """``change(original, indices, fps, temporal_patch)`` gives the timestamps."""
    return around(port.processor, "timestamps", change)


def _first_of_each(_original: Any, indices: Any, fps: float, patch: int) -> tuple[float, ...]:
    return tuple(index / fps for index in indices[::patch])


def _in_kept_frames(original: Any, indices: Any, fps: float, patch: int) -> tuple[float, ...]:
    return original(range(len(indices)), fps, patch)


def _prompted(change: Callable[..., Any]) -> AbstractContextManager[None]:
    """``change(original, text, tokenizer, **counts)`` gives the ids of a prompt."""
    return around(port.processor, "prompt_ids", change)


def _one_too_few(original: Any, text: str, tokenizer: Any, *, images: Any, **rest: Any) -> Any:
    return original(text, tokenizer, images=[max(1, count - 1) for count in images], **rest)


def _unmerged(original: Any, text: str, tokenizer: Any, *, images: Any, **rest: Any) -> Any:
    return original(text, tokenizer, images=[count * 4 for count in images], **rest)


def _reversed_counts(original: Any, text: str, tokenizer: Any, *, images: Any, **rest: Any) -> Any:
    return original(text, tokenizer, images=list(images)[::-1], **rest)


def _in_place(original: Any, text: str, tokenizer: Any, *, style: Any, **rest: Any) -> Any:
    return original(text, tokenizer, style="in place", **rest)


def _video_text(change: Callable[[str], str]) -> AbstractContextManager[None]:
    """``change`` makes the prompt's text after timestamps and frame pairs have been put in."""
    return around(
        port.prompt, "_with_frames", lambda original, text, videos, style: change(original(text, videos, style))
    )


def _without_timestamps(text: str) -> str:
    return port.prompt.re.sub(r"<[0-9.]+ seconds>", "", text)


def _hoisted(text: str) -> str:
    """Pictures before the text of their turn."""
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
    """``change`` makes RGB of an image whose orientation has been applied."""

    class Ops:
        @staticmethod
        def exif_transpose(image: Any) -> Any:
            turned = original.exif_transpose(image)
            return change(turned)

    original = port.picture.ImageOps
    return replaced(port.picture, "ImageOps", Ops)


class _NoOps:
    @staticmethod
    def exif_transpose(image: Any) -> Any:
        return image


def _scaled_down(image: Any) -> Any:
    """16-bit grey divided by 256 before it is RGB."""
    if not image.mode.startswith("I"):
        return image.convert("RGB")
    return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")


def _real(source: str) -> dict[str, Any]:
    return {"real": True, "source": source}


MUTANTS: tuple[Mutant, ...] = (
    # Decoding.
    _front(
        id="exif-orientation-ignored",
        title="the EXIF orientation of a photo is not applied",
        seam="processor.images.{}.decoded",
        needs=frozenset({"turned"}),
        plant=lambda: replaced(port.picture, "ImageOps", _NoOps),
    ),
    _front(
        id="rgba-not-converted",
        title="alpha is blended onto white instead of dropped",
        seam="processor.images.{}.decoded",
        needs=frozenset({"alpha"}),
        plant=lambda: _converted(_on_white),
        **_real("mistral.rs dbf6dc023 (#936)"),
    ),
    _front(
        id="grey16-scaled",
        title="16-bit grey is scaled to 8 bits instead of cut off",
        seam="processor.images.{}.decoded",
        needs=frozenset({"grey16"}),
        plant=lambda: _converted(_scaled_down),
    ),
    _front(
        id="picture-bgr",
        title="red and blue swapped in pictures",
        seam="processor.images.{}.decoded",
        needs=frozenset({"image"}),
        plant=lambda: altered("processor.images.{}.decoded", lambda x, _i: x.flip(-1)),
    ),
    _front(
        id="video-bgr",
        title="red and blue swapped in videos",
        seam="processor.videos.{}.decoded",
        needs=frozenset({"video"}),
        plant=lambda: altered("processor.videos.{}.decoded", lambda x, _i: x.flip(-1)),
    ),
    _front(
        id="video-frames-one-early",
        title="the frame before each sampled one is decoded",
        seam="processor.videos.{}.decoded",
        needs=frozenset({"video"}),
        plant=lambda: altered("processor.videos.{}.decoded", lambda x, _i: x.roll(1, 0)),
    ),
    # Sampling.
    _front(
        id="frames-truncated",
        title="places of sampled frames are cut off instead of rounded",
        seam="processor.videos.{}.frame_indices",
        needs=frozenset({"sampled"}),
        plant=lambda: _sampled(lambda total, fps, config: np.linspace(0, total - 1, _count(total, fps, config))),
    ),
    _front(
        id="frames-every-nth",
        title="every n-th frame from the first, the last never",
        seam="processor.videos.{}.frame_indices",
        needs=frozenset({"sampled"}),
        plant=lambda: _sampled(
            lambda total, fps, config: np.arange(_count(total, fps, config)) * (total // _count(total, fps, config))
        ),
    ),
    _front(
        id="frames-all-kept",
        title="no sampling: every frame is kept",
        seam="processor.videos.{}.frame_indices",
        needs=frozenset({"sampled"}),
        plant=lambda: _sampled(lambda total, fps, config: range(total)),
    ),
    _front(
        id="frames-at-one-fps",
        title="one frame a second instead of the config's two",
        seam="processor.videos.{}.frame_indices",
        needs=frozenset({"sampled"}),
        plant=lambda: _configs(fps=1.0),
    ),
    _front(
        id="frames-min-ignored",
        title="short videos keep fewer than min_frames",
        seam="processor.videos.{}.frame_indices",
        needs=frozenset({"few frames"}),
        plant=lambda: _configs(min_frames=2),
    ),
    # Timestamps.
    _front(
        id="timestamp-half-a-frame",
        title="the time of a pair's first frame instead of its middle",
        seam="processor.videos.{}.timestamps",
        needs=frozenset({"video"}),
        plant=lambda: _stamped(_first_of_each),
    ),
    _front(
        id="timestamps-lost-frame-indices",
        title="timestamps count kept frames instead of those of the source",
        seam="processor.videos.{}.timestamps",
        needs=frozenset({"sampled"}),
        plant=lambda: _stamped(_in_kept_frames),
        **_real("LLaMA-Factory #10335; QwenLM #2117; vLLM #35909"),
    ),
    _front(
        id="timestamps-use-merge-size",
        title="timestamps are averaged over merge_size frames instead of temporal_patch_size",
        seam="processor.videos.{}.timestamps",
        needs=frozenset({"merge is not temporal patch"}),
        plant=lambda: _stamped(lambda original, indices, fps, patch: original(indices, fps, 3)),
        **_real("transformers #43519, #43659; vLLM #37439"),
    ),
    # Size and resize.
    _front(
        id="resize-wh-swapped",
        title="width and height swapped in the resize",
        seam="processor.images.{}.resized",
        needs=frozenset({"resized"}),
        plant=lambda: _sizes(_swapped_size),
        **_real("mistral.rs a246cab0c (#1950, #1881)"),
    ),
    _front(
        id="size-edges-ignored",
        title="limits of another model instead of the config's",
        seam=_RESIZED,
        needs=frozenset({"resized"}),
        plant=lambda: _configs(min_pixels=256 * 256, max_pixels=1536 * 1536),
        **_real("mistral.rs a246cab0c"),
    ),
    _front(
        id="double-resize-factor-28",
        title="sizes rounded to 28 first and then to the factor",
        seam="processor.images.{}.resized",
        needs=frozenset({"resized"}),
        plant=lambda: _sizes(_twice),
        **_real("SGLang #12390; lmms-engine #132; slime #1227; QwenLM/Qwen3-VL #1655"),
    ),
    _front(
        id="smart-resize-missing-max-factor",
        title="a side may shrink to nothing",
        seam="processor.images.{}.resized",
        needs=frozenset({"narrow"}),
        plant=lambda: _sizes(_may_vanish),
        **_real("transformers #38423, #38150; mistral.rs; ollama"),
    ),
    _front(
        id="resize-halves-up",
        title="halves round up instead of to even",
        seam="processor.images.{}.resized",
        needs=frozenset({"halves"}),
        plant=lambda: _sizes(_half_up),
    ),
    _front(
        id="resize-floored",
        title="sizes are cut off to the factor instead of rounded",
        seam="processor.images.{}.resized",
        needs=frozenset({"rounded up"}),
        plant=lambda: _sizes(_floored),
    ),
    _front(
        id="video-resize-image-budget",
        title="every frame may have the whole video's pixels",
        seam="processor.videos.{}.resized",
        needs=frozenset({"long video"}),
        plant=lambda: around(port.pixels, "video_size", _picture_budget),
        **_real("mistral.rs ae2b71cd3 (#2368)"),
    ),
    _front(
        id="video-pixels-capped",
        title="the per-frame cap of qwen-vl-utils where the reference has none",
        seam="processor.videos.{}.resized",
        needs=frozenset({"long video"}),
        plant=lambda: _configs(cap_pixels_per_frame=True, max_video_tokens=4),
    ),
    _front(
        id="bilinear-instead-of-bicubic",
        title="bilinear resize",
        seam=_RESIZED,
        needs=frozenset({"resized"}),
        plant=lambda: _resize_with(_bilinear),
        **_real("ollama d573921a; llama.cpp #27594, #16878; MNN #4595"),
    ),
    _front(
        id="resize-lanczos",
        title="Lanczos resize",
        seam=_RESIZED,
        needs=frozenset({"resized"}),
        plant=lambda: _resize_with(_lanczos),
    ),
    _front(
        id="resize-nearest",
        title="nearest-neighbour resize",
        seam=_RESIZED,
        needs=frozenset({"resized"}),
        plant=lambda: _resize_with(_nearest),
    ),
    _front(
        id="antialias-off",
        title="bicubic resize without antialiasing",
        seam=_RESIZED,
        needs=frozenset({"shrunk"}),
        plant=lambda: _resize_with(_without_antialias),
    ),
    _front(
        id="resize-truncated",
        title="resized pixels are cut off instead of rounded, never more than a step",
        seam=_RESIZED,
        needs=frozenset({"resized"}),
        plant=lambda: _resize_with(_truncated),
    ),
    # Patches.
    _front(
        id="patches-raster-order",
        title="patches row by row instead of in merge order",
        seam=_PATCHES,
        needs=frozenset({"image"}),
        plant=lambda: _cut(_raster),
    ),
    _front(
        id="patches-columns-first",
        title="patches column by column",
        seam=_PATCHES,
        needs=frozenset({"image"}),
        plant=lambda: _cut(_columns_first),
    ),
    _front(
        id="patches-transposed",
        title="rows and columns swapped within each patch",
        seam=_PATCHES,
        needs=frozenset({"image"}),
        plant=lambda: _cut(_transposed_patches),
    ),
    _front(
        id="patches-channels-last",
        title="channels last within each patch",
        seam=_PATCHES,
        needs=frozenset({"image"}),
        plant=lambda: _cut(_channels_last),
    ),
    _front(
        id="video-patches-time-first",
        title="time before channels within each patch of a video",
        seam="processor.videos.{}.patches",
        needs=frozenset({"video"}),
        plant=lambda: _cut(_time_first),
    ),
    _front(
        id="patches-second-frame-empty",
        title="the second frame of a picture's temporal patch is left at 0",
        seam="processor.images.{}.patches",
        needs=frozenset({"image", "two frames a patch"}),
        plant=lambda: altered("processor.images.{}.patches", _first_frame_only),
    ),
    _front(
        id="clip-mean-and-std",
        title="mean and std of CLIP, which Qwen2-VL had",
        seam=_PATCHES,
        needs=frozenset({"image"}),
        plant=lambda: _configs(image_mean=CLIP_MEAN, image_std=CLIP_STD),
    ),
    _front(
        id="pixels-not-rescaled",
        title="mean and std applied to 0..255",
        seam=_PATCHES,
        needs=frozenset({"image"}),
        plant=lambda: _configs(rescale_factor=1.0),
    ),
    _front(
        id="pixels-without-mean",
        title="the mean is not subtracted",
        seam=_PATCHES,
        needs=frozenset({"image"}),
        plant=lambda: _normalised(lambda pixels: pixels + 1),
    ),
    _front(
        id="pixels-divided-by-256",
        title="pixels divided by 256 instead of 255",
        seam=_PATCHES,
        needs=frozenset({"image"}),
        plant=lambda: _configs(rescale_factor=1 / 256),
    ),
    _front(
        id="video-temporal-pad-count",
        title="as many frames are added as there are too many",
        seam="processor.videos.{}.patches",
        needs=frozenset({"three frames missing"}),
        plant=lambda: _padded(_pad_by_remainder),
        **_real("transformers #42083; vLLM #13148"),
    ),
    _front(
        id="video-padded-with-black",
        title="black frames fill the last temporal patch",
        seam="processor.videos.{}.patches",
        needs=frozenset({"odd frames"}),
        plant=lambda: _padded(_pad_with_black),
    ),
    _front(
        id="video-rest-dropped",
        title="frames that fill no temporal patch are dropped",
        seam="processor.videos.{}.patches",
        needs=frozenset({"odd frames"}),
        plant=lambda: _padded(_drop_the_rest),
    ),
    # Grids.
    _front(
        id="picture-grid-swapped",
        title="height and width swapped in the pictures' grids",
        seam="processor.image_grid_thw",
        needs=frozenset({"image"}),
        plant=lambda: altered("processor.image_grid_thw", lambda x: x[:, [0, 2, 1]]),
    ),
    _front(
        id="video-grid-counts-frames",
        title="frames instead of temporal patches in the videos' grids",
        seam="processor.video_grid_thw",
        needs=frozenset({"video"}),
        plant=lambda: altered("processor.video_grid_thw", lambda x: x * torch.tensor([2, 1, 1])),
    ),
    # Prompt.
    _front(
        id="one-placeholder-too-few",
        title="a picture has one placeholder less than features",
        seam="processor.input_ids",
        needs=frozenset({"image"}),
        plant=lambda: _prompted(_one_too_few),
    ),
    _front(
        id="placeholders-unmerged",
        title="one placeholder for every patch instead of every merged patch",
        seam="processor.input_ids",
        needs=frozenset({"image"}),
        plant=lambda: _prompted(_unmerged),
    ),
    _front(
        id="placeholders-of-other-picture",
        title="pictures of a prompt have each other's number of placeholders",
        seam="processor.input_ids",
        needs=frozenset({"pictures"}),
        plant=lambda: _prompted(_reversed_counts),
    ),
    _front(
        id="outer-vision-wrapper-dropped",
        title="frame pairs in the place of the template's pair of vision tokens",
        seam="processor.input_ids",
        needs=frozenset({"video"}),
        plant=lambda: _prompted(_in_place),
        **_real("vLLM #46817"),
    ),
    _front(
        id="video-timestamps-missing",
        title="no timestamps in the prompt",
        seam="processor.input_ids",
        needs=frozenset({"video"}),
        plant=lambda: _video_text(_without_timestamps),
        **_real("mlx-vlm #2142; mistral.rs ae2b71cd3"),
    ),
    _front(
        id="pictures-hoisted",
        title="pictures are put before the text of their turn",
        seam="processor.input_ids",
        needs=frozenset({"image"}),
        plant=lambda: _video_text(_hoisted),
    ),
    _front(
        id="processor-pads-other-side",
        title="padding on the other side",
        seam="processor.input_ids",
        needs=frozenset({"batch"}),
        plant=lambda: around(Tokenizer, "pad", _other_side),
    ),
    _front(
        id="processor-padding-not-masked",
        title="the attention mask is 1 at padding",
        seam="processor.attention_mask",
        needs=frozenset({"batch"}),
        plant=lambda: around(Tokenizer, "pad", _no_mask),
    ),
)
