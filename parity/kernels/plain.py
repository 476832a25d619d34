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
            for top in range(0, rows, height):
                tile, part = total[item, top : top + height], left[item, top : top + height]
                for start in range(0, width, chunk):
                    end = start + chunk
                    tile.addmm_(part[:, start:end], right[item, start:end])  # (m, c) @ (c, N) -> (m, N)
        return total

    def sum_rows(self, rows: Tensor) -> Tensor:
        # numpy's sum adds in pairs, its running sum one by one.
        running = np.add.accumulate(rows.numpy(), axis=1)  # (R, K)
        return torch.from_numpy(running[:, -1].copy())
