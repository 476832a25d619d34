"""Mistakes inside the vision blocks.

Shape legend
    N, C      patches, hidden_size of the tower
    H, D, L   heads, head width, patches of a segment
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity.mutants.arithmetic import copied, pairs_rotated, rounded
from parity.mutants.base import FLOAT32, PICTURE, altered, around, family, replaced
from port.kernels import FastKernels, PlainKernels
from port.layers import apply_rotary
from port.vision import PatchMerger, VisionAttention, VisionBlock, VisionMLP, attend_segments


@dataclass(frozen=True, kw_only=True)
class Block:
    """A vision block whose parts can be replaced. The defaults compute what the port's own block computes."""

    norm1: Callable[[nn.LayerNorm, Tensor], Tensor] = lambda norm, x: norm(x)
    norm2: Callable[[nn.LayerNorm, Tensor], Tensor] = lambda norm, x: norm(x)
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
    """Vision attention whose parts can be replaced. ``split`` turns (N, 3 * C) into q, k and v, each (N, H, D)."""

    split: Callable[[Tensor, int, int], tuple[Tensor, ...]] = lambda qkv, h, d: qkv.view(-1, 3, h, d).unbind(1)
    rotate_q: Callable[..., Tensor] = apply_rotary
    rotate_k: Callable[..., Tensor] = apply_rotary
    rotate_v: Callable[..., Tensor] = lambda v, cos, sin: v
    attend: Callable[..., Tensor] = attend_segments
    merge_heads: Callable[[Tensor], Tensor] = lambda context: context.flatten(1)

    def forward(self, attn: VisionAttention, x: Tensor, cos: Tensor, sin: Tensor, lengths: list[int]) -> Tensor:
        q, k, v = self.split(attn.tap("qkv", attn.qkv(x)), attn.num_heads, attn.head_dim)
        q = attn.tap("q_rope", self.rotate_q(q.to(cos.dtype), cos, sin).to(x.dtype))
        k = attn.tap("k_rope", self.rotate_k(k.to(cos.dtype), cos, sin).to(x.dtype))
        v = self.rotate_v(v.to(cos.dtype), cos, sin).to(x.dtype)
        context = self.merge_heads(self.attend(q, k, v, lengths))
        return attn.tap("out", attn.proj(attn.tap("context", context)))

    def planted(self) -> AbstractContextManager[None]:
        return replaced(VisionAttention, "forward", lambda attn, *args: self.forward(attn, *args))


Segment = tuple[Tensor, Tensor, Tensor]


def _segments(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Iterator[Segment]:
    """q, k and v of each segment."""
    return zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)


def _attend(segments: Iterable[Segment], **options: Any) -> Tensor:
    """Attention within each segment; the contexts (N, H, D) of all segments."""
    parts = []
    for segment in segments:
        q, k, v = (x.transpose(0, 1) for x in segment)
        parts.append(F.scaled_dot_product_attention(q, k, v, **options).transpose(0, 1))
    return torch.cat(parts)


