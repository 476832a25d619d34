"""Mistakes inside the decoder layers, in the final norm and in the logits.

Shape legend
    B, S, T   batch, new tokens, all tokens so far
    C, V      hidden_size, vocabulary
    H, K, D   query heads, kv heads, head_dim
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.mutants.arithmetic import copied, pairs_rotated, rounded
from parity.mutants.base import BATCH, FLOAT32, FORWARD, altered, around, family, replaced
from port.kernels import Mask
from port.layers import RMSNorm, apply_rotary, rotate_half, together
from port.model import Qwen3VL
from port.text import DecoderLayer, TextAttention, TextMLP, TextModel


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, _attn: TextAttention) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Attention whose parts can be replaced. The defaults compute what the port's own attention computes.

    ``norm_q`` and ``norm_k`` get (attention, x (B, S, heads, D)); ``rotate_q``, ``rotate_k`` and ``rotate_v`` get
    (x, cos, sin).
    """

    norm_q: Callable[[TextAttention, Tensor], Tensor] = lambda attn, q: attn.q_norm(q)
    norm_k: Callable[[TextAttention, Tensor], Tensor] = lambda attn, k: attn.k_norm(k)
    rotate_q: Callable[..., Tensor] | None = None
    rotate_k: Callable[..., Tensor] | None = None
    rotate_v: Callable[..., Tensor] = lambda v, cos, sin: v
    attend: Callable[..., Tensor] | None = None
    merge_heads: Callable[[Tensor], Tensor] = lambda context: context.transpose(1, 2).flatten(2)
    project: Callable[[TextAttention, Tensor], Tensor] = lambda attn, context: attn.o_proj(context)

    def forward(self, attn: TextAttention, x: Tensor, cos: Tensor, sin: Tensor, mask: Mask, cache: Any) -> Tensor:
        heads = (*x.shape[:2], -1, attn.head_dim)
        q, k, v = together(attn.kernels, x, attn.q_proj, attn.k_proj, attn.v_proj)
        q = attn.tap("q_norm", self.norm_q(attn, q.view(heads)))
        k = attn.tap("k_norm", self.norm_k(attn, k.view(heads)))
        v = attn.tap("v", v.view(heads))
        q = attn.tap("q_rope", (self.rotate_q or attn.kernels.rotary)(q, cos, sin)).transpose(1, 2)
        k = attn.tap("k_rope", (self.rotate_k or attn.kernels.rotary)(k, cos, sin)).transpose(1, 2)
        v = self.rotate_v(v, cos, sin).transpose(1, 2)
        if cache is not None:
            k, v = cache.update(attn.layer, k, v)
        k, v = attn.tap("k_cache", k), attn.tap("v_cache", v)
        if self.attend is None:
            context = self.merge_heads(attn.kernels.attention(q, k, v, mask))
        else:
            context = self.merge_heads(self.attend(q, k, v, mask.seen, attn))
        return attn.tap("out", self.project(attn, attn.tap("context", context)))

    def planted(self) -> AbstractContextManager[None]:
        return replaced(TextAttention, "forward", lambda attn, *args: self.forward(attn, *args))


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A decoder layer whose parts can be replaced.

    ``second_norm`` gets (layer, stream, stream before attention), ``second_residual`` (stream, normed stream).
    """

    input_norm: Callable[[RMSNorm, Tensor], Tensor] = lambda norm, x: norm(x)
    second_norm: Callable[[DecoderLayer, Tensor, Tensor], Tensor] = lambda layer, x, before: (
        layer.post_attention_layernorm(x)
    )
    second_residual: Callable[[Tensor, Tensor], Tensor] = lambda x, normed: x

    def forward(self, layer: DecoderLayer, x: Tensor, *rest: Any) -> Tensor:
        before = x
        x = x + layer.self_attn(layer.tap("input_norm", self.input_norm(layer.input_layernorm, x)), *rest)
        normed = layer.tap("post_attention_norm", self.second_norm(layer, x, before))
        x = self.second_residual(x, normed) + layer.tap("mlp.out", layer.mlp(normed))
        return layer.tap("out", x)

    def planted(self) -> AbstractContextManager[None]:
        return replaced(DecoderLayer, "forward", lambda layer, *args: self.forward(layer, *args))


def _rms_with(norm: RMSNorm, x: Tensor, *, eps: float | None = None, weight: Tensor | None = None) -> Tensor:
    y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + (norm.eps if eps is None else eps))
    return (norm.weight if weight is None else weight) * y


def _one_plus(norm: RMSNorm, x: Tensor) -> Tensor:
    """1 is added to the weights, as in Gemma."""
    return _rms_with(norm, x, weight=1 + norm.weight)


def _mean_subtracted(norm: RMSNorm, x: Tensor) -> Tensor:
    return _rms_with(norm, x - x.mean(-1, keepdim=True))


def _over_all_heads(norm: RMSNorm, x: Tensor) -> Tensor:
    """One root mean square for all heads of a token instead of one per head."""
    return norm.weight * x * torch.rsqrt(x.pow(2).mean((-2, -1), keepdim=True) + norm.eps)


def _rotate_half_sign(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * cos - rotate_half(x) * sin


def _scale_of(width: Callable[[TextAttention], int]) -> Callable[..., Tensor]:
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, attn: TextAttention) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True, scale=width(attn) ** -0.5)

    return attend


def _hidden_over_heads(attn: TextAttention) -> int:
    return attn.q_proj.in_features // (attn.q_proj.out_features // attn.head_dim)


def _tiled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, _attn: TextAttention) -> Tensor:
    """kv heads in the order 0, 1, 0, 1, ... instead of 0, 0, ..., 1, 1, ..."""
    groups = q.shape[1] // k.shape[1]
    return F.scaled_dot_product_attention(q, k.repeat(1, groups, 1, 1), v.repeat(1, groups, 1, 1), attn_mask=mask)


def _first_key_lost(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, attn: TextAttention) -> Tensor:
    """A decode step does not attend to the oldest visible key."""
    if q.shape[2] == 1:
        mask = mask & (mask.cumsum(-1) > 1)
    return _attend(q, k, v, mask, attn)


def _scores_in_bfloat16(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, attn: TextAttention) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = rounded(q @ k.transpose(-1, -2) * attn.head_dim**-0.5, torch.bfloat16)
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v


def _head_3(context: Tensor) -> Tensor:
    """(B, H, S, D) -> (B, S, H * D), head 3 with the values of head 0."""
    return copied(context, to=3, of=0, dim=1).transpose(1, 2).flatten(2)


def _in_bfloat16(attn: TextAttention, context: Tensor) -> Tensor:
    return F.linear(rounded(context, torch.bfloat16), rounded(attn.o_proj.weight, torch.bfloat16))


def _mlp(change: Callable[[Tensor, Tensor], Tensor]) -> AbstractContextManager[None]:
    """``change(gate, up)`` is the input of the down projection."""
    return replaced(TextMLP, "forward", lambda self, x: self.down_proj(change(self.gate_proj(x), self.up_proj(x))))


def _row_1(value: Tensor, *_numbers: int) -> Tensor:
    """Every row but the first is scaled by 1.1."""
    scale = torch.ones(len(value), dtype=value.dtype)
    scale[1:] = 1.1
    return value * scale.view(-1, *[1] * (value.ndim - 1))


def _one_token(value: Tensor, *_numbers: int) -> Tensor:
    """The last token of each row has the values of the one before it."""
    return copied(value, to=-1, of=-2, dim=1) if value.shape[1] > 1 else value


def _final_norm(change: Callable[[RMSNorm, Tensor], Tensor]) -> AbstractContextManager[None]:
    """``change(norm, x)`` is the result of the norm after the last layer."""

    def forward(original: Any, model: TextModel, *args: Any, **options: Any) -> Tensor:
        def only(inner: Any, module: RMSNorm, x: Tensor) -> Tensor:
            return change(module, x) if module is model.norm else inner(module, x)

        with around(RMSNorm, "forward", only):
            return original(model, *args, **options)

    return around(TextModel, "forward", forward)


def _logits(change: Callable[[Qwen3VL, Tensor], Tensor]) -> AbstractContextManager[None]:
    """``change(model, hidden)`` are the logits."""
    return replaced(Qwen3VL, "logits", lambda self, hidden: self.tap("logits", change(self, hidden)))


def _embedding_as_head(model: Qwen3VL, hidden: Tensor) -> Tensor:
    return F.linear(hidden, model.model.language_model.embed_tokens.weight)


def _capped(model: Qwen3VL, hidden: Tensor) -> Tensor:
    logits = F.linear(hidden, model.output_weight())
    return 30 * torch.tanh(logits / 30)


def _head_in_bfloat16(model: Qwen3VL, hidden: Tensor) -> Tensor:
    return rounded(F.linear(hidden, model.output_weight()), torch.bfloat16)


attention = family(component="text-attn", step="prefill", needs=FORWARD)
context = family(component="text-attn", seam="text.layers.{}.attn.context", step="prefill", needs=FORWARD)
rope = family(component="text-rope", step="prefill", needs=FORWARD)
mlp = family(component="text-mlp", step="prefill", needs=FORWARD)
final_norm = family(component="lm-head", seam="text.norm", step="prefill", needs=FORWARD)
logits = family(component="lm-head", seam="logits", step="prefill", needs=FORWARD)

MUTANTS = [
    attention(
        "text-input-norm-eps",
        "the input norm uses eps 1e-5",
        Layer(input_norm=lambda n, x: _rms_with(n, x, eps=1e-5)).planted,
        seam="text.layers.{}.input_norm",
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    attention(
        "text-input-norm-one-plus",
        "1 is added to the weights of the input norm, as in Gemma",
        Layer(input_norm=_one_plus).planted,
        seam="text.layers.{}.input_norm",
    ),
    attention(
        "text-input-norm-mean-off",
        "the input norm subtracts the mean",
        Layer(input_norm=_mean_subtracted).planted,
        seam="text.layers.{}.input_norm",
    ),
    attention(
        "text-q-norm-eps",
        "the norm of q uses eps 1e-5",
        Attention(norm_q=lambda a, q: _rms_with(a.q_norm, q, eps=1e-5)).planted,
        seam="text.layers.{}.attn.q_norm",
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    attention(
        "text-q-norm-over-all-heads",
        "q is normalised over all heads at once",
        Attention(norm_q=lambda a, q: _over_all_heads(a.q_norm, q)).planted,
        seam="text.layers.{}.attn.q_norm",
    ),
    attention(
        "text-q-not-normed",
        "q is not normalised",
        Attention(norm_q=lambda a, q: q).planted,
        seam="text.layers.{}.attn.q_norm",
    ),
    attention(
        "text-k-norm-with-q-weights",
        "k is normalised with the weights for q",
        Attention(norm_k=lambda a, k: a.q_norm(k)).planted,
        seam="text.layers.{}.attn.k_norm",
    ),
    attention(
        "text-k-norm-over-all-heads",
        "k is normalised over all heads at once",
        Attention(norm_k=lambda a, k: _over_all_heads(a.k_norm, k)).planted,
        seam="text.layers.{}.attn.k_norm",
    ),
    attention(
        "text-v-of-one-token",
        "the last token has the v of the token before",
        lambda: altered("text.layers.{}.attn.v", _one_token),
        seam="text.layers.{}.attn.v",
    ),
    attention(
        "text-v-normed",
        "v is normalised too",
        lambda: altered("text.layers.{}.attn.v", lambda v, _layer: F.rms_norm(v, v.shape[-1:])),
        seam="text.layers.{}.attn.v",
    ),
    rope(
        "text-rope-pairs",
        "neighbouring channels of q and k are rotated as pairs",
        Attention(rotate_q=pairs_rotated, rotate_k=pairs_rotated).planted,
        seam="text.layers.{}.attn.q_rope",
    ),
    rope(
        "text-rotate-half-sign",
        "rotate_half has the wrong sign",
        Attention(rotate_q=_rotate_half_sign, rotate_k=_rotate_half_sign).planted,
        seam="text.layers.{}.attn.q_rope",
    ),
    rope(
        "text-k-not-turned",
        "rotary is not applied to k",
        Attention(rotate_k=lambda k, cos, sin: k).planted,
        seam="text.layers.{}.attn.k_rope",
    ),
    rope(
        "text-k-turned-twice",
        "rotary is applied to k twice",
        Attention(rotate_k=lambda k, cos, sin: apply_rotary(apply_rotary(k, cos, sin), cos, sin)).planted,
        seam="text.layers.{}.attn.k_rope",
    ),
    rope(
        "text-v-turned",
        "rotary is applied to v too",
        Attention(rotate_v=apply_rotary).planted,
        seam="text.layers.{}.attn.v_cache",
    ),
    context(
        "head-dim-derived-from-hidden",
        "attention scores are scaled by hidden_size / heads instead of head_dim",
        Attention(attend=_scale_of(_hidden_over_heads)).planted,
        real=True,
        source="ApxInf #56; mistral.rs 530463af1 text.rs",
    ),
    context(
        "text-attention-unscaled",
        "attention scores are not scaled",
        Attention(attend=_scale_of(lambda attn: 1)).planted,
    ),
    context(
        "text-gqa-tiled",
        "kv heads are tiled instead of repeated",
        Attention(attend=_tiled).planted,
        needs=frozenset({"grouped heads"}),
    ),
    context(
        "text-first-key-lost-in-decode",
        "a decode step does not attend to the oldest token",
        Attention(attend=_first_key_lost).planted,
        step="decode 1",
    ),
    context(
        "text-scores-in-bf16",
        "attention scores are rounded to bfloat16",
        Attention(attend=_scores_in_bfloat16).planted,
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of attention itself",
    ),
    context("text-head-3", "head 3 has the values of head 0", Attention(merge_heads=_head_3).planted),
    context(
        "text-heads-merged-transposed",
        "heads are joined without being transposed back first",
        Attention(merge_heads=lambda context: context.reshape(context.shape[0], context.shape[2], -1)).planted,
    ),
    attention(
        "text-o-proj-in-bf16",
        "the output projection is computed in bfloat16",
        Attention(project=_in_bfloat16).planted,
        seam="text.layers.{}.attn.out",
        dtypes=(FLOAT32,),
        invisible="bfloat16: it is bfloat16 anyway",
    ),
    attention(
        "text-attn-out-of-later-rows",
        "attention output is scaled by 1.1 in every row but the first",
        lambda: altered("text.layers.{}.attn.out", _row_1),
        component="batch",
        seam="text.layers.{}.attn.out",
        needs=BATCH,
    ),
    attention(
        "text-second-norm-of-residual",
        "the second norm reads the residual stream before attention is added",
        Layer(second_norm=lambda layer, x, before: layer.post_attention_layernorm(before)).planted,
        seam="text.layers.{}.post_attention_norm",
    ),
    attention(
        "text-second-norm-weights",
        "the second norm uses the weights of the input norm",
        Layer(second_norm=lambda layer, x, before: layer.input_layernorm(x)).planted,
        seam="text.layers.{}.post_attention_norm",
    ),
    attention(
        "text-second-norm-eps",
        "the second norm uses eps 1e-5",
        Layer(second_norm=lambda layer, x, before: _rms_with(layer.post_attention_layernorm, x, eps=1e-5)).planted,
        seam="text.layers.{}.post_attention_norm",
        needs=frozenset({"faint stream"}),
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    mlp(
        "text-mlp-gelu",
        "the MLP uses GELU instead of SiLU",
        lambda: _mlp(lambda gate, up: F.gelu(gate) * up),
        seam="text.layers.{}.mlp.out",
    ),
    mlp(
        "text-mlp-gate-up-swapped",
        "gate and up are swapped",
        lambda: _mlp(lambda gate, up: gate * F.silu(up)),
        seam="text.layers.{}.mlp.out",
    ),
    mlp(
        "text-mlp-of-the-last-layer",
        "the last layer's MLP is scaled by 1.1",
        lambda: altered("text.layers.4.mlp.out", lambda x: x * 1.1),
        seam="text.layers.4.mlp.out",
        needs=frozenset({"five layers"}),
    ),
    mlp(
        "text-residual-of-normed",
        "the MLP's output is added to its normed input instead of the residual stream",
        Layer(second_residual=lambda x, normed: normed).planted,
        seam="text.layers.{}.out",
    ),
    mlp(
        "text-residual-dropped",
        "the MLP's output replaces the residual stream",
        Layer(second_residual=lambda x, normed: torch.zeros_like(x)).planted,
        seam="text.layers.{}.out",
    ),
    mlp(
        "text-stream-of-the-last-layer",
        "one token has its neighbour's output of the last layer",
        lambda: altered("text.layers.4.out", _one_token),
        seam="text.layers.4.out",
        needs=frozenset({"five layers"}),
    ),
    final_norm("final-norm-skipped", "the final norm is skipped", lambda: _final_norm(lambda norm, x: x)),
    final_norm(
        "final-norm-eps",
        "the final norm uses eps 1e-5",
        lambda: _final_norm(lambda norm, x: _rms_with(norm, x, eps=1e-5)),
        step="*",
        needs=frozenset({"faint stream"}),
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    final_norm(
        "final-norm-without-weight",
        "the final norm has no weight",
        lambda: _final_norm(lambda norm, x: F.rms_norm(x, x.shape[-1:], eps=norm.eps)),
    ),
    logits(
        "logits-of-embedding",
        "an untied model computes logits with the embedding matrix",
        lambda: _logits(_embedding_as_head),
        needs=frozenset({"untied"}),
    ),
    logits("logits-capped", "logits are capped at 30, as in Gemma", lambda: _logits(_capped)),
    logits(
        "logits-in-bf16",
        "logits are rounded to bfloat16",
        lambda: _logits(_head_in_bfloat16),
        dtypes=(FLOAT32,),
        invisible="bfloat16: they are bfloat16 anyway",
    ),
    logits(
        "logits-one-token-late",
        "logits are those of the token before",
        lambda: altered("logits", lambda x: x.roll(1, dims=1)),
    ),
    logits(
        "logits-of-last-vocabulary-row",
        "the logit of the last vocabulary entry is 0",
        lambda: altered("logits", lambda x: torch.cat([x[..., :-1], torch.zeros_like(x[..., -1:])], -1)),
    ),
]
