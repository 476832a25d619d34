"""Looks for NaN and Inf at the speed of memory: the bits of floats are compared as integers, without a copy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from port.kernels import PLAIN, FastKernels, PlainKernels
from port.kernels.native import INFINITY

# For each float dtype, the signed integers of the same width.
_INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}
_BLOCK_BYTES = 1 << 19  # a block stays in the processor's cache between its two passes


def all_finite(tensor: Tensor, kernels: PlainKernels = PLAIN) -> bool:
    """Return whether a contiguous CPU tensor of any dtype holds neither NaN nor Inf.

    ``kernels`` are those of the model; compiled ones do it in one pass.
    """
    if isinstance(kernels, FastKernels) and kernels.native is not None and _in_place(tensor):
        return kernels.native.all_finite(tensor)
    integer = _INTEGERS.get(tensor.dtype)
    if integer is None:
        return bool(torch.isfinite(tensor).all())
    # Read as integers, positive floats are in the order of their values, and NaN comes after Inf. Negative floats
    # are too if the integers are unsigned, and come after all positive ones.
    signed = tensor.view(-1).view(integer).numpy()
    unsigned = signed.view(f"u{signed.itemsize}")
    inf = torch.tensor([torch.inf, -torch.inf], dtype=tensor.dtype).view(integer).numpy()
    positive, negative = inf[0], inf.view(unsigned.dtype)[1]
    step = _BLOCK_BYTES // signed.itemsize
    return all(
        np.max(signed[at : at + step]) < positive and np.max(unsigned[at : at + step]) < negative
        for at in range(0, signed.size, step)
    )


def _in_place(tensor: Tensor) -> bool:
    """Whether a tensor has floats that compiled code can read: at multiples of their size."""
    return tensor.dtype in INFINITY and tensor.data_ptr() % tensor.element_size() == 0
