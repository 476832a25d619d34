"""Mistakes before the first vision block: patch embedding, position table, 2-D rotary, segment boundaries.

Shape legend
    N, C   patches, hidden_size of the tower
    D      head width of the tower
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import port.grid
import port.vision
from parity.mutants.arithmetic import copied, rounded
from parity.mutants.base import BFLOAT16, FLOAT32, PICTURE, altered, around, family, replaced, result_changed
from port.layers import Conv3dNoBias
from port.vision import PatchEmbed, VisionModel

Change = Callable[[Tensor], Tensor]


def _first_frame_only(_original: Any, self: PatchEmbed, pixel_values: Tensor) -> Tensor:
    x = pixel_values.view(-1, self.proj.in_channels, *self.kernel)  # (N, channels, T, P, P)
    return F.conv2d(x[:, :, 0], self.proj.weight()[:, :, 0]).flatten(1) + self.bias


def _without_bias(original: Any, self: PatchEmbed, pixel_values: Tensor) -> Tensor:
    return original(self, pixel_values) - self.bias


def _bias_per_frame(original: Any, self: PatchEmbed, pixel_values: Tensor) -> Tensor:
    """As if each frame had a convolution with a bias of its own and their outputs were added."""
    return original(self, pixel_values) + (self.kernel[0] - 1) * self.bias


def _in_float16(original: Any, self: Conv3dNoBias, x: Tensor) -> Tensor:
    (weight,) = self.parameters()
    stored = weight.data
    weight.data = rounded(stored, torch.float16)
    try:
        out: Tensor = original(self, rounded(x, torch.float16))
        return out
    finally:
        weight.data = stored


def _half_pixel_axis(index: Tensor, size: int, side: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return _neighbours(((index.to(dtype) + 0.5) * side / size - 0.5).clamp(0, side - 1), side)


def _last_line_lost(index: Tensor, size: int, side: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return _neighbours(index.to(dtype) * (side - 1) / max(size, 1), side)


def _neighbours(source: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The table lines before and after each source position, and the weight of the one after."""
    low = source.floor()
    return low.long(), (low.long() + 1).clamp(max=side - 1), source - low


def _weights_changed(change: Change) -> AbstractContextManager[None]:
    """``change(weights)`` are the weights (N, 4) of the bilinear interpolation."""
    return result_changed(port.grid, "interpolation", lambda result: (result[0], change(result[1])))


def _rounded_like_model(
    method: str, changed: Callable[[Change], AbstractContextManager[None]]
) -> AbstractContextManager[None]:
    """Within a method of the tower, the values that ``changed`` plants on are rounded to the model's dtype."""

    def wrapper(original: Any, self: VisionModel, grid_thw: Tensor) -> Any:
        with changed(lambda value: rounded(value, self.pos_embed.weight.dtype)):
            return original(self, grid_thw)

    return around(VisionModel, method, wrapper)


def _table_transposed(original: Any, grids: Tensor, side: int, merge: int, **options: Any) -> tuple[Tensor, Tensor]:
    indices, weights = original(grids, side, merge, **options)
    return indices % side * side + indices // side, weights


def _raster_order(original: Any, self: VisionModel, grid_thw: Tensor) -> Tensor:
    with around(port.grid, "merge_order", lambda order, h, w, merge: order(h, w, 1)):
        return original(self, grid_thw)


def _wraps_when_larger(original: Any, index: Tensor, size: int, side: int, dtype: torch.dtype) -> Any:
    """A grid that is larger than the table continues at the start of the table."""
    return original(index % side, min(size, side), side, dtype)


@contextmanager
def _positions_added_twice() -> Iterator[None]:
    latest: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        latest[:] = [x]
        return x

    with altered("vision.pos_embed", keep), altered("vision.embed", lambda x: x + latest[0]):
        yield


