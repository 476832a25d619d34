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

from parity.mutants.base import FLOAT32, Mutant, altered, around, replaced, rounded
from port.layers import RMSNorm, apply_rotary, rotate_half
from port.model import Qwen3VL
from port.text import DecoderLayer, TextAttention, TextMLP, TextModel

FORWARD, FAINT_STREAM = frozenset({"forward"}), frozenset({"faint stream"})


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, _attn: TextAttention) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Attention written again, with places in which to be wrong; as it stands it is the port's.

    ``norm_q`` and ``norm_k`` get (attention, x (B, S, heads, D)), the turns (x, cos, sin).
    """

    norm_q: Callable[[TextAttention, Tensor], Tensor] = lambda attn, q: attn.q_norm(q)
    norm_k: Callable[[TextAttention, Tensor], Tensor] = lambda attn, k: attn.k_norm(k)
    turn_q: Callable[..., Tensor] = apply_rotary
    turn_k: Callable[..., Tensor] = apply_rotary
    turn_v: Callable[..., Tensor] = lambda v, cos, sin: v
    attend: Callable[..., Tensor] = _attend
    merge_heads: Callable[[Tensor], Tensor] = lambda context: context.transpose(1, 2).flatten(2)
    project: Callable[[TextAttention, Tensor], Tensor] = lambda attn, context: attn.o_proj(context)

    def forward(self, attn: TextAttention, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, cache: Any) -> Tensor:
        heads = (*x.shape[:2], -1, attn.head_dim)
        q = attn.tap("q_norm", self.norm_q(attn, attn.q_proj(x).view(heads)))
        k = attn.tap("k_norm", self.norm_k(attn, attn.k_proj(x).view(heads)))
        v = attn.tap("v", attn.v_proj(x).view(heads))
        q = attn.tap("q_rope", self.turn_q(q, cos, sin)).transpose(1, 2)
        k = attn.tap("k_rope", self.turn_k(k, cos, sin)).transpose(1, 2)
        v = self.turn_v(v, cos, sin).transpose(1, 2)
        if cache is not None:
            k, v = cache.update(attn.layer, k, v)
        k, v = attn.tap("k_cache", k), attn.tap("v_cache", v)
        context = self.merge_heads(self.attend(q, k, v, mask, attn))
        return attn.tap("out", self.project(attn, attn.tap("context", context)))

    def planted(self) -> AbstractContextManager[None]:
        return replaced(TextAttention, "forward", lambda attn, *args: self.forward(attn, *args))


def _rms(norm: RMSNorm, x: Tensor) -> Tensor:
    return norm(x)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A decoder layer written again; ``second_residual`` gets the stream and its normed copy."""

    input_norm: Callable[[RMSNorm, Tensor], Tensor] = _rms
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
    """Weights are taken for differences from 1, as in Gemma."""
    return _rms_with(norm, x, weight=1 + norm.weight)


def _mean_taken_off(norm: RMSNorm, x: Tensor) -> Tensor:
    return _rms_with(norm, x - x.mean(-1, keepdim=True))


def _over_all_heads(norm: RMSNorm, x: Tensor) -> Tensor:
    """One root mean square over all heads of a token, not one a head."""
    return norm.weight * x * torch.rsqrt(x.pow(2).mean((-2, -1), keepdim=True) + norm.eps)


def _rope_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x[..., ::2], x[..., 1::2]
    return x * cos + torch.stack([-odd, even], dim=-1).flatten(-2) * sin


def _rotate_half_sign(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * cos - rotate_half(x) * sin


def _scale_of(width: Callable[[TextAttention], int]) -> Callable[..., Tensor]:
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, attn: TextAttention) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True, scale=width(attn) ** -0.5)

    return attend


def _hidden_over_heads(attn: TextAttention) -> int:
    return attn.q_proj.in_features // (attn.q_proj.out_features // attn.head_dim)


def _tiled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, _attn: TextAttention) -> Tensor:
    """kv heads 0, 1, 0, 1, ..., not 0, 0, ..., 1, 1, ..."""
    groups = q.shape[1] // k.shape[1]
    return F.scaled_dot_product_attention(q, k.repeat(1, groups, 1, 1), v.repeat(1, groups, 1, 1), attn_mask=mask)


