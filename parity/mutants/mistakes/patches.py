"""Mistakes before the first vision block: patch embedding, position table, 2-D rotary, segment boundaries.

Shape legend
    N, C   patches, hidden_size of the tower
    D      head width of the tower
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import port.grid
import port.vision
from parity.mutants.base import BFLOAT16, FLOAT32, Mutant, altered, around, replaced, rounded
from port.layers import Conv3dNoBias
from port.vision import PatchEmbed, VisionModel

PICTURE, FRAMES = frozenset({"picture"}), frozenset({"frames"})
SEGMENTS = frozenset({"segments"})


def _first_frame_only(_original: Any, self: PatchEmbed, pixel_values: Tensor) -> Tensor:
    x = pixel_values.view(-1, self.proj.in_channels, *self.kernel)  # (N, channels, T, P, P)
    return F.conv2d(x[:, :, 0], self.proj.weight()[:, :, 0]).flatten(1) + self.bias


def _without_bias(original: Any, self: PatchEmbed, pixel_values: Tensor) -> Tensor:
    return original(self, pixel_values) - self.bias


def _bias_per_frame(original: Any, self: PatchEmbed, pixel_values: Tensor) -> Tensor:
    """A convolution with a bias for each frame of the temporal patch, their outputs added."""
    return original(self, pixel_values) + (self.kernel[0] - 1) * self.bias


def _half_pixel_axis(index: Tensor, size: int, side: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    source = ((index.to(dtype) + 0.5) * side / size - 0.5).clamp(0, side - 1)
    low = source.floor()
    return low.long(), (low.long() + 1).clamp(max=side - 1), source - low


def _weights_changed(change: Any) -> AbstractContextManager[None]:
    """``change(weights)`` makes the weights (N, 4) of the bilinear interpolation."""

    def wrapper(original: Any, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        indices, weights = original(*args, **options)
        return indices, change(weights)

    return around(port.grid, "interpolation", wrapper)


def _weights_in_table_dtype() -> AbstractContextManager[None]:
    def wrapper(original: Any, self: VisionModel, grid_thw: Tensor) -> Tensor:
        table = self.pos_embed.weight.dtype
        with _weights_changed(lambda weights: rounded(weights, table)):
            return original(self, grid_thw)

    return around(VisionModel, "interpolated_positions", wrapper)


def _table_transposed(original: Any, grids: Tensor, side: int, merge: int, **options: Any) -> tuple[Tensor, Tensor]:
    indices, weights = original(grids, side, merge, **options)
    return indices % side * side + indices // side, weights


def _raster_order(original: Any, self: VisionModel, grid_thw: Tensor) -> Tensor:
    with around(port.grid, "merge_order", lambda order, h, w, merge: order(h, w, 1)):
        return original(self, grid_thw)


def _wraps_when_larger(original: Any, index: Tensor, size: int, side: int, dtype: torch.dtype) -> Any:
    """A grid that is larger than the table starts again at its other end."""
    return original(index % side, min(size, side), side, dtype)


def _last_line_lost(index: Tensor, size: int, side: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    source = index.to(dtype) * (side - 1) / max(size, 1)
    low = source.floor()
    return low.long(), (low.long() + 1).clamp(max=side - 1), source - low


def _positions_added_twice() -> AbstractContextManager[None]:
    latest: list[Tensor] = []

    @contextmanager
    def planted() -> Iterator[None]:
        def keep(x: Tensor) -> Tensor:
            latest[:] = [x]
            return x

        with altered("vision.pos_embed", keep), altered("vision.embed", lambda x: x + latest[0]):
            yield

    return planted()


def _one_patch(x: Tensor) -> Tensor:
    x = x.clone()
    x[len(x) // 2] = x[len(x) // 2 - 1]
    return x


def _no_rotation(original: Any, self: VisionModel, grid_thw: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = original(self, grid_thw)
    return torch.ones_like(cos), torch.zeros_like(sin)


def _repeated_not_tiled(grid_thw: Tensor, merge: int) -> Tensor:
    frames = []
    for t, h, w in grid_thw.tolist():
        frame = torch.stack(port.grid.merge_order(h, w, merge), dim=-1)
        frames.append(frame.repeat_interleave(t, 0))
    return torch.cat(frames)


def _raster_coordinates(original: Any, grid_thw: Tensor, merge: int) -> Tensor:
    return original(grid_thw, 1)


def _inv_freq_changed(change: Any) -> AbstractContextManager[None]:
    return around(port.vision, "inverse_frequencies", lambda original, *args: change(original(*args)))


def _inv_freq_in_model_dtype() -> AbstractContextManager[None]:
    def wrapper(original: Any, self: VisionModel, grid_thw: Tensor) -> Any:
        with _inv_freq_changed(lambda freq: rounded(freq, self.pos_embed.weight.dtype)):
            return original(self, grid_thw)

    return around(VisionModel, "rotary", wrapper)


def _text_theta(original: Any, dim: int, _theta: float, dtype: torch.dtype) -> Tensor:
    return original(dim, 5e6, dtype)


def _whole_head(original: Any, dim: int, theta: float, dtype: torch.dtype) -> Tensor:
    """Frequencies for the whole head, of which the first half are used."""
    return original(2 * dim, theta, dtype)[: dim // 2]


def _not_accumulated(grid_thw: Tensor) -> Tensor:
    return torch.tensor([0, *port.grid.segment_lengths(grid_thw)], dtype=torch.int32)


def _across_frames(original: Any, grid_thw: Tensor) -> Tensor:
    with replaced(port.grid, "segment_lengths", lambda grids: grids.prod(dim=1).tolist()):
        return original(grid_thw)


def _last_boundary_lost(original: Any, grid_thw: Tensor) -> Tensor:
    """The last two segments are one."""
    boundaries = original(grid_thw)
    return boundaries if len(boundaries) < 3 else torch.cat([boundaries[:-2], boundaries[-1:]])


def _patches(id: str, title: str, seam: str, plant: Any, *, component: str, **more: Any) -> Mutant:
    step, needs = more.pop("step", "prefill, *"), more.pop("needs", PICTURE)
    return Mutant(
        id=id, title=title, component=component, seam="vision." + seam, step=step, plant=plant, needs=needs, **more
    )


MUTANTS = [
    _patches(
        "patch-embed-first-temporal-slice-only",
        "only the first frame of each temporal patch is convolved",
        "patch_embed",
        lambda: around(PatchEmbed, "forward", _first_frame_only),
        component="patch-embed",
        real=True,
        source="mlx-node, #80 (6a889bdb)",
    ),
    _patches(
        "patch-embed-without-bias",
        "the bias of the patch embedding is dropped",
        "patch_embed",
        lambda: around(PatchEmbed, "forward", _without_bias),
        component="patch-embed",
    ),
    _patches(
        "patch-embed-bias-per-frame",
        "each frame of the temporal patch adds the bias",
        "patch_embed",
        lambda: around(PatchEmbed, "forward", _bias_per_frame),
        component="patch-embed",
    ),
    _patches(
        "one-patch-wrong",
        "one patch among all has the embedding of its neighbour",
        "patch_embed",
        lambda: altered("vision.patch_embed", _one_patch),
        component="patch-embed",
    ),
    Mutant(
        id="conv3d-weight-frames-reversed",
        title="weight() gives the temporal slices in reverse",
        component="patch-embed",
        seam="model.visual.patch_embed.proj.weight",
        step="*",
        plant=lambda: around(Conv3dNoBias, "weight", lambda original, self: original(self).flip(2)),
        needs=frozenset({"weights"}),
        stage="weights",
    ),
    Mutant(
        id="conv3d-weight-kernel-transposed",
        title="weight() gives the kernel's rows and columns swapped",
        component="patch-embed",
        seam="model.visual.patch_embed.proj.weight",
        step="*",
        plant=lambda: around(Conv3dNoBias, "weight", lambda original, self: original(self).transpose(3, 4)),
        needs=frozenset({"weights"}),
        stage="weights",
    ),
    _patches(
        "pos-embed-align-corners-false",
        "the position table is read at half-pixel centres",
        "pos_embed",
        lambda: replaced(port.grid, "_axis", _half_pixel_axis),
        component="pos-embed",
        real=True,
        source="llama.cpp #25781; SGLang #22052, #34013",
    ),
    _patches(
        "pos-embed-weights-in-bf16",
        "the weights of the bilinear interpolation are rounded to the table's dtype",
        "pos_embed",
        _weights_in_table_dtype,
        component="pos-embed",
        real=True,
        source="mlx-vlm HEAD vision.py; lablup/mlxcel #1738/#1854; utensils/mold #964; candle HEAD",
        dtypes=(),
        invisible="float32: the table's dtype is float32, nothing is rounded; "
        "bfloat16: within the floor of the value itself",
    ),
    _patches(
        "pos-embed-weights-always-bf16",
        "the weights of the bilinear interpolation are rounded to bfloat16 in every model",
        "pos_embed",
        lambda: _weights_changed(lambda weights: rounded(weights, torch.bfloat16)),
        component="pos-embed",
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the value itself",
    ),
    _patches(
        "pos-embed-weights-integer-cast",
        "the weights of the bilinear interpolation are cut to whole numbers",
        "pos_embed",
        lambda: _weights_changed(torch.trunc),
        component="pos-embed",
        real=True,
        source="mlx-vlm, #2304",
    ),
    _patches(
        "pos-embed-weights-transposed",
        "the weights of the two mixed corners are swapped",
        "pos_embed",
        lambda: _weights_changed(lambda weights: weights[:, [0, 2, 1, 3]]),
        component="pos-embed",
    ),
    _patches(
        "pos-embed-table-transposed",
        "the position table is read with rows and columns swapped",
        "pos_embed",
        lambda: around(port.grid, "interpolation", _table_transposed),
        component="pos-embed",
    ),
    _patches(
        "pos-embed-raster-order",
        "table positions in raster order, patches in merge order",
        "pos_embed",
        lambda: around(VisionModel, "interpolated_positions", _raster_order),
        component="pos-embed",
    ),
    _patches(
        "pos-embed-wraps-when-larger",
        "a grid larger than the table starts again at its other end",
        "pos_embed",
        lambda: around(port.grid, "_axis", _wraps_when_larger),
        component="pos-embed",
        needs=frozenset({"picture", "larger than the table"}),
    ),
    _patches(
        "pos-embed-last-line-never-reached",
        "steps of (side - 1) / size, not (side - 1) / (size - 1)",
        "pos_embed",
        lambda: replaced(port.grid, "_axis", _last_line_lost),
        component="pos-embed",
    ),
    _patches(
        "pos-embed-added-twice",
        "positions are added twice",
        "embed",
        _positions_added_twice,
        component="pos-embed",
    ),
    _patches(
        "vision-2d-rope-missing",
        "patches are not turned at all",
        "rope_cos",
        lambda: around(port.vision.VisionModel, "rotary", _no_rotation),
        component="vision-rope",
        real=True,
        source="hipfire #325; 1bit-MONSTER #1417",
    ),
    _patches(
        "vision-rope-repeat-instead-of-tile",
        "coordinates are repeated patch by patch, not frame by frame",
        "rope_cos",
        lambda: replaced(port.grid, "patch_coordinates", _repeated_not_tiled),
        component="vision-rope",
        step="prefill, videos",
        needs=FRAMES,
        real=True,
        source="mlx-vlm, ab838c57 (#300)",
    ),
    _patches(
        "vision-inv-freq-bf16",
        "the frequencies are rounded to the model's dtype",
        "rope_cos",
        _inv_freq_in_model_dtype,
        component="vision-rope",
        real=True,
        source="NVIDIA-NeMo/Automodel, #3856",
        dtypes=(BFLOAT16,),
        invisible="float32: the model's dtype is float32, nothing is rounded",
    ),
    _patches(
        "vision-inv-freq-always-bf16",
        "the frequencies are rounded to bfloat16 in every model",
        "rope_cos",
        lambda: _inv_freq_changed(lambda freq: rounded(freq, torch.bfloat16)),
        component="vision-rope",
    ),
    _patches(
        "vision-rope-hw-swapped",
        "rows turn with the columns' frequencies and columns with the rows'",
        "rope_cos",
        lambda: around(port.grid, "patch_coordinates", lambda original, *args: original(*args).flip(1)),
        component="vision-rope",
    ),
    _patches(
        "vision-rope-raster-order",
        "coordinates in raster order, patches in merge order",
        "rope_cos",
        lambda: around(port.grid, "patch_coordinates", _raster_coordinates),
        component="vision-rope",
    ),
    _patches(
        "vision-rope-theta-of-text",
        "the vision tower turns with the language model's theta",
        "rope_cos",
        lambda: around(port.vision, "inverse_frequencies", _text_theta),
        component="vision-rope",
    ),
    _patches(
        "vision-rope-frequencies-of-whole-head",
        "frequencies are spaced over the whole head, not over half of it",
        "rope_cos",
        lambda: around(port.vision, "inverse_frequencies", _whole_head),
        component="vision-rope",
    ),
    _patches(
        "vision-rope-backwards",
        "angles turn the other way",
        "rope_sin",
        lambda: altered("vision.rope_sin", torch.neg),
        component="vision-rope",
    ),
    _patches(
        "vit-cross-frame-attention",
        "a video is one attention segment",
        "cu_seqlens",
        lambda: around(port.grid, "segment_boundaries", _across_frames),
        component="vision-attn",
        step="prefill, videos",
        needs=FRAMES,
        real=True,
        source="pytorch/torchtitan #4317; ollama model_vision.go",
    ),
    _patches(
        "vit-cu-seqlens-not-accumulated",
        "segment lengths stand where boundaries belong",
        "cu_seqlens",
        lambda: replaced(port.grid, "segment_boundaries", _not_accumulated),
        component="vision-attn",
        needs=SEGMENTS,
        real=True,
        source="ml-explore/mlx-swift-lm #503/#509",
    ),
    _patches(
        "vit-last-boundary-lost",
        "the last two segments are one",
        "cu_seqlens",
        lambda: around(port.grid, "segment_boundaries", _last_boundary_lost),
        component="vision-attn",
        needs=SEGMENTS,
    ),
]
