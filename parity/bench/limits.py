"""What the machine can do, measured in the same session: matrix products and reading memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from parity.bench.ratios import timed
from parity.engines.device import CPU, finishing

# Of the CPU, and of a GPU, which needs more work to be busy.
_SIDES = (1024, 8192)
_READ = (2**28, 2**32)  # bytes; larger than the caches
_TIMES = 7


@dataclass(frozen=True)
class Limits:
    """The best of several runs: 10^9 operations a second of a product, 10^9 bytes a second read."""

    product_gflops: float
    read_gbytes: float


def measure_limits(
    dtype: torch.dtype, *, side: int | None = None, read: int | None = None, device: torch.device = CPU
) -> Limits:
    """Measure both. A product in ``dtype`` may also be computed in float32, if that is faster here."""
    side = side or _SIDES[device.type != "cpu"]
    read = read or _READ[device.type != "cpu"]

    def best(*runs: Callable[[], object]) -> float:
        done = [finishing(run, device) for run in runs]
        return min(timed(run) for _ in range(_TIMES) for run in done)

    with torch.inference_mode():
        rates = []
        for kind in {dtype, torch.float32}:
            left, right = (torch.ones(side, side, dtype=kind, device=device) for _ in range(2))
            rates.append(2 * side**3 / best(partial(F.linear, left, right)) / 1e9)
        numbers = torch.ones(read // 4, device=device)
        ways = (numbers.sum, lambda: torch.mv(numbers.view(-1, 4096), numbers[:4096]))  # (n,) -> (n / 4096, 4096)
        reading = best(*ways)
    return Limits(max(rates), read / reading / 1e9)
