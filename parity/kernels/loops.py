"""Compiled loops without BLAS: as a simple C or Rust program adds, and as its compiler may reorder and fuse.

Shape legend: see ``base``.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from parity.kernels.base import Kernels


def _product(left: Any, right: Any) -> Any:  # (L, M, K), (L, N, K) -> (L, M, N)
    batch, rows, width = left.shape
    columns = right.shape[1]
    out = np.empty((batch, rows, columns), left.dtype)
    for item in range(batch):
        for row in range(rows):
            for column in range(columns):
                total = left[item, row, 0] * right[item, column, 0]
                for index in range(1, width):
                    total += left[item, row, index] * right[item, column, index]
                out[item, row, column] = total
    return out


def _sums(rows: Any) -> Any:  # (R, K) -> (R,)
    out = np.empty(rows.shape[0], rows.dtype)
    for row in range(rows.shape[0]):
        total = rows[row, 0]
        for index in range(1, rows.shape[1]):
            total += rows[row, index]
        out[row] = total
    return out


_PLAIN = numba.njit(_product), numba.njit(_sums)
_FAST = {"reassoc", "contract", "nsz"}
_REORDERED = numba.njit(_product, fastmath=_FAST), numba.njit(_sums, fastmath=_FAST)


class LoopKernels(Kernels):
    """Plain loops, one number after the other. Products and sums are rounded one by one (no FMA)."""

    name = "compiled loops"
    _compiled = _PLAIN

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        columns = right.transpose(1, 2).contiguous()  # (L, K, N) -> (L, N, K)
        out: Tensor = torch.from_numpy(self._compiled[0](left.numpy(), columns.numpy()))
        return out

    def sum_rows(self, rows: Tensor) -> Tensor:
        out: Tensor = torch.from_numpy(self._compiled[1](rows.numpy()))
        return out


class FusedLoopKernels(LoopKernels):
    """The same loops, which the compiler may reorder, vectorise and contract to FMA, as ``-ffast-math`` allows."""

    name = "compiled loops, reordered with FMA"
    _compiled = _REORDERED


class OnePassKernels(LoopKernels):
    """Loops as small programs write them.

    The variance is a difference of two means, the query is scaled before its product, the softmax divided after it.
    """

    name = "compiled loops, variance in one pass, late division"

    def layer_norm(self, rows: Tensor, eps: float) -> Tensor:
        mean, square = (self.sum_rows(values) / rows.shape[1] for values in (rows, rows * rows))  # (R,)
        scale = 1 / torch.sqrt(square - mean * mean + eps)
        return rows * scale.unsqueeze(-1) - (mean * scale).unsqueeze(-1)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        scores = self.matmul(query * scale, key.transpose(1, 2).contiguous())  # (L, S, T)
        if bias is not None:
            scores = scores + bias
        powers = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
        total = self.sum_rows(powers.reshape(-1, powers.shape[-1])).reshape(*powers.shape[:2], 1)  # (L, S, 1)
        return self.matmul(powers, value) / total
