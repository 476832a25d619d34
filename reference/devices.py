"""What devices can compute. Needs no transformers."""

from __future__ import annotations

import torch

_WITHOUT_FLOAT64 = frozenset({"mps"})


def has_float64(device: torch.device) -> bool:
    """Return whether the device computes in float64. The yardstick of a model on another one is computed on the CPU."""
    return device.type not in _WITHOUT_FLOAT64
