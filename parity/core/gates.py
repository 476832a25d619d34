"""Gates: the rule that turns figures and floors into a status."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from parity.core.trace import DTYPES


@dataclass(frozen=True)
class FloatGate:
    """``|s - r| / |r| <= m * floor + ulps * ulp`` for every row.

    ``ulps`` covers the values whose correct runs agree bit for bit (the same kernel on the same input), where a
    correct subject may still round each number once in another order.
    """

    m: float
    ulps: float

    def rows(self, floors: np.ndarray, dtype: str) -> np.ndarray:
        """The gate of every row (rows,), relative."""
        return self.m * floors + self.ulp_floor(dtype)

    def ulp_floor(self, dtype: str) -> float:
        return self.ulps * ulp(dtype)

    def describe(self) -> str:
        return f"every row: |subject - reference| / |reference| <= {self.m:g} x floor + {self.ulps:g} ulp"


@dataclass(frozen=True)
class StepGate:
    """No number more than ``steps`` steps off, and no mean over many numbers more than ``bias`` steps.

    For what is rounded to whole steps (8-bit pixels): correct implementations differ by a step here and there, to
    both sides. A mistake in the rounding itself moves every number the same way. The mean is judged over all numbers,
    for every place in a row (a channel) and for every row (a patch), so that opposite mistakes do not cancel out.
    Over few numbers chance moves the mean too: ``chance`` standard deviations of it are allowed on top.
    """

    steps: float
    bias: float
    chance_of_columns: float
    chance_of_rows: float

    def largest_bias(self, off: np.ndarray) -> tuple[float, str]:
        """Of ``off`` (rows, C) in steps: the largest share of its gate that a mean reaches, and where, in words."""
        if not off.size:
            return 0.0, ""
        found = [(abs(float(off.mean())) / self.bias, f"{off.mean():+.2f} steps on average")]
        for axis, chance, what in ((0, self.chance_of_columns, "channel"), (1, self.chance_of_rows, "row")):
            means, sizes = off.mean(axis=axis), np.abs(off).mean(axis=axis)
            shares = np.abs(means) / (self.bias + chance * np.sqrt(sizes / off.shape[axis]))
            at = int(shares.argmax())
            found.append((float(shares[at]), f"{means[at]:+.2f} steps on average in {what} {at}"))
        return max(found)


# Over six photographs and drawings, resized by four correct kernels, the bias was at most 0.009 steps over all numbers,
# and a mean at most 0.4 of its gate in a channel or a patch, where no number was more than a step off. Truncating where
# one should round makes the bias 0.5 steps.
PIXEL_GATE = StepGate(steps=1.0, bias=0.05, chance_of_columns=6.0, chance_of_rows=12.0)

# What m and ulps were measured on stands in the README, "How a verdict is reached".
DEFAULT_GATE = FloatGate(m=6.0, ulps=1.0)
# One part alone has no error of other parts in it: its runs scatter far less, and its gate is the narrower.
ISOLATED_GATE = FloatGate(m=2.0, ulps=1.0)


def ulp(dtype: str) -> float:
    """Distance from 1 to the next larger number of a float dtype."""

    return float(ml_dtypes.finfo(DTYPES[dtype]).eps)  # numpy's own finfo does not know bfloat16
