"""The language model: a Qwen3 decoder with M-RoPE and DeepStack.

Shape legend
    B, S, T   batch, new tokens, all tokens so far (T = S without a cache)
    C         hidden_size
    H, K, D   query heads, kv heads, head_dim (H * D need not be C)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache

import torch
from torch import Tensor, nn

from port.cache import KVCache
from port.config import TextConfig
from port.kernels import PLAIN, Mask, PlainKernels
from port.layers import Linear, RMSNorm, table, together, wide
from port.mrope import frequency_axes, inverse_frequencies, mrope_cos_sin
from port.tap import Tap


class TextAttention(nn.Module):
    """Grouped-query attention with an RMSNorm on each head of q and k (QK-norm)."""

    kernels: PlainKernels = PLAIN

    def __init__(self, config: TextConfig, layer: int, prefix: str) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        query, key = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
        bias = config.attention_bias
        self.q_proj = Linear(config.hidden_size, query, bias=bias)
        self.k_proj = Linear(config.hidden_size, key, bias=bias)
        self.v_proj = Linear(config.hidden_size, key, bias=bias)
        self.o_proj = Linear(query, config.hidden_size, bias=bias)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.tap = Tap(prefix)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Mask, cache: KVCache | None) -> Tensor:
        """x (B, S, C), cos and sin (B, S, 1, D) -> (B, S, C)."""
        heads = (*x.shape[:2], -1, self.head_dim)
        q, k, v = together(self.kernels, x, self.q_proj, self.k_proj, self.v_proj)
        q = self.tap("q_norm", self.q_norm(q.view(heads)))  # (B, S, H, D)
        k = self.tap("k_norm", self.k_norm(k.view(heads)))  # (B, S, K, D)
        v = self.tap("v", v.view(heads))  # (B, S, K, D)
        q = self.tap("q_rope", self.kernels.rotary(q, cos, sin)).transpose(1, 2)  # (B, H, S, D)
        k = self.tap("k_rope", self.kernels.rotary(k, cos, sin)).transpose(1, 2)  # (B, K, S, D)
        v = v.transpose(1, 2)  # (B, K, S, D)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)  # (B, K, T, D)
        k, v = self.tap("k_cache", k), self.tap("v_cache", v)
        context = self.kernels.attention(q, k, v, mask)  # (B, H, S, D)
        context = context.transpose(1, 2).flatten(2)  # (B, S, H*D)
        return self.tap("out", self.o_proj(self.tap("context", context)))


class TextMLP(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    kernels: PlainKernels = PLAIN

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, S, C) -> (B, S, C)
        gate, up = together(self.kernels, x, self.gate_proj, self.up_proj)
        out: Tensor = self.down_proj(self.kernels.swiglu(gate, up))
        return out


class DecoderLayer(nn.Module):
    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        prefix = f"text.layers.{layer}."
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = TextAttention(config, layer, prefix + "attn.")
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = TextMLP(config)
        self.tap = Tap(prefix)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Mask, cache: KVCache | None) -> Tensor:
        """x (B, S, C) -> (B, S, C)."""
        x = x + self.self_attn(self.tap("input_norm", self.input_layernorm(x)), cos, sin, mask, cache)
        x = x + self.tap("mlp.out", self.mlp(self.tap("post_attention_norm", self.post_attention_layernorm(x))))
        return self.tap("out", x)


class TextModel(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = table(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.tap = Tap("text.")

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        mask: Tensor,
        *,
        cache: KVCache | None = None,
        deepstack: list[Tensor] | None = None,
    ) -> Tensor:
        """inputs_embeds (B, S, C), position_ids (3, B, S), mask (B, 1, S, T) -> normed hidden states (B, S, C).

        ``deepstack`` holds what is added to the output of each of the first layers: (B, S, C), 0 at text tokens.
        """
        x = self.tap("inputs_embeds", inputs_embeds)
        cos, sin = self.rotary(self.tap("position_ids", position_ids), x.dtype)  # (B, S, D)
        cos, sin = (
            self.tap("rope_cos", cos).unsqueeze(2),
            self.tap("rope_sin", sin).unsqueeze(2),
        )  # (B, S, 1, D)
        attends = Mask(self.tap("causal_mask", mask))
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, attends, cache)
            if deepstack is not None and index < len(deepstack):
                x = self.tap(f"layers.{index}.deepstack", x + deepstack[index])
        return self.tap("norm", self.norm(x))

    def rotary(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine (B, S, D): angles in float32 or wider, then cast to ``dtype``."""
        inv_freq = _once(inverse_frequencies, self.config.head_dim, self.config.rope_theta, wide(dtype))
        axes = _once(frequency_axes, self.config.mrope_section)
        cos, sin = mrope_cos_sin(position_ids, inv_freq.to(position_ids.device), axes.to(position_ids.device))
        return cos.to(dtype), sin.to(dtype)


@lru_cache(maxsize=64)
def _once(function: Callable[..., Tensor], *arguments: Hashable) -> Tensor:
    """``function(*arguments)``, computed once, for tables that every forward needs. Must not be changed in place."""
    return function(*arguments)


def causal_mask(visible: Tensor, tokens: int) -> Tensor:
    """(B, 1, S, T) bool, True where the last ``tokens`` of T positions may attend.

    ``visible`` (B, T) is False at padding. A padding token is visible only to itself, so that its softmax has one key
    and is defined; its output is never used.
    """
    if tokens == 1:
        mask = visible.clone()
        mask[:, -1] = True
        return mask[:, None, None]  # (B, 1, 1, T)
    total = visible.shape[1]
    query = torch.arange(total - tokens, total, device=visible.device).unsqueeze(1)  # (S, 1)
    key = torch.arange(total, device=visible.device)  # (T,)
    return (((key <= query) & visible[:, None, :]) | (key == query)).unsqueeze(1)  # (B, 1, S, T)
