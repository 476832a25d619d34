"""Mistakes in the inputs of the model: ids, mask, pixels, grids and placeholder masks.

Shape legend
    B, S   batch, prompt tokens
    N      patches, in merge order
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from parity.mutants.base import BATCH, FORWARD, IMAGE, VIDEO, altered, around, family
from port.cache import KVCache
from port.errors import InputError
from port.grid import merge_order
from port.model import Inputs, Qwen3VL

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@contextmanager
def pixels_changed(kind: str, change: Callable[[Tensor, Tensor, Any], Tensor]) -> Iterator[None]:
    """The model gets ``change(pixels, grids, vision config)`` as the pixels of its pictures or videos."""
    seen: dict[str, Any] = {}

    def remember(original: Any, self: Any, inputs: Inputs) -> Any:
        grids = inputs.image_grid_thw if kind == "image" else inputs.video_grid_thw
        seen.update(grids=grids, config=self.config.vision)
        return original(self, inputs)

    with ExitStack() as stack:
        stack.enter_context(around(Qwen3VL, "embed", remember))
        stack.enter_context(altered(f"{kind}_pixels", lambda x: change(x, seen["grids"], seen["config"])))
        yield


def reordered(order: Callable[[int, int, int], Tensor]) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """The patches of each frame in ``order(h, w, merge)``, given as indices into the frame's merge order."""

    def change(pixels: Tensor, grids: Tensor, config: Any) -> Tensor:
        parts, start = [], 0
        for t, h, w in grids.tolist():
            for _ in range(t):
                parts.append(pixels[start : start + h * w][order(h, w, config.spatial_merge_size)])
                start += h * w
        return torch.cat(parts)

    return change


def _place(h: int, w: int, merge: int) -> Tensor:
    """(h * w,): the index in merge order of each patch in raster order."""
    rows, cols = merge_order(h, w, merge)
    return (rows * w + cols).argsort()


