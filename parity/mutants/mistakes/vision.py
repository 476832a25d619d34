"""Mistakes inside the vision blocks.

Shape legend
    N, C      patches, hidden_size of the tower
    H, D, L   heads, head width, patches of a segment
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity.mutants.base import FLOAT32, Mutant, altered, around, replaced, rounded
from port.layers import apply_rotary
from port.vision import VisionAttention, VisionBlock, VisionMLP, attend_segments

PICTURE = frozenset({"picture"})
SEGMENTS = frozenset({"segments"})


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return norm(x)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A vision block written again, with places in which to be wrong; as it stands it is the port's."""

    norm1: Callable[[nn.LayerNorm, Tensor], Tensor] = _norm
    norm2: Callable[[nn.LayerNorm, Tensor], Tensor] = _norm
    second_residual: Callable[[Tensor, Tensor], Tensor] = lambda x, normed: x

    def forward(self, block: VisionBlock, x: Tensor, cos: Tensor, sin: Tensor, lengths: list[int]) -> Tensor:
        x = x + block.attn(block.tap("norm1", self.norm1(block.norm1, x)), cos, sin, lengths)
        normed = block.tap("norm2", self.norm2(block.norm2, x))
        x = self.second_residual(x, normed) + block.tap("mlp.out", block.mlp(normed))
        return block.tap("out", x)

    def planted(self) -> AbstractContextManager[None]:
        return replaced(VisionBlock, "forward", lambda block, *args: self.forward(block, *args))


@dataclass(frozen=True, kw_only=True)
class Attention:
    """A vision attention written again; ``split`` makes q, k, v (N, H, D) of (N, 3 * C)."""

    split: Callable[[Tensor, int, int], tuple[Tensor, ...]] = lambda qkv, h, d: qkv.view(-1, 3, h, d).unbind(1)
    turn_q: Callable[..., Tensor] = apply_rotary
    turn_k: Callable[..., Tensor] = apply_rotary
    turn_v: Callable[..., Tensor] = lambda v, cos, sin: v
    attend: Callable[..., Tensor] = attend_segments
    merge_heads: Callable[[Tensor], Tensor] = lambda context: context.flatten(1)

    def forward(self, attn: VisionAttention, x: Tensor, cos: Tensor, sin: Tensor, lengths: list[int]) -> Tensor:
        q, k, v = self.split(attn.tap("qkv", attn.qkv(x)), attn.num_heads, attn.head_dim)
        q = attn.tap("q_rope", self.turn_q(q.to(cos.dtype), cos, sin).to(x.dtype))
        k = attn.tap("k_rope", self.turn_k(k.to(cos.dtype), cos, sin).to(x.dtype))
        v = self.turn_v(v.to(cos.dtype), cos, sin).to(x.dtype)
        context = self.merge_heads(self.attend(q, k, v, lengths))
        return attn.tap("out", attn.proj(attn.tap("context", context)))

    def planted(self) -> AbstractContextManager[None]:
        return replaced(VisionAttention, "forward", lambda attn, *args: self.forward(attn, *args))


def _attend(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], **options: Any) -> Tensor:
    """Attention inside each segment, one after another."""
    parts = [
        F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in segment), **options).transpose(0, 1)
        for segment in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    ]
    return torch.cat(parts)


