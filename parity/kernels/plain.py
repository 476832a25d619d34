"""Sums in plain order: one number after the other, as a simple loop adds them.

A BLAS library adds in blocks, and its sums are more accurate than those of a plain loop. A port with plain loops is
correct too, so the floors need a run that adds as it does.

Shape legend: see ``base``.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from parity.kernels.base import Kernels

# A product of up to 2^30 multiplications is added number by number. Larger ones are added in chunks of K, so that a
# run costs at most a few times an ordinary one. A chunk of c is more accurate by about the root of c.
_PLAIN_WORK = 2**30
_LONGEST_CHUNK = 8
_PART = 8  # numbers of a sum that a device other than the CPU adds at once
_TILE = 2**17  # numbers of the result that stay in the processor's cache


class PlainKernels(Kernels):
    """Plain order, with torch and numpy. ``chunk``: None for one that fits the size of each product."""

    name = "plain order"

    def __init__(self, chunk: int | None = None) -> None:
        self._chunk = chunk

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        batch, rows, width = left.shape
        columns = right.shape[2]
        work = batch * rows * width * columns
        chunk = self._chunk or min(_LONGEST_CHUNK, max(1, math.ceil(work / _PLAIN_WORK)))
        total = left.new_zeros(batch, rows, columns)
        height = max(1, _TILE // columns)
        for item in range(batch):
            lower = right[item].split(chunk)
            for top in range(0, rows, height):
                tile = total[item, top : top + height]
                for a, b in zip(left[item, top : top + height].split(chunk, dim=1), lower, strict=True):
                    tile.addmm_(a, b)  # (m, c) @ (c, N) -> (m, N)
        return total

    def sum_rows(self, rows: Tensor) -> Tensor:
        # numpy's sum adds in pairs, its running sum one by one.
        running = np.add.accumulate(rows.numpy(), axis=1)  # (R, K)
        return torch.from_numpy(running[:, -1].copy())


class PartKernels(Kernels):
    """Sums in parts of 8 numbers, one part after the other: on any device, with torch's own operations.

    A device would need a call for each number to add in plain order.
    """

    name = "sums in parts"
    only_cpu = False

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        total = left.new_zeros(left.shape[0], left.shape[1], right.shape[2])
        for start in range(0, left.shape[2], _PART):
            part = slice(start, start + _PART)
            total = torch.baddbmm(total, left[:, :, part], right[:, part])  # (L, M, 8) @ (L, 8, N) -> (L, M, N)
        return total

    def sum_rows(self, rows: Tensor) -> Tensor:
        total = rows.new_zeros(len(rows))
        for start in range(0, rows.shape[1], _PART):
            total = total + rows[:, start : start + _PART].sum(dim=1)  # (R, 8) -> (R,)
        return total
