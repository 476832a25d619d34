"""The vision tower in relations: its features, and the transposition of its pixels and weights.

Shape legend
    N, F   patches, merged patches;  P   patch size;  T   temporal patch size;  m   spatial merge
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from parity.relations.spec import Picture, pixels_of
from port import Qwen3VL
from port.grid import merge_order


def tower_features(model: Qwen3VL, pictures: Sequence[Picture], pixels: Tensor | None = None) -> Tensor:
    """Return (1 + taps, F, O): the merged features and those of every DeepStack tap."""
    merge = model.config.vision.spatial_merge_size
    grid = torch.tensor([[p.t, p.h * merge, p.w * merge] for p in pictures])
    given = torch.cat([pixels_of(picture, model) for picture in pictures]) if pixels is None else pixels
    merged, taps = model.model.visual(given, grid)
    stacked: Tensor = torch.stack([merged, *taps])
    return stacked


def turn_pixels(pixels: Tensor, picture: Picture, model: Qwen3VL) -> Tensor:
    """Turn patches (N, ...) of a picture into those of its transpose, both in merge order. Transposes each patch."""
    vision = model.config.vision
    rows, columns = picture.h * vision.spatial_merge_size, picture.w * vision.spatial_merge_size
    at_row, at_column = merge_order(rows, columns, vision.spatial_merge_size)
    shape = (picture.t, rows * columns, -1, vision.patch_size, vision.patch_size)
    patches = pixels.reshape(shape).transpose(3, 4)  # (t, h*w, channels*T, P, P)
    raster = torch.empty_like(patches)
    raster[:, at_row * columns + at_column] = patches
    turned: Tensor = raster.unflatten(1, (rows, columns)).transpose(1, 2).flatten(1, 2)
    to_row, to_column = merge_order(columns, rows, vision.spatial_merge_size)
    return turned[:, to_row * rows + to_column].reshape(len(pixels), -1)


def turn_tower(model: Qwen3VL) -> None:
    """Exchange rows and columns in all weights of the tower that depend on them."""
    vision, visual = model.config.vision, model.model.visual
    block: Any  # nn.ModuleList has no type for its modules
    proj = visual.patch_embed.proj
    proj.matrix.copy_(proj.weight().transpose(3, 4).reshape_as(proj.matrix))
    side = vision.grid_side
    table = visual.pos_embed.weight
    table.copy_(table.unflatten(0, (side, side)).transpose(0, 1).flatten(0, 1))
    for block in visual.blocks:
        for tensor in (block.attn.qkv.weight, block.attn.qkv.bias):
            qkv = tensor.unflatten(0, (3, vision.num_heads, 2, 2, -1))  # 3, heads, halves, (row, column), frequency
            qkv[:2] = qkv[:2].flip(3)
    for merger in (visual.merger, *visual.deepstack_merger_list):
        _turn_last(merger.linear_fc1.weight, vision.spatial_merge_size)
        if merger.norm_after_merge:
            _turn_last(merger.norm.weight, vision.spatial_merge_size)
            _turn_last(merger.norm.bias, vision.spatial_merge_size)


def _turn_last(tensor: Tensor, merge: int) -> None:
    """Transpose the m x m patches in the last dim of a merger's tensor, in place."""
    tensor.copy_(tensor.unflatten(-1, (merge, merge, -1)).transpose(-3, -2).flatten(-3).clone())