def _causal(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    return _attend(q, k, v, lengths, is_causal=True)


def _unscaled(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    return _attend(q, k, v, lengths, scale=1.0)


def _cut_at_lengths(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    parts = zip(q.tensor_split(lengths), k.tensor_split(lengths), v.tensor_split(lengths), strict=True)
    return torch.cat([_attend(sq, sk, sv, [len(sq)]) for sq, sk, sv in parts if len(sq)])


def _additive_ones(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    segment = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    mask = (segment[:, None] != segment[None, :]).to(q.dtype)  # 1 outside the segment, 0 inside
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1)


def _last_key_lost(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    parts = [
        F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in (sq, sk[:-1], sv[:-1]))).transpose(0, 1)
        for sq, sk, sv in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    ]
    return torch.cat(parts)


def _nan_when_large(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """What an index overflow in the score buffer leaves, at a size that tiny pictures reach."""
    out = attend_segments(q, k, v, lengths)
    return out * torch.nan if max(lengths) ** 2 * q.shape[1] > 2**15 else out


def _rope_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Neighbouring channels are a pair, not channels half a head apart."""
    even, odd = x[..., ::2], x[..., 1::2]
    return x * cos + torch.stack([-odd, even], dim=-1).flatten(-2) * sin


def _not_turned(x: Tensor, _cos: Tensor, _sin: Tensor) -> Tensor:
    return x


def _turned_backwards(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return apply_rotary(x, cos, -sin)


def _with_eps(eps: float) -> Callable[[nn.LayerNorm, Tensor], Tensor]:
    return lambda norm, x: F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, eps)


def _without_bias(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, None, norm.eps)


def _as_rms_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Without taking the mean off."""
    return F.rms_norm(x, norm.normalized_shape, norm.weight, norm.eps) + norm.bias


def _in_bfloat16(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return rounded(norm(rounded(x, torch.bfloat16)), torch.bfloat16)


def _mlp(activation: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    return replaced(VisionMLP, "forward", lambda self, x: self.linear_fc2(activation(self.linear_fc1(x))))


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _mlp_without_bias(_original: Any, self: VisionMLP, x: Tensor) -> Tensor:
    return F.linear(F.gelu(self.linear_fc1(x), approximate="tanh"), self.linear_fc2.weight)


def _linear_without_bias(layer: str) -> Callable[..., Tensor]:
    """VisionAttention.forward with the bias of one of its layers left out."""

    def forward(original: Any, self: VisionAttention, *args: Any) -> Tensor:
        with replaced(getattr(self, layer), "_parameters", {**getattr(self, layer)._parameters, "bias": None}):
            return original(self, *args)

    return forward


def _head_3(x: Tensor, _block: int) -> Tensor:
    """(N, H, D): head 3, or the last one, has the values of head 0."""
    x = x.clone()
    x[:, min(3, x.shape[1] - 1)] = x[:, 0]
    return x


def _last_patch(x: Tensor, block: int) -> Tensor:
    x = x.clone()
    x[-1] = x[-2]
    return x


def _from_block(first: int, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor, int], Tensor]:
    return lambda x, block: change(x) if block >= first else x


def _block(id: str, title: str, seam: str, plant: Any, needs: frozenset[str] = PICTURE, **more: Any) -> Mutant:
    component = more.pop("component", "vision-attn")
    return Mutant(
        id=id, title=title, component=component, seam="vision.blocks." + seam, step="prefill, *", plant=plant,
        needs=needs, **more,
    )  # fmt: skip


MUTANTS = [
    _block(
        "vision-norm1-eps",
        "eps 1e-5 in the first norm of a block",
        "{}.norm1",
        Block(norm1=_with_eps(1e-5)).planted,
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    _block(
        "vision-norm1-without-bias",
        "the first norm of a block has no bias",
        "{}.norm1",
        Block(norm1=_without_bias).planted,
    ),
    _block("vision-norm1-rms", "an RMS norm in place of the first norm", "{}.norm1", Block(norm1=_as_rms_norm).planted),
    _block(
        "vision-norm1-in-bf16",
        "the first norm of a block is computed in bfloat16",
        "{}.norm1",
        Block(norm1=_in_bfloat16).planted,
        dtypes=(FLOAT32,),
        invisible="bfloat16: nothing is rounded that was not rounded before",
    ),
    _block(
        "vision-qkv-without-bias",
        "the bias of q, k and v is dropped",
        "{}.attn.qkv",
        lambda: around(VisionAttention, "forward", _linear_without_bias("qkv")),
    ),
    _block(
        "vision-qkv-of-one-patch",
        "the last patch has its neighbour's q, k and v",
        "{}.attn.qkv",
        lambda: altered("vision.blocks.{}.attn.qkv", _last_patch),
    ),
    _block(
        "vision-qkv-order",
        "q, k and v are taken in the order k, q, v",
        "{}.attn.q_rope",
        Attention(split=lambda qkv, h, d: qkv.view(-1, 3, h, d)[:, [1, 0, 2]].unbind(1)).planted,
    ),
    _block(
        "vision-qkv-head-major",
        "q, k and v of each head are taken to lie together",
        "{}.attn.q_rope",
        Attention(split=lambda qkv, h, d: qkv.view(-1, h, 3, d).unbind(2)).planted,
    ),
    _block(
        "vision-rope-interleaved-pairs",
        "q and k turn in pairs of neighbouring channels",
        "{}.attn.q_rope",
        Attention(turn_q=_rope_pairs, turn_k=_rope_pairs).planted,
    ),
    _block("vision-k-not-turned", "k is not turned", "{}.attn.k_rope", Attention(turn_k=_not_turned).planted),
    _block(
        "vision-k-turned-backwards", "k turns backwards", "{}.attn.k_rope", Attention(turn_k=_turned_backwards).planted
    ),
    _block(
        "vision-k-head-3",
        "head 3 has the keys of head 0",
        "{}.attn.k_rope",
        lambda: altered("vision.blocks.{}.attn.k_rope", _head_3),
    ),
    _block("vision-v-turned", "v is turned too", "{}.attn.context", Attention(turn_v=apply_rotary).planted),
    _block(
        "vision-attention-unscaled", "scores are not scaled", "{}.attn.context", Attention(attend=_unscaled).planted
    ),
    _block(
        "vision-last-key-lost",
        "no patch sees the last one of its segment",
        "{}.attn.context",
        Attention(attend=_last_key_lost).planted,
    ),
    _block(
        "vision-heads-merged-transposed",
        "channels of all heads interleaved where heads are joined",
        "{}.attn.context",
        Attention(merge_heads=lambda context: context.transpose(1, 2).flatten(1)).planted,
    ),
    _block(
        "vit-nan-in-large-pictures",
        "NaN where a score buffer grows large (the effect of an index overflow)",
        "{}.attn.context",
        Attention(attend=_nan_when_large).planted,
        frozenset({"large picture"}),
    ),
    _block(
        "vit-causal-attention",
        "patches see earlier patches only",
        "{}.attn.context",
        Attention(attend=_causal).planted,
        real=True,
        source="mistral.rs, 4f50f6eca (#1869)",
    ),
    _block(
        "vit-split-lengths-as-cut-points",
        "segment lengths are taken for cut points",
        "{}.attn.context",
        Attention(attend=_cut_at_lengths).planted,
        frozenset({"unequal segments"}),
        real=True,
        source="mlx-vlm, d3019406 -> 9ce158f3 (#569)",
    ),
    _block(
        "vit-additive-ones-mask",
        "other segments get 1 added to their scores, not minus infinity",
        "{}.attn.context",
        Attention(attend=_additive_ones).planted,
        SEGMENTS,
        real=True,
        source="mlx-vlm, 79fddfc5 (#704)",
    ),
    _block(
        "vision-proj-without-bias",
        "the output projection has no bias",
        "{}.attn.out",
        lambda: around(VisionAttention, "forward", _linear_without_bias("proj")),
    ),
    _block(
        "vision-norm2-eps",
        "eps 1e-5 in the second norm of a block",
        "{}.norm2",
        Block(norm2=_with_eps(1e-5)).planted,
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    _block(
        "vision-norm2-without-bias",
        "the second norm of a block has no bias",
        "{}.norm2",
        Block(norm2=_without_bias).planted,
    ),
    _block(
        "vision-mlp-quick-gelu",
        "quick GELU in the vision MLP",
        "{}.mlp.out",
        lambda: _mlp(_quick_gelu),
        real=True,
        source="mlx-vlm f6ba0b5b -> 02a33e26; mistral.rs default",
    ),
    _block(
        "vision-mlp-erf-gelu",
        "exact GELU in the vision MLP",
        "{}.mlp.out",
        lambda: _mlp(F.gelu),
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the MLP itself",
    ),
    _block(
        "vision-mlp-without-bias",
        "the second layer of the vision MLP has no bias",
        "{}.mlp.out",
        lambda: around(VisionMLP, "forward", _mlp_without_bias),
    ),
    _block(
        "vision-mlp-of-last-blocks",
        "the MLP of block 3 and later is scaled by 1.1",
        "3.mlp.out",
        lambda: altered("vision.blocks.{}.mlp.out", _from_block(3, lambda x: x * 1.1)),
    ),
    _block(
        "vision-residual-of-normed",
        "the MLP is added to its normed input",
        "{}.out",
        Block(second_residual=lambda x, normed: normed).planted,
    ),
    _block(
        "vision-residual-dropped",
        "the MLP's output replaces the stream",
        "{}.out",
        Block(second_residual=lambda x, normed: torch.zeros_like(x)).planted,
    ),
]
