"""Gates: the rule that turns figures and floors into a status."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from parity.core.trace import DTYPES


@dataclass(frozen=True)
class FloatGate:
    """``|s - r| / |r| <= m * floor + ulps * ulp`` for every row.

    ``ulps`` covers the readings whose correct runs agree bit for bit (the same kernel on the same input), where a
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


# What m and ulps were measured on stands in the README, "How a verdict is reached".
DEFAULT_GATE = FloatGate(m=6.0, ulps=1.0)
# One part alone has no error of other parts in it: its runs scatter far less, and its gate is the narrower.
ISOLATED_GATE = FloatGate(m=2.0, ulps=1.0)


def ulp(dtype: str) -> float:
    """Distance from 1 to the next larger number of a float dtype."""

    return float(ml_dtypes.finfo(DTYPES[dtype]).eps)  # numpy's own finfo does not know bfloat16
