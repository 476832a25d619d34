"""What the machine can do, measured in the same session: matrix products and reading memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from parity.bench.ratios import timed

_SIDE = 1024
_READ = 2**28  # bytes; larger than the caches
_TIMES = 7


@dataclass(frozen=True)
class Limits:
    """The best of several runs: 10^9 operations a second of a product, 10^9 bytes a second read."""

    product_gflops: float
    read_gbytes: float


def measure_limits(dtype: torch.dtype, *, side: int = _SIDE, read: int = _READ) -> Limits:
    """Measure both. A product in ``dtype`` may also be computed in float32, if that is faster here."""
    with torch.inference_mode():
        rates = []
        for kind in {dtype, torch.float32}:
            left, right = torch.ones(side, side, dtype=kind), torch.ones(side, side, dtype=kind)
            seconds = min(timed(lambda left=left, right=right: F.linear(left, right)) for _ in range(_TIMES))  # type: ignore[misc]
            rates.append(2 * side**3 / seconds / 1e9)
        numbers = torch.ones(read // 4)
        ways = (numbers.sum, lambda: torch.mv(numbers.view(-1, 4096), numbers[:4096]))  # (n,) -> (n / 4096, 4096)
        reading = min(timed(way) for _ in range(_TIMES) for way in ways)
    return Limits(max(rates), read / reading / 1e9)
