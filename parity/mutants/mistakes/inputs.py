"""Mistakes in what enters the model: ids, mask, pixels, grids and placeholder masks.

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

from parity.mutants.base import Mutant, altered, around
from port.cache import KVCache
from port.errors import InputError
from port.grid import merge_order
from port.model import Inputs, Qwen3VL

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@contextmanager
def pixels_changed(kind: str, change: Callable[[Tensor, Tensor, Any], Tensor]) -> Iterator[None]:
    """``change(pixels, grids, vision config)`` makes the pixels at their tap."""
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
    """Patches of every frame taken in ``order(h, w, merge)``, indices into the frame's own merge order."""

    def change(pixels: Tensor, grids: Tensor, config: Any) -> Tensor:
        parts, start = [], 0
        for t, h, w in grids.tolist():
            for _ in range(t):
                parts.append(pixels[start : start + h * w][order(h, w, config.spatial_merge_size)])
                start += h * w
        return torch.cat(parts)

    return change


def _place(h: int, w: int, merge: int) -> Tensor:
    """(h * w,) where in merge order the patch of each raster place lies."""
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


def _bgr(pixels: Tensor, _grids: Tensor, config: Any) -> Tensor:
    return _as_patches(pixels, config).flip(1).reshape(pixels.shape)


def _frames_reversed(pixels: Tensor, _grids: Tensor, config: Any) -> Tensor:
    return _as_patches(pixels, config).flip(2).reshape(pixels.shape)


def _last_token_changed(ids: Tensor) -> Tensor:
    ids = ids.clone()
    ids[:, -1] = ids[:, -1] - 1
    return ids


def _one_decode_token_late() -> AbstractContextManager[None]:
    """Each decode step is fed the token of the step before."""
    fed: WeakKeyDictionary[KVCache, list[Tensor]] = WeakKeyDictionary()

    def decode(original: Any, self: Any, token_ids: Tensor, cache: KVCache) -> Tensor:
        tokens = fed.setdefault(cache, [token_ids])
        tokens.append(token_ids)
        return original(self, tokens[-2], cache)

    return around(Qwen3VL, "decode", decode)


def _second_picture_missing(mask: Tensor) -> Tensor:
    """The placeholder run of a row's last picture is taken for text."""
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


IMAGE, VIDEO = frozenset({"image"}), frozenset({"video"})

MUTANTS = [
    Mutant(
        id="batch-size-one-only",
        title="refuses a batch of more than one row",
        component="batch",
        seam="input_ids",
        step="prefill",
        plant=lambda: around(Qwen3VL, "prefill", _one_row_only),
        needs=frozenset({"batch"}),
        real=True,
        source="mistral.rs, bde5f3e67 (#1673)",
    ),
    Mutant(
        id="last-prompt-token-changed",
        title="the last prompt token is its neighbour in the vocabulary",
        component="inputs",
        seam="input_ids",
        step="prefill",
        plant=lambda: altered("input_ids", lambda ids: _last_token_changed(ids) if ids.shape[1] > 1 else ids),
        needs=frozenset({"forward"}),
    ),
    Mutant(
        id="decode-fed-one-token-late",
        title="each decode step is fed the token of the step before",
        component="inputs",
        seam="input_ids",
        step="decode *",
        plant=_one_decode_token_late,
        needs=frozenset({"forward"}),
    ),
    Mutant(
        id="attention-mask-all-ones",
        title="padding is taken for tokens",
        component="batch",
        seam="attention_mask",
        step="prefill",
        plant=lambda: altered("attention_mask", torch.ones_like),
        needs=frozenset({"batch"}),
    ),
    Mutant(
        id="attention-mask-on-the-other-side",
        title="a mask for padding on the other side",
        component="batch",
        seam="attention_mask",
        step="prefill",
        plant=lambda: altered("attention_mask", lambda mask: mask.flip(1)),
        needs=frozenset({"batch"}),
    ),
    Mutant(
        id="patch-order-raster-not-merge-block",
        title="patches in raster order, not in merge blocks",
        component="preprocess",
        seam="image_pixels",
        step="prefill",
        plant=lambda: pixels_changed("image", reordered(_place)),
        needs=IMAGE,
        real=True,
        source="hipfire, warpfront/hipfire #324/#325 (b47ba99a)",
    ),
    Mutant(
        id="clip-mean-std",
        title="pixels normalised with CLIP's mean and deviation",
        component="preprocess",
        seam="image_pixels",
        step="prefill",
        plant=lambda: pixels_changed("image", _clip_mean_std),
        needs=IMAGE,
        real=True,
        source="apple/coreai-models #82/#105; mistral.rs HEAD DEFAULT_MEAN/STD",
    ),
    Mutant(
        id="channels-bgr",
        title="colour channels in the order blue, green, red",
        component="preprocess",
        seam="image_pixels",
        step="prefill",
        plant=lambda: pixels_changed("image", _bgr),
        needs=IMAGE,
    ),
    Mutant(
        id="video-patch-double-merge-stride",
        title="the row index of video patches steps by the merge size twice",
        component="video",
        seam="video_pixels",
        step="prefill",
        plant=lambda: pixels_changed("video", reordered(_double_stride)),
        needs=VIDEO,
        real=True,
        source="ollama, imageprocessor.go 043e9900",
    ),
    Mutant(
        id="video-frames-reversed",
        title="the frames inside each temporal patch are reversed",
        component="video",
        seam="video_pixels",
        step="prefill",
        plant=lambda: pixels_changed("video", _frames_reversed),
        needs=VIDEO,
    ),
    Mutant(
        id="image-grid-hw-swapped",
        title="height and width of picture grids swapped",
        component="inputs",
        seam="image_grid_thw",
        step="prefill",
        plant=lambda: altered("image_grid_thw", _swapped_hw),
        needs=IMAGE,
    ),
    Mutant(
        id="video-grid-hw-swapped",
        title="height and width of video grids swapped",
        component="inputs",
        seam="video_grid_thw",
        step="prefill",
        plant=lambda: altered("video_grid_thw", _swapped_hw),
        needs=VIDEO,
    ),
    Mutant(
        id="image-mask-last-token-lost",
        title="the last picture token is taken for text",
        component="inputs",
        seam="image_mask",
        step="prefill",
        plant=lambda: altered("image_mask", _second_picture_missing),
        needs=IMAGE,
    ),
    Mutant(
        id="image-mask-one-late",
        title="picture features begin one token late",
        component="inputs",
        seam="image_mask",
        step="prefill",
        plant=lambda: altered("image_mask", _mask_one_late),
        needs=IMAGE,
    ),
    Mutant(
        id="video-mask-one-late",
        title="video features begin one token late",
        component="inputs",
        seam="video_mask",
        step="prefill",
        plant=lambda: altered("video_mask", _mask_one_late),
        needs=VIDEO,
    ),
]
