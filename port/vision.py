"""The vision tower: patches in, one feature per merged patch out, plus the DeepStack features.

Shape legend
    N      patches of all pictures and frames in the call, in merge order
    C      hidden_size of the tower; H heads of width D = C / H
    m      spatial merge size; N / m^2 merged patches
    O      out_hidden_size, the width of the language model
"""

from __future__ import annotations

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from port import grid
from port.config import LAYER_NORM_EPS, VISION_ROPE_THETA, VisionConfig
from port.errors import InputError
from port.kernels import PLAIN, PlainKernels
from port.layers import Conv3dNoBias, Linear, table, wide
from port.mrope import inverse_frequencies
from port.tap import Tap


class PatchEmbed(nn.Module):
    """Flattened patches to vectors."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = Conv3dNoBias(config.in_channels, config.hidden_size, kernel_size=self.kernel)
        self.bias = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, pixel_values: Tensor) -> Tensor:  # (N, channels*T*P*P) -> (N, C)
        x = pixel_values.view(-1, self.proj.in_channels, *self.kernel)  # (N, channels, T, P, P)
        out: Tensor = self.proj(x).flatten(1) + self.bias  # (N, C, 1, 1, 1) -> (N, C)
        return out


class VisionAttention(nn.Module):
    """Self-attention within each segment. A segment is a picture or one frame of a video."""

    kernels: PlainKernels = PLAIN

    def __init__(self, config: VisionConfig, prefix: str) -> None:
        super().__init__()
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = Linear(config.hidden_size, config.hidden_size)
        self.tap = Tap(prefix)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, lengths: list[int]) -> Tensor:  # (N, C) -> (N, C)
        qkv = self.tap("qkv", self.qkv(x))
        q, k, v = qkv.view(-1, 3, self.num_heads, self.head_dim).unbind(1)  # each (N, H, D)
        q = self.tap("q_rope", self.kernels.rotary(q, cos, sin))
        k = self.tap("k_rope", self.kernels.rotary(k, cos, sin))
        context = attend_segments(q, k, v, lengths, self.kernels).flatten(1)  # (N, H, D) -> (N, C)
        return self.tap("out", self.proj(self.tap("context", context)))


def attend_segments(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], kernels: PlainKernels = PLAIN) -> Tensor:
    """Full attention within consecutive segments of q, k, v (N, H, D); returns (N, H, D).

    Neighbouring segments of the same length, such as the frames of a video, share one call.
    """
    outputs, start = [], 0
    for length, run in groupby(lengths):
        end = start + length * len(list(run))
        query, key, value = (x[start:end].view(-1, length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        out = kernels.full_attention(query, key, value)  # (segments, H, L, D)
        outputs.append(out.transpose(1, 2).flatten(0, 1))  # (segments*L, H, D)
        start = end
    return torch.cat(outputs)


class VisionMLP(nn.Module):
    kernels: PlainKernels = PLAIN

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.linear_fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.linear_fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:  # (N, C) -> (N, C)
        out: Tensor = self.linear_fc2(self.kernels.gelu_tanh(self.linear_fc1(x)))
        return out


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig, prefix: str) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.attn = VisionAttention(config, prefix + "attn.")
        self.mlp = VisionMLP(config)
        self.tap = Tap(prefix)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, lengths: list[int]) -> Tensor:  # (N, C) -> (N, C)
        x = x + self.attn(self.tap("norm1", self.norm1(x)), cos, sin, lengths)
        x = x + self.tap("mlp.out", self.mlp(self.tap("norm2", self.norm2(x))))
        return self.tap("out", x)


class PatchMerger(nn.Module):
    """m x m patches to one token. The last merger normalises before merging, the DeepStack mergers after it."""

    def __init__(self, config: VisionConfig, *, norm_after_merge: bool) -> None:
        super().__init__()
        merged = config.hidden_size * config.spatial_merge_size**2
        self.merged_size = merged
        self.norm_after_merge = norm_after_merge
        self.norm = nn.LayerNorm(merged if norm_after_merge else config.hidden_size, eps=LAYER_NORM_EPS)
        self.linear_fc1 = Linear(merged, merged)
        self.linear_fc2 = Linear(merged, config.out_hidden_size)

    def forward(self, x: Tensor) -> Tensor:  # (N, C) -> (N/m^2, O)
        if self.norm_after_merge:
            x = self.norm(x.view(-1, self.merged_size))  # (N/m^2, C*m^2)
        else:
            x = self.norm(x).view(-1, self.merged_size)  # (N/m^2, C*m^2)
        out: Tensor = self.linear_fc2(F.gelu(self.linear_fc1(x)))  # exact (erf) GELU
        return out


class VisionModel(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = table(config.num_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(VisionBlock(config, f"vision.blocks.{i}.") for i in range(config.depth))
        self.merger = PatchMerger(config, norm_after_merge=False)
        self.deepstack_merger_list = nn.ModuleList(
            PatchMerger(config, norm_after_merge=True) for _ in config.deepstack_visual_indexes
        )
        self.tap = Tap("vision.")

    def forward(self, pixel_values: Tensor, grid_thw: Tensor) -> tuple[Tensor, list[Tensor]]:
        """pixel_values (N, channels*T*P*P), grid_thw (pictures, 3) -> (N/m^2, O), and one for each DeepStack layer.

        Raises InputError if the patches do not fit the grids.
        """
        self._check(pixel_values, grid_thw)
        x = self.tap("patch_embed", self.patch_embed(pixel_values.to(self.pos_embed.weight.dtype)))
        x = self.tap("embed", x + self.tap("pos_embed", self.interpolated_positions(grid_thw)))
        cos, sin = self.rotary(grid_thw)
        cos, sin = self.tap("rope_cos", cos).unsqueeze(1), self.tap("rope_sin", sin).unsqueeze(1)  # (N, 1, D)
        boundaries = self.tap("cu_seqlens", grid.segment_boundaries(grid_thw))
        lengths = boundaries.diff().tolist()
        features: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x, cos, sin, lengths)
            if index in self.config.deepstack_visual_indexes:
                merger = self.deepstack_merger_list[len(features)]
                features.append(self.tap(f"deepstack.{len(features)}", merger(x)))
        return self.tap("merger", self.merger(x)), features

    def interpolated_positions(self, grid_thw: Tensor) -> Tensor:
        """(N, C): the learned position table, interpolated in float32 or wider."""
        dtype = self.pos_embed.weight.dtype
        indices, weights = grid.interpolation(
            grid_thw, self.config.grid_side, self.config.spatial_merge_size, dtype=wide(dtype)
        )
        weighted: Tensor = self.pos_embed(indices) * weights.unsqueeze(-1)  # (N, 4, C)
        return weighted.sum(dim=1).to(dtype)

    def rotary(self, grid_thw: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine (N, D): angles of the first D/4 frequencies follow the row, the others the column."""
        coordinates = grid.patch_coordinates(grid_thw, self.config.spatial_merge_size)  # (N, 2)
        dtype = wide(self.pos_embed.weight.dtype)
        inv_freq = inverse_frequencies(self.config.head_dim // 2, VISION_ROPE_THETA, dtype)  # (D/4,)
        angles = coordinates.unsqueeze(-1).to(dtype) * inv_freq.to(coordinates.device)  # (N, 2, D/4)
        angles = angles.flatten(1).repeat(1, 2)  # (N, D/2) -> (N, D)
        return angles.cos(), angles.sin()

    def _check(self, pixel_values: Tensor, grid_thw: Tensor) -> None:
        grid.check_grid(grid_thw, self.config.spatial_merge_size)
        patches = sum(grid.segment_lengths(grid_thw))
        if pixel_values.ndim != 2 or pixel_values.shape != (patches, self.config.patch_dim):
            raise InputError(
                f"pixel values have shape {tuple(pixel_values.shape)}, but the grids {grid_thw.tolist()} need "
                f"({patches}, {self.config.patch_dim}): one row per patch"
            )