def _first_key_lost(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, attn: TextAttention) -> Tensor:
    """The oldest visible key of a decode step is not seen."""
    if q.shape[2] == 1:
        mask = mask & (mask.cumsum(-1) > 1)
    return _attend(q, k, v, mask, attn)


def _scores_in_bfloat16(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, attn: TextAttention) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = rounded(q @ k.transpose(-1, -2) * attn.head_dim**-0.5, torch.bfloat16)
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v


def _head_3(context: Tensor) -> Tensor:
    """(B, H, S, D) -> (B, S, H * D), head 3 with the values of head 0."""
    context = context.clone()
    context[:, 3] = context[:, 0]
    return context.transpose(1, 2).flatten(2)


def _in_bfloat16(attn: TextAttention, context: Tensor) -> Tensor:
    return F.linear(rounded(context, torch.bfloat16), rounded(attn.o_proj.weight, torch.bfloat16))


def _mlp(change: Callable[[Tensor, Tensor], Tensor]) -> AbstractContextManager[None]:
    """``change(gate, up)`` makes what goes into the down projection."""
    return replaced(TextMLP, "forward", lambda self, x: self.down_proj(change(self.gate_proj(x), self.up_proj(x))))


def _row_1(value: Tensor, *_numbers: int) -> Tensor:
    """Every row but the first is scaled by 1.1."""
    scale = torch.ones(len(value), dtype=value.dtype)
    scale[1:] = 1.1
    return value * scale.view(-1, *[1] * (value.ndim - 1))


def _one_token(value: Tensor, *_numbers: int) -> Tensor:
    """The last token of each row has the values of the one before it."""
    if value.shape[1] < 2:
        return value
    value = value.clone()
    value[:, -1] = value[:, -2]
    return value


def _final_norm(change: Callable[[RMSNorm, Tensor], Tensor]) -> AbstractContextManager[None]:
    def forward(original: Any, model: TextModel, *args: Any, **options: Any) -> Tensor:
        def only(inner: Any, module: RMSNorm, x: Tensor) -> Tensor:
            return change(module, x) if module is model.norm else inner(module, x)

        with around(RMSNorm, "forward", only):
            return original(model, *args, **options)

    return around(TextModel, "forward", forward)


def _logits(change: Callable[[Qwen3VL, Tensor], Tensor]) -> AbstractContextManager[None]:
    """``change(model, hidden)`` makes the logits."""
    return replaced(Qwen3VL, "logits", lambda self, hidden: self.tap("logits", change(self, hidden)))


def _embedding_as_head(model: Qwen3VL, hidden: Tensor) -> Tensor:
    return F.linear(hidden, model.model.language_model.embed_tokens.weight)


def _capped(model: Qwen3VL, hidden: Tensor) -> Tensor:
    logits = F.linear(hidden, model.output_weight())
    return 30 * torch.tanh(logits / 30)


def _head_in_bfloat16(model: Qwen3VL, hidden: Tensor) -> Tensor:
    return rounded(F.linear(hidden, model.output_weight()), torch.bfloat16)


def _layer(id: str, title: str, seam: str, plant: Any, needs: frozenset[str] = FORWARD, **more: Any) -> Mutant:
    component, step = more.pop("component", "text-attn"), more.pop("step", "prefill")
    return Mutant(
        id=id, title=title, component=component, seam="text.layers." + seam, step=step, plant=plant, needs=needs,
        **more,
    )  # fmt: skip


def _end(id: str, title: str, seam: str, plant: Any, needs: frozenset[str] = FORWARD, **more: Any) -> Mutant:
    return Mutant(
        id=id, title=title, component="lm-head", seam=seam, step=more.pop("step", "prefill"), plant=plant, needs=needs,
        **more,
    )  # fmt: skip


