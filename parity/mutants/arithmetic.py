"""Wrong arithmetic that more than one component's mistakes use."""

from __future__ import annotations

import torch
from torch import Tensor


def rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The value rounded to a narrower dtype, in its own dtype."""
    return value.to(dtype).to(value.dtype)


def copied(value: Tensor, *, to: int, of: int, dim: int = 0) -> Tensor:
    """The value with the slice at index ``to`` of a dimension replaced by the one at index ``of``."""
    value = value.clone()
    value.select(dim, to).copy_(value.select(dim, of))
    return value


def pairs_rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary with pairs of neighbouring channels instead of channels that are half a head apart."""
    even, odd = x[..., ::2], x[..., 1::2]
    return x * cos + torch.stack([-odd, even], dim=-1).flatten(-2) * sin
