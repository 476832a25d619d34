"""The model's computations in torch, one line each where that is possible. ``fast`` must agree with them.

Shape legend
    ...       any leading dims
    C, O      channels in and out
    B, S, T   batch, new tokens, all tokens so far
    H, K, D   query heads, kv heads, head_dim
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which norms and rotations are computed: at least float32, and float64 stays float64."""
    return torch.promote_types(dtype, torch.float32)


@dataclass(eq=False)
class Mask:
    """Which keys each query attends to, in one forward. What follows from it is computed once for all layers.

    ``seen`` (B, 1, S, T) bool is True where a query may attend.
    """

    seen: Tensor
    _added: dict[torch.dtype, Tensor] = field(default_factory=dict, repr=False)
    _causal: bool | None = field(default=None, repr=False)

    @property
    def causal(self) -> bool:
        """Whether every query attends to all keys up to its own, and to no others. Looks at the values once."""
        if self._causal is None:
            queries, keys = self.seen.shape[-2:]
            self._causal = queries == keys and bool((self.seen == self.seen.new_ones(queries, keys).tril()).all())
        return self._causal

    def added(self, dtype: torch.dtype) -> Tensor:
        """(B, 1, S, T): what is added to the scores, 0 or -inf."""
        if dtype not in self._added:
            zeros = torch.zeros(self.seen.shape, dtype=dtype, device=self.seen.device)
            self._added[dtype] = zeros.masked_fill_(~self.seen, -torch.inf)
        return self._added[dtype]


def rotate_half(x: Tensor) -> Tensor:
    """(..., D) -> (..., D): the second half negated, then the first half."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


class PlainKernels:
    """Torch's own operations, in the order of the reference."""

    name = "plain"

    def __deepcopy__(self, _memo: dict[int, Any]) -> PlainKernels:
        return self

    def describe(self) -> dict[str, str]:
        """What computes what, for reports."""
        return {"kernels": self.name, "products": "torch"}

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (..., C), weight (O, C), bias (O,) -> (..., O)."""
        return F.linear(x, weight, bias)

    def linears(self, x: Tensor, *layers: tuple[Tensor, Tensor | None]) -> list[Tensor]:
        """Several products of x (..., C), at most three, each with a weight (O, C) and a bias (O,): (..., O)."""
        return [F.linear(x, weight, bias) for weight, bias in layers]

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / rms(x) * weight over the last dim, in float32 or wider (arXiv:1910.07467): x (..., C) -> (..., C)."""
        y = x.to(wide(x.dtype))
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)
        return weight * y.to(x.dtype)

    def rotary(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate the channel pairs (i, i + D/2) of x (..., H, D) by the angles of cos and sin (..., 1, D).

        Computed in the dtype of cos and sin, and returned in that of x.
        """
        wide_x = x.to(cos.dtype)
        return (wide_x * cos + rotate_half(wide_x) * sin).to(x.dtype)

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) * up (arXiv:2002.05202), both (..., C)."""
        return F.silu(gate) * up

    def gelu_tanh(self, x: Tensor) -> Tensor:
        """The tanh form of GELU (arXiv:1606.08415): (..., C) -> (..., C).

        The result may be written into x, so the caller must not use x afterwards.
        """
        return F.gelu(x, approximate="tanh")

    def attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """q (B, H, S, D), k and v (B, K, T, D) -> (B, H, S, D). Query head h reads kv head h * K // H."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.seen, enable_gqa=True)

    def full_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Every query attends to every key: all (B, H, S, D)."""
        return F.scaled_dot_product_attention(q, k, v)


PLAIN = PlainKernels()