MUTANTS = [
    _layer(
        "text-input-norm-eps",
        "eps 1e-5 in the input norm",
        "{}.input_norm",
        Layer(input_norm=lambda n, x: _rms_with(n, x, eps=1e-5)).planted,
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    _layer(
        "text-input-norm-one-plus",
        "weights of the input norm are taken for differences from 1",
        "{}.input_norm",
        Layer(input_norm=_one_plus).planted,
    ),
    _layer(
        "text-input-norm-mean-off",
        "the input norm takes the mean off",
        "{}.input_norm",
        Layer(input_norm=_mean_taken_off).planted,
    ),
    _layer(
        "text-q-norm-eps",
        "eps 1e-5 in the norm of q",
        "{}.attn.q_norm",
        Attention(norm_q=lambda a, q: _rms_with(a.q_norm, q, eps=1e-5)).planted,
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    _layer(
        "text-q-norm-over-all-heads",
        "q is normed over all heads at once",
        "{}.attn.q_norm",
        Attention(norm_q=lambda a, q: _over_all_heads(a.q_norm, q)).planted,
    ),
    _layer("text-q-not-normed", "q is not normed", "{}.attn.q_norm", Attention(norm_q=lambda a, q: q).planted),
    _layer(
        "text-k-norm-with-q-weights",
        "k is normed with the weights of q",
        "{}.attn.k_norm",
        Attention(norm_k=lambda a, k: a.q_norm(k)).planted,
    ),
    _layer(
        "text-k-norm-over-all-heads",
        "k is normed over all heads at once",
        "{}.attn.k_norm",
        Attention(norm_k=lambda a, k: _over_all_heads(a.k_norm, k)).planted,
    ),
    _layer(
        "text-v-of-one-token",
        "the last token has the values of the one before it",
        "{}.attn.v",
        lambda: altered("text.layers.{}.attn.v", _one_token),
    ),
    _layer(
        "text-v-normed",
        "v is normed like k",
        "{}.attn.v",
        lambda: altered("text.layers.{}.attn.v", lambda v, _layer: F.rms_norm(v, v.shape[-1:])),
    ),
    _layer(
        "text-rope-pairs",
        "q and k turn in pairs of neighbouring channels",
        "{}.attn.q_rope",
        Attention(turn_q=_rope_pairs, turn_k=_rope_pairs).planted,
        component="text-rope",
    ),
    _layer(
        "text-rotate-half-sign",
        "rotate_half has the other sign",
        "{}.attn.q_rope",
        Attention(turn_q=_rotate_half_sign, turn_k=_rotate_half_sign).planted,
        component="text-rope",
    ),
    _layer(
        "text-k-not-turned",
        "k is not turned",
        "{}.attn.k_rope",
        Attention(turn_k=lambda k, cos, sin: k).planted,
        component="text-rope",
    ),
    _layer(
        "text-k-turned-twice",
        "k is turned twice",
        "{}.attn.k_rope",
        Attention(turn_k=lambda k, cos, sin: apply_rotary(apply_rotary(k, cos, sin), cos, sin)).planted,
        component="text-rope",
    ),
    _layer(
        "text-v-turned",
        "v is turned too",
        "{}.attn.v_cache",
        Attention(turn_v=apply_rotary).planted,
        component="text-rope",
    ),
    _layer(
        "head-dim-derived-from-hidden",
        "scores are scaled by hidden size over heads",
        "{}.attn.context",
        Attention(attend=_scale_of(_hidden_over_heads)).planted,
        real=True,
        source="ApxInf #56; mistral.rs 530463af1 text.rs",
    ),
    _layer(
        "text-attention-unscaled",
        "scores are not scaled",
        "{}.attn.context",
        Attention(attend=_scale_of(lambda attn: 1)).planted,
    ),
    _layer(
        "text-gqa-tiled",
        "kv heads are tiled, not repeated",
        "{}.attn.context",
        Attention(attend=_tiled).planted,
        frozenset({"grouped heads"}),
    ),
    _layer(
        "text-first-key-lost-in-decode",
        "a decode step does not see the oldest token",
        "{}.attn.context",
        Attention(attend=_first_key_lost).planted,
        step="decode 1",
    ),
    _layer(
        "text-scores-in-bf16",
        "scores are rounded to bfloat16",
        "{}.attn.context",
        Attention(attend=_scores_in_bfloat16).planted,
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of attention itself",
    ),
    _layer("text-head-3", "head 3 has the values of head 0", "{}.attn.context", Attention(merge_heads=_head_3).planted),
    _layer(
        "text-heads-merged-transposed",
        "heads are joined before they are put back in place",
        "{}.attn.context",
        Attention(merge_heads=lambda context: context.reshape(context.shape[0], context.shape[2], -1)).planted,
    ),
    _layer(
        "text-o-proj-in-bf16",
        "the output projection is computed in bfloat16",
        "{}.attn.out",
        Attention(project=_in_bfloat16).planted,
        dtypes=(FLOAT32,),
        invisible="bfloat16: it is bfloat16 there",
    ),
    _layer(
        "text-attn-out-of-later-rows",
        "attention of every row but the first is scaled by 1.1",
        "{}.attn.out",
        lambda: altered("text.layers.{}.attn.out", _row_1),
        frozenset({"batch"}),
        component="batch",
    ),
    _layer(
        "text-second-norm-of-residual",
        "the second norm reads the stream before attention was added",
        "{}.post_attention_norm",
        Layer(second_norm=lambda layer, x, before: layer.post_attention_layernorm(before)).planted,
    ),
    _layer(
        "text-second-norm-weights",
        "the second norm has the weights of the input norm",
        "{}.post_attention_norm",
        Layer(second_norm=lambda layer, x, before: layer.input_layernorm(x)).planted,
    ),
    _layer(
        "text-second-norm-eps",
        "eps 1e-5 in the second norm",
        "{}.post_attention_norm",
        Layer(second_norm=lambda layer, x, before: _rms_with(layer.post_attention_layernorm, x, eps=1e-5)).planted,
        FAINT_STREAM,
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    _layer(
        "text-mlp-gelu",
        "GELU in place of SiLU",
        "{}.mlp.out",
        lambda: _mlp(lambda gate, up: F.gelu(gate) * up),
        component="text-mlp",
    ),
    _layer(
        "text-mlp-gate-up-swapped",
        "gate and up are swapped",
        "{}.mlp.out",
        lambda: _mlp(lambda gate, up: gate * F.silu(up)),
        component="text-mlp",
    ),
    _layer(
        "text-mlp-of-the-last-layer",
        "the last layer's MLP is scaled by 1.1",
        "4.mlp.out",
        lambda: altered("text.layers.4.mlp.out", lambda x: x * 1.1),
        frozenset({"five layers"}),
        component="text-mlp",
    ),
    _layer(
        "text-residual-of-normed",
        "the MLP is added to its normed input",
        "{}.out",
        Layer(second_residual=lambda x, normed: normed).planted,
        component="text-mlp",
    ),
    _layer(
        "text-residual-dropped",
        "the MLP's output replaces the stream",
        "{}.out",
        Layer(second_residual=lambda x, normed: torch.zeros_like(x)).planted,
        component="text-mlp",
    ),
    _layer(
        "text-stream-of-the-last-layer",
        "one token of the last layer has the stream of its neighbour",
        "4.out",
        lambda: altered("text.layers.4.out", _one_token),
        frozenset({"five layers"}),
        component="text-mlp",
    ),
    _end("final-norm-skipped", "the final norm is skipped", "text.norm", lambda: _final_norm(lambda norm, x: x)),
    _end(
        "final-norm-eps",
        "eps 1e-5 in the final norm",
        "text.norm",
        lambda: _final_norm(lambda norm, x: _rms_with(norm, x, eps=1e-5)),
        FAINT_STREAM,
        step="*",
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    _end(
        "final-norm-without-weight",
        "the final norm has no weight",
        "text.norm",
        lambda: _final_norm(lambda norm, x: F.rms_norm(x, x.shape[-1:], eps=norm.eps)),
    ),
    _end(
        "logits-of-embedding",
        "the embedding matrix makes the logits of an untied model",
        "logits",
        lambda: _logits(_embedding_as_head),
        frozenset({"untied"}),
    ),
    _end(
        "logits-capped",
        "logits are capped at 30, as in Gemma",
        "logits",
        lambda: _logits(_capped),
    ),
    _end(
        "logits-in-bf16",
        "logits are rounded to bfloat16",
        "logits",
        lambda: _logits(_head_in_bfloat16),
        dtypes=(FLOAT32,),
        invisible="bfloat16: they are bfloat16 there",
    ),
    _end(
        "logits-one-token-late",
        "logits are those of the token before",
        "logits",
        lambda: altered("logits", lambda x: x.roll(1, dims=1)),
        frozenset({"forward"}),
    ),
    _end(
        "logits-of-last-vocabulary-row",
        "the last vocabulary row's logit is 0",
        "logits",
        lambda: altered("logits", lambda x: torch.cat([x[..., :-1], torch.zeros_like(x[..., -1:])], -1)),
    ),
]
