"""The KV cache of one batch, with everything that is needed to continue decoding.

Shape legend
    B, T     batch, cached tokens (padding included)
    K, D     kv heads, head_dim
"""

from __future__ import annotations

import torch
from torch import Tensor

from port.config import TextConfig
from port.errors import InputError


class KVCache:
    """Keys and values of every layer, allocated once for ``capacity`` tokens.

    ``visible`` marks the cached tokens that are not padding; ``rope_delta`` (B, 1) plus the number of
    real tokens is the next position (it differs from 0 in prompts with pictures). It is kept here and not in the
    model, so that requests never share it.
    """

    def __init__(
        self, config: TextConfig, batch: int, capacity: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, capacity, config.head_dim)
        self._keys = torch.empty(shape, dtype=dtype, device=device)
        self._values = torch.empty(shape, dtype=dtype, device=device)
        self._visible = torch.zeros(batch, capacity, dtype=torch.bool, device=device)
        self.rope_delta = torch.zeros(batch, 1, dtype=torch.long, device=device)
        self.length = 0

    @property
    def batch(self) -> int:
        return self._visible.shape[0]

    @property
    def capacity(self) -> int:
        return self._visible.shape[1]

    @property
    def visible(self) -> Tensor:
        """(B, T) bool: cached tokens that may be attended to."""
        return self._visible[:, : self.length]

    def extend(self, mask: Tensor) -> None:
        """Make room for the next tokens; ``mask`` (B, S) is 0 at padding. Raises InputError when full."""
        end = self.length + mask.shape[1]
        if mask.shape[0] != self.batch or end > self.capacity:
            raise InputError(
                f"the cache holds {self.batch} rows of {self.capacity} tokens, of which {self.length} are used; "
                f"{mask.shape[0]} rows of {mask.shape[1]} more do not fit: create it with a larger capacity"
            )
        self._visible[:, self.length : end] = mask.bool()
        self.length = end

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the newest (B, K, S, D) of a layer, after ``extend``; returns all (B, K, T, D) so far."""
        tokens = keys.shape[2]
        for stored, new in ((self._keys, keys), (self._values, values)):
            stored[layer].narrow(2, self.length - tokens, tokens).copy_(new)  # (B, K, S, D)
        return self.layer(layer)

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, K, T, D) of one layer."""
        return self._keys[layer].narrow(2, 0, self.length), self._values[layer].narrow(2, 0, self.length)

    def next_positions(self, tokens: int) -> Tensor:
        """(3, B, tokens) positions of the next text tokens: real tokens so far + rope_delta, the same on all axes."""
        start = self.visible.sum(dim=1, keepdim=True) + self.rope_delta  # (B, 1)
        positions = start + torch.arange(tokens, device=start.device)  # (B, tokens)
        return positions.expand(3, -1, -1)