def _causal(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    return _attend(_segments(q, k, v, lengths), is_causal=True)


def _unscaled(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    return _attend(_segments(q, k, v, lengths), scale=1.0)


def _cut_at_lengths(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    parts = zip(*(x.tensor_split(lengths) for x in (q, k, v)), strict=True)
    return _attend((sq, sk, sv) for sq, sk, sv in parts if len(sq))


def _additive_ones(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    segment = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    mask = (segment[:, None] != segment[None, :]).to(q.dtype)  # 1 outside the segment, 0 inside
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1)


def _last_key_lost(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    return _attend((sq, sk[:-1], sv[:-1]) for sq, sk, sv in _segments(q, k, v, lengths))


def _nan_when_large(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """The effect of an index overflow in the score buffer, at a size that tiny pictures reach."""
    out = attend_segments(q, k, v, lengths)
    return out * torch.nan if max(lengths) ** 2 * q.shape[1] > 2**15 else out


def _not_rotated(x: Tensor, _cos: Tensor, _sin: Tensor) -> Tensor:
    return x


def _rotated_backwards(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return apply_rotary(x, cos, -sin)


def _with_eps(eps: float) -> Callable[[nn.LayerNorm, Tensor], Tensor]:
    return lambda norm, x: F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, eps)


def _without_bias(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, None, norm.eps)


def _as_rms_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Without subtracting the mean."""
    return F.rms_norm(x, norm.normalized_shape, norm.weight, norm.eps) + norm.bias


def _in_bfloat16(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return rounded(norm(rounded(x, torch.bfloat16)), torch.bfloat16)


def _mlp(activation: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    return replaced(VisionMLP, "forward", lambda self, x: self.linear_fc2(activation(self.linear_fc1(x))))


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _from_a_table(original: Any, x: Tensor, **_approximate: str) -> Tensor:
    return rounded(original(rounded(x, torch.float16), approximate="tanh"), torch.float16)


@contextmanager
def _gelu_from_a_table() -> Iterator[None]:
    """Within the MLP and the mergers, whatever they do otherwise."""

    def forward(original: Any, self: nn.Module, x: Tensor) -> Tensor:
        with around(F, "gelu", _from_a_table):
            out: Tensor = original(self, x)
        return out

    with (
        around(VisionMLP, "forward", forward),
        around(PatchMerger, "forward", forward),
        replaced(FastKernels, "gelu_tanh", PlainKernels.gelu_tanh),  # which calls F.gelu
    ):
        yield


def _mlp_without_bias(_original: Any, self: VisionMLP, x: Tensor) -> Tensor:
    return F.linear(F.gelu(self.linear_fc1(x), approximate="tanh"), self.linear_fc2.weight)


def _linear_without_bias(layer: str) -> Callable[..., Tensor]:
    """VisionAttention.forward without the bias of one of its linear layers."""

    def forward(original: Any, self: VisionAttention, *args: Any) -> Tensor:
        with replaced(getattr(self, layer), "_parameters", {**getattr(self, layer)._parameters, "bias": None}):
            return original(self, *args)

    return forward


def _head_3(x: Tensor, _block: int) -> Tensor:
    """(N, H, D): head 3, or the last one of fewer heads, has the values of head 0."""
    return copied(x, to=min(3, x.shape[1] - 1), of=0, dim=1)


def _last_patch(x: Tensor, _block: int) -> Tensor:
    return copied(x, to=-1, of=-2)


def _from_block(first: int, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor, int], Tensor]:
    return lambda x, block: change(x) if block >= first else x


_BLOCK: dict[str, Any] = {"component": "vision-attn", "step": "prefill, *", "needs": PICTURE}
block = family(**_BLOCK)
norm1 = family(**_BLOCK, seam="vision.blocks.{}.norm1")
q_rope = family(**_BLOCK, seam="vision.blocks.{}.attn.q_rope")
k_rope = family(**_BLOCK, seam="vision.blocks.{}.attn.k_rope")
context = family(**_BLOCK, seam="vision.blocks.{}.attn.context")
mlp = family(**_BLOCK, seam="vision.blocks.{}.mlp.out")

MUTANTS = [
    norm1(
        "vision-norm1-eps",
        "the first norm of a block uses eps 1e-5",
        Block(norm1=_with_eps(1e-5)).planted,
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    norm1("vision-norm1-without-bias", "the first norm of a block has no bias", Block(norm1=_without_bias).planted),
    norm1("vision-norm1-rms", "the first norm of a block is an RMS norm", Block(norm1=_as_rms_norm).planted),
    norm1(
        "vision-norm1-in-bf16",
        "the first norm of a block is computed in bfloat16",
        Block(norm1=_in_bfloat16).planted,
        dtypes=(FLOAT32,),
        invisible="bfloat16: the norm's input and output are bfloat16 anyway",
    ),
    block(
        "vision-qkv-without-bias",
        "q, k and v have no bias",
        lambda: around(VisionAttention, "forward", _linear_without_bias("qkv")),
        seam="vision.blocks.{}.attn.qkv",
    ),
    block(
        "vision-qkv-of-one-patch",
        "the last patch has the q, k and v of its neighbour",
        lambda: altered("vision.blocks.{}.attn.qkv", _last_patch),
        seam="vision.blocks.{}.attn.qkv",
    ),
    q_rope(
        "vision-qkv-order",
        "q and k are swapped",
        Attention(split=lambda qkv, h, d: qkv.view(-1, 3, h, d)[:, [1, 0, 2]].unbind(1)).planted,
    ),
    q_rope(
        "vision-qkv-head-major",
        "the qkv output is split as if q, k and v of each head were adjacent",
        Attention(split=lambda qkv, h, d: qkv.view(-1, h, 3, d).unbind(2)).planted,
    ),
    q_rope(
        "vision-rope-interleaved-pairs",
        "neighbouring channels of q and k are rotated as pairs",
        Attention(rotate_q=pairs_rotated, rotate_k=pairs_rotated).planted,
    ),
    k_rope("vision-k-not-turned", "rotary is not applied to k", Attention(rotate_k=_not_rotated).planted),
    k_rope(
        "vision-k-turned-backwards",
        "k is rotated in the other direction",
        Attention(rotate_k=_rotated_backwards).planted,
    ),
    k_rope(
        "vision-k-head-3",
        "head 3 has the keys of head 0",
        lambda: altered("vision.blocks.{}.attn.k_rope", _head_3),
    ),
    context("vision-v-turned", "rotary is applied to v too", Attention(rotate_v=apply_rotary).planted),
    context("vision-attention-unscaled", "attention scores are not scaled", Attention(attend=_unscaled).planted),
    context(
        "vision-last-key-lost",
        "no patch attends to the last patch of its segment",
        Attention(attend=_last_key_lost).planted,
    ),
    context(
        "vision-heads-merged-transposed",
        "heads are interleaved channel by channel when they are joined",
        Attention(merge_heads=lambda context: context.transpose(1, 2).flatten(1)).planted,
    ),
    context(
        "vit-nan-in-large-pictures",
        "attention over large pictures gives NaN, as after an index overflow",
        Attention(attend=_nan_when_large).planted,
        needs=frozenset({"large picture"}),
    ),
    context(
        "vit-causal-attention",
        "patches do not attend to later patches",
        Attention(attend=_causal).planted,
        real=True,
        source="mistral.rs, 4f50f6eca (#1869)",
    ),
    context(
        "vit-split-lengths-as-cut-points",
        "segment lengths are used as cut points",
        Attention(attend=_cut_at_lengths).planted,
        needs=frozenset({"unequal segments"}),
        real=True,
        source="mlx-vlm, d3019406 -> 9ce158f3 (#569)",
    ),
    context(
        "vit-additive-ones-mask",
        "scores of other segments get 1 added instead of minus infinity",
        Attention(attend=_additive_ones).planted,
        needs=frozenset({"segments"}),
        real=True,
        source="mlx-vlm, 79fddfc5 (#704)",
    ),
    block(
        "vision-proj-without-bias",
        "the output projection has no bias",
        lambda: around(VisionAttention, "forward", _linear_without_bias("proj")),
        seam="vision.blocks.{}.attn.out",
    ),
    block(
        "vision-norm2-eps",
        "the second norm of a block uses eps 1e-5",
        Block(norm2=_with_eps(1e-5)).planted,
        seam="vision.blocks.{}.norm2",
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    block(
        "vision-norm2-without-bias",
        "the second norm of a block has no bias",
        Block(norm2=_without_bias).planted,
        seam="vision.blocks.{}.norm2",
    ),
    mlp(
        "vision-gelu-from-float16-table",
        "every GELU, also that of the mergers, is the tanh approximation, from a table of float16",
        _gelu_from_a_table,
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the MLP itself",
        real=True,
        source="llama.cpp b11434, GGML_GELU_FP16, found by its log-probabilities",
    ),
    mlp(
        "vision-mlp-quick-gelu",
        "the vision MLP uses quick GELU",
        lambda: _mlp(_quick_gelu),
        real=True,
        source="mlx-vlm f6ba0b5b -> 02a33e26; mistral.rs default",
    ),
    mlp(
        "vision-mlp-erf-gelu",
        "the vision MLP uses exact GELU",
        lambda: _mlp(F.gelu),
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the MLP itself",
    ),
    mlp(
        "vision-mlp-without-bias",
        "the second layer of the vision MLP has no bias",
        lambda: around(VisionMLP, "forward", _mlp_without_bias),
    ),
    block(
        "vision-mlp-of-last-blocks",
        "the MLP of block 3 and later is scaled by 1.1",
        lambda: altered("vision.blocks.{}.mlp.out", _from_block(3, lambda x: x * 1.1)),
        seam="vision.blocks.3.mlp.out",
    ),
    block(
        "vision-residual-of-normed",
        "the MLP's output is added to its normed input instead of the residual stream",
        Block(second_residual=lambda x, normed: normed).planted,
        seam="vision.blocks.{}.out",
    ),
    block(
        "vision-residual-dropped",
        "the MLP's output replaces the residual stream",
        Block(second_residual=lambda x, normed: torch.zeros_like(x)).planted,
        seam="vision.blocks.{}.out",
    ),
]