def _one_patch(x: Tensor) -> Tensor:
    return copied(x, to=len(x) // 2, of=len(x) // 2 - 1)


def _no_rotation(cos_sin: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    cos, sin = cos_sin
    return torch.ones_like(cos), torch.zeros_like(sin)


def _repeated_not_tiled(grid_thw: Tensor, merge: int) -> Tensor:
    frames = []
    for t, h, w in grid_thw.tolist():
        frame = torch.stack(port.grid.merge_order(h, w, merge), dim=-1)
        frames.append(frame.repeat_interleave(t, 0))
    return torch.cat(frames)


def _raster_coordinates(original: Any, grid_thw: Tensor, merge: int) -> Tensor:
    return original(grid_thw, 1)


def _inv_freq_changed(change: Change) -> AbstractContextManager[None]:
    return result_changed(port.vision, "inverse_frequencies", change)


def _text_theta(original: Any, dim: int, _theta: float, dtype: torch.dtype) -> Tensor:
    return original(dim, 5e6, dtype)


def _whole_head(original: Any, dim: int, theta: float, dtype: torch.dtype) -> Tensor:
    """The first half of the frequencies for the whole head."""
    return original(2 * dim, theta, dtype)[: dim // 2]


def _not_accumulated(grid_thw: Tensor) -> Tensor:
    return torch.tensor([0, *port.grid.segment_lengths(grid_thw)], dtype=torch.int32)


def _across_frames(original: Any, grid_thw: Tensor) -> Tensor:
    with replaced(port.grid, "segment_lengths", lambda grids: grids.prod(dim=1).tolist()):
        return original(grid_thw)


def _last_boundary_lost(boundaries: Tensor) -> Tensor:
    """The last two segments are merged into one."""
    return boundaries if len(boundaries) < 3 else torch.cat([boundaries[:-2], boundaries[-1:]])


embedding = family(component="patch-embed", seam="vision.patch_embed", step="prefill, *", needs=PICTURE)
table = family(component="pos-embed", seam="vision.pos_embed", step="prefill, *", needs=PICTURE)
rope = family(component="vision-rope", seam="vision.rope_cos", step="prefill, *", needs=PICTURE)
segments = family(component="vision-attn", seam="vision.cu_seqlens", step="prefill, *", needs=PICTURE)
kernel = family(
    component="patch-embed",
    seam="model.visual.patch_embed.proj.weight",
    step="*",
    needs=frozenset({"weights"}),
    stage="weights",
)

MUTANTS = [
    embedding(
        "patch-embed-first-temporal-slice-only",
        "only the first frame of each temporal patch is convolved",
        lambda: around(PatchEmbed, "forward", _first_frame_only),
        real=True,
        source="mlx-node, #80 (6a889bdb)",
    ),
    embedding(
        "patch-embed-without-bias",
        "the patch embedding has no bias",
        lambda: around(PatchEmbed, "forward", _without_bias),
    ),
    embedding(
        "patch-embed-bias-per-frame",
        "the bias of the patch embedding is added once per frame",
        lambda: around(PatchEmbed, "forward", _bias_per_frame),
    ),
    embedding(
        "one-patch-wrong",
        "one patch has the embedding of its neighbour",
        lambda: altered("vision.patch_embed", _one_patch),
    ),
    kernel(
        "conv3d-weight-frames-reversed",
        "weight() returns the temporal slices in reverse order",
        lambda: result_changed(Conv3dNoBias, "weight", lambda weight: weight.flip(2)),
    ),
    kernel(
        "conv3d-weight-kernel-transposed",
        "weight() returns the kernel with rows and columns swapped",
        lambda: result_changed(Conv3dNoBias, "weight", lambda weight: weight.transpose(3, 4)),
    ),
    embedding(
        "patch-embed-in-float16",
        "pixels and the weights of the patch embedding are rounded to float16",
        lambda: around(Conv3dNoBias, "forward", _in_float16),
        dtypes=(FLOAT32,),
        invisible="bfloat16: float16 holds pixels and weights of bfloat16 but for the smallest",
        real=True,
        source="llama.cpp b11434, ggml_conv_2d, found by its log-probabilities",
    ),
    table(
        "pos-embed-align-corners-false",
        "the position table is sampled at half-pixel centres",
        lambda: replaced(port.grid, "_axis", _half_pixel_axis),
        real=True,
        source="llama.cpp #25781; SGLang #22052, #34013",
    ),
    table(
        "pos-embed-weights-in-bf16",
        "interpolation weights are rounded to the dtype of the position table",
        lambda: _rounded_like_model("interpolated_positions", _weights_changed),
        real=True,
        source="mlx-vlm HEAD vision.py; lablup/mlxcel #1738/#1854; utensils/mold #964; candle HEAD",
        dtypes=(),
        invisible="float32: the table is float32, so nothing is rounded; "
        "bfloat16: within the floor of the value itself",
    ),
    table(
        "pos-embed-weights-always-bf16",
        "interpolation weights are always rounded to bfloat16",
        lambda: _weights_changed(lambda weights: rounded(weights, torch.bfloat16)),
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the value itself",
    ),
    table(
        "pos-embed-weights-integer-cast",
        "interpolation weights are truncated to integers",
        lambda: _weights_changed(torch.trunc),
        real=True,
        source="mlx-vlm, #2304",
    ),
    table(
        "pos-embed-weights-transposed",
        "the interpolation weights of the two mixed corners are swapped",
        lambda: _weights_changed(lambda weights: weights[:, [0, 2, 1, 3]]),
    ),
    table(
        "pos-embed-table-transposed",
        "rows and columns of the position table are swapped",
        lambda: around(port.grid, "interpolation", _table_transposed),
    ),
    table(
        "pos-embed-raster-order",
        "table positions are in raster order, patches in merge order",
        lambda: around(VisionModel, "interpolated_positions", _raster_order),
    ),
    table(
        "pos-embed-wraps-when-larger",
        "a grid larger than the position table wraps around",
        lambda: around(port.grid, "_axis", _wraps_when_larger),
        needs=frozenset({"picture", "larger than the table"}),
    ),
    table(
        "pos-embed-last-line-never-reached",
        "the position table is sampled in steps of (side - 1) / size instead of (side - 1) / (size - 1)",
        lambda: replaced(port.grid, "_axis", _last_line_lost),
    ),
    table("pos-embed-added-twice", "position embeddings are added twice", _positions_added_twice, seam="vision.embed"),
    rope(
        "vision-2d-rope-missing",
        "rotary is not applied in the vision tower",
        lambda: result_changed(VisionModel, "rotary", _no_rotation),
        real=True,
        source="hipfire #325; 1bit-MONSTER #1417",
    ),
    rope(
        "vision-rope-repeat-instead-of-tile",
        "rotary coordinates are repeated patch by patch instead of frame by frame",
        lambda: replaced(port.grid, "patch_coordinates", _repeated_not_tiled),
        step="prefill, videos",
        needs=frozenset({"frames"}),
        real=True,
        source="mlx-vlm, ab838c57 (#300)",
    ),
    rope(
        "vision-inv-freq-bf16",
        "vision rotary frequencies are rounded to the model's dtype",
        lambda: _rounded_like_model("rotary", _inv_freq_changed),
        real=True,
        source="NVIDIA-NeMo/Automodel, #3856",
        dtypes=(BFLOAT16,),
        invisible="float32: the model is float32, so nothing is rounded",
    ),
    rope(
        "vision-inv-freq-always-bf16",
        "vision rotary frequencies are always rounded to bfloat16",
        lambda: _inv_freq_changed(lambda freq: rounded(freq, torch.bfloat16)),
    ),
    rope(
        "vision-rope-hw-swapped",
        "rows use the rotary frequencies of columns, and columns those of rows",
        lambda: result_changed(port.grid, "patch_coordinates", lambda coordinates: coordinates.flip(1)),
    ),
    rope(
        "vision-rope-raster-order",
        "rotary coordinates are in raster order, patches in merge order",
        lambda: around(port.grid, "patch_coordinates", _raster_coordinates),
    ),
    rope(
        "vision-rope-theta-of-text",
        "the vision tower uses the rotary theta of the language model",
        lambda: around(port.vision, "inverse_frequencies", _text_theta),
    ),
    rope(
        "vision-rope-frequencies-of-whole-head",
        "vision rotary frequencies are spaced over the whole head instead of half of it",
        lambda: around(port.vision, "inverse_frequencies", _whole_head),
    ),
    rope(
        "vision-rope-backwards",
        "the vision rotary sine has the wrong sign",
        lambda: altered("vision.rope_sin", torch.neg),
        seam="vision.rope_sin",
    ),
    segments(
        "vit-cross-frame-attention",
        "all frames of a video form one attention segment",
        lambda: around(port.grid, "segment_boundaries", _across_frames),
        step="prefill, videos",
        needs=frozenset({"frames"}),
        real=True,
        source="pytorch/torchtitan #4317; ollama model_vision.go",
    ),
    segments(
        "vit-cu-seqlens-not-accumulated",
        "cu_seqlens holds segment lengths instead of their running total",
        lambda: replaced(port.grid, "segment_boundaries", _not_accumulated),
        needs=frozenset({"segments"}),
        real=True,
        source="ml-explore/mlx-swift-lm #503/#509",
    ),
    segments(
        "vit-last-boundary-lost",
        "the last two attention segments are merged into one",
        lambda: result_changed(port.grid, "segment_boundaries", _last_boundary_lost),
        needs=frozenset({"segments"}),
    ),
]
