"""numpy's kernels: its BLAS, its pairwise sums, its functions; attention split over keys, as flash attention does.

Shape legend: see ``base``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from parity.kernels.base import Kernels

_KEYS = 96  # keys of one part of the attention; not a power of two, so that the parts are ragged


def _of(function: Callable[..., np.ndarray]) -> Callable[[Tensor], Tensor]:
    return lambda tensor: torch.from_numpy(np.asarray(function(tensor.numpy())))


def _silu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / (1 + np.exp(-x)))


def _rsqrt(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / np.sqrt(x))


class NumpyKernels(Kernels):
    name = "numpy"
    functions = {  # noqa: RUF012 - a constant of the class
        "exp": _of(np.exp),
        "cos": _of(np.cos),
        "sin": _of(np.sin),
        "silu": _of(_silu),
        "rsqrt": _of(_rsqrt),
    }

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.from_numpy(np.matmul(left.numpy(), right.numpy()))

    def sum_rows(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(np.add.reduce(rows.numpy(), axis=1))


class SplitKernels(NumpyKernels):
    """numpy's kernels with attention in parts: a few keys at a time, with a running maximum and sum."""

    name = "numpy, attention split over keys"

    def attention(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        """Online softmax (Dao et al. 2022, arXiv:2205.14135)."""
        q, k, v = (part.numpy() for part in (query * scale, key, value))
        mask = None if bias is None else bias.numpy()
        highest = np.full(q.shape[:2], -np.inf, q.dtype)  # (L, S)
        total = np.zeros(q.shape[:2], q.dtype)  # (L, S)
        out = np.zeros(q.shape, q.dtype)  # (L, S, D)
        for start in range(0, k.shape[1], _KEYS):
            part = slice(start, start + _KEYS)
            scores = q @ k[:, part].swapaxes(1, 2)  # (L, S, t)
            if mask is not None:
                scores += mask[:, :, part]
            now = np.maximum(highest, scores.max(axis=2))
            base = np.where(np.isneginf(now), 0, now).astype(q.dtype)  # all keys so far are hidden
            shares = np.exp(scores - base[:, :, None])
            before = np.exp(highest - base)
            total = total * before + shares.sum(axis=2)
            out = out * before[:, :, None] + shares @ v[:, part]
            highest = now
        return torch.from_numpy(out / total[:, :, None])