def _double_stride(h: int, w: int, merge: int) -> Tensor:
    rows, cols = merge_order(h, w, merge)
    wrong = (rows // merge * merge * merge + rows % merge).clamp(max=h - 1)
    return _place(h, w, merge)[wrong * w + cols]


def _as_patches(x: Tensor, config: Any) -> Tensor:
    """(N, channels, T, P, P)"""
    return x.view(len(x), config.in_channels, config.temporal_patch_size, config.patch_size, config.patch_size)


def _clip_mean_std(pixels: Tensor, _grids: Tensor, config: Any) -> Tensor:
    mean, std = (torch.tensor(values, dtype=pixels.dtype).view(1, 3, 1, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return ((_as_patches(pixels, config) * 0.5 + 0.5 - mean) / std).reshape(pixels.shape)


def _flipped(dim: int) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """Each patch (channels, T, P, P) reversed along a dimension; 1 is that of the channels."""
    return lambda pixels, _grids, config: _as_patches(pixels, config).flip(dim).reshape(pixels.shape)


def _last_token_changed(ids: Tensor) -> Tensor:
    ids = ids.clone()
    ids[:, -1] -= 1
    return ids


def _one_decode_token_late() -> AbstractContextManager[None]:
    """Each decode step gets the token of the step before."""
    fed: WeakKeyDictionary[KVCache, list[Tensor]] = WeakKeyDictionary()

    def decode(original: Any, self: Any, token_ids: Tensor, cache: KVCache) -> Tensor:
        tokens = fed.setdefault(cache, [token_ids])
        tokens.append(token_ids)
        return original(self, tokens[-2], cache)

    return around(Qwen3VL, "decode", decode)


def _last_picture_token_lost(mask: Tensor) -> Tensor:
    """The last picture token of the last row with pictures is treated as text."""
    mask = mask.clone()
    row = int(mask.any(dim=1).nonzero().max())
    last = int(mask[row].nonzero().max())
    mask[row, last] = False
    return mask


def _mask_one_late(mask: Tensor) -> Tensor:
    return mask.roll(1, dims=1)


def _one_row_only(original: Any, self: Any, inputs: Inputs, cache: Any, **options: Any) -> Tensor:
    if len(inputs.input_ids) != 1:
        raise InputError(f"batch size {len(inputs.input_ids)} is not supported")
    return original(self, inputs, cache, **options)


def _swapped_hw(grids: Tensor) -> Tensor:
    return grids[:, [0, 2, 1]]


tokens = family(component="inputs", seam="input_ids", step="prefill", needs=FORWARD)
padding = family(component="batch", seam="attention_mask", step="prefill", needs=BATCH)
pixels = family(component="preprocess", seam="image_pixels", step="prefill", needs=IMAGE)
video_pixels = family(component="video", seam="video_pixels", step="prefill", needs=VIDEO)
pictures = family(component="inputs", step="prefill", needs=IMAGE)
videos = family(component="inputs", step="prefill", needs=VIDEO)

MUTANTS = [
    padding(
        "batch-size-one-only",
        "a batch of more than one row is refused",
        lambda: around(Qwen3VL, "prefill", _one_row_only),
        seam="input_ids",
        real=True,
        source="mistral.rs, bde5f3e67 (#1673)",
    ),
    tokens(
        "last-prompt-token-changed",
        "the last prompt token is replaced by its neighbour in the vocabulary",
        lambda: altered("input_ids", lambda ids: _last_token_changed(ids) if ids.shape[1] > 1 else ids),
    ),
    tokens(
        "decode-fed-one-token-late",
        "each decode step gets the token of the step before",
        _one_decode_token_late,
        step="decode *",
    ),
    padding(
        "attention-mask-all-ones",
        "padding is treated as tokens",
        lambda: altered("attention_mask", torch.ones_like),
    ),
    padding(
        "attention-mask-on-the-other-side",
        "the attention mask is for padding on the other side",
        lambda: altered("attention_mask", lambda mask: mask.flip(1)),
    ),
    pixels(
        "patch-order-raster-not-merge-block",
        "patches are in raster order instead of merge order",
        lambda: pixels_changed("image", reordered(_place)),
        real=True,
        source="hipfire, warpfront/hipfire #324/#325 (b47ba99a)",
    ),
    pixels(
        "clip-mean-std",
        "pixels are normalised with the mean and std of CLIP",
        lambda: pixels_changed("image", _clip_mean_std),
        real=True,
        source="apple/coreai-models #82/#105; mistral.rs HEAD DEFAULT_MEAN/STD",
    ),
    pixels(
        "channels-bgr",
        "colour channels are in the order blue, green, red",
        lambda: pixels_changed("image", _flipped(1)),
    ),
    video_pixels(
        "video-patch-double-merge-stride",
        "the row index of video patches is multiplied by the merge size twice",
        lambda: pixels_changed("video", reordered(_double_stride)),
        real=True,
        source="ollama, imageprocessor.go 043e9900",
    ),
    video_pixels(
        "video-frames-reversed",
        "the frames within each temporal patch are reversed",
        lambda: pixels_changed("video", _flipped(2)),
    ),
    pictures(
        "image-grid-hw-swapped",
        "height and width are swapped in the model's picture grids",
        lambda: altered("image_grid_thw", _swapped_hw),
        seam="image_grid_thw",
    ),
    videos(
        "video-grid-hw-swapped",
        "height and width are swapped in the model's video grids",
        lambda: altered("video_grid_thw", _swapped_hw),
        seam="video_grid_thw",
    ),
    pictures(
        "image-mask-last-token-lost",
        "the last picture token is treated as text",
        lambda: altered("image_mask", _last_picture_token_lost),
        seam="image_mask",
    ),
    pictures(
        "image-mask-one-late",
        "picture features start one token late",
        lambda: altered("image_mask", _mask_one_late),
        seam="image_mask",
    ),
    videos(
        "video-mask-one-late",
        "video features start one token late",
        lambda: altered("video_mask", _mask_one_late),
        seam="video_mask",
    ),
]
