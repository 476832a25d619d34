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
    """No number more than ``steps`` steps off, and their mean no more than ``bias`` steps.

    For what is rounded to whole steps (8-bit pixels): correct implementations differ by a step here and there, to
    both sides. A mistake in the rounding itself moves every number the same way.
    """

    steps: float
    bias: float


# Over six photographs and drawings, resized, the bias between the reference's two backends was at most 0.0006 steps;
# truncating where one should round makes it 0.5.
PIXEL_GATE = StepGate(steps=1.0, bias=0.05)

# What m and ulps were measured on stands in the README, "How a verdict is reached".
DEFAULT_GATE = FloatGate(m=6.0, ulps=1.0)
# One part alone has no error of other parts in it: its runs scatter far less, and its gate is the narrower.
ISOLATED_GATE = FloatGate(m=2.0, ulps=1.0)


def ulp(dtype: str) -> float:
    """Distance from 1 to the next larger number of a float dtype."""

    return float(ml_dtypes.finfo(DTYPES[dtype]).eps)  # numpy's own finfo does not know bfloat16
