"""Gates: the rules that decide from figures and floors whether a value passes."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from parity.core.trace import DTYPES

AFTER_SOFTMAX = ".attn.context"


@dataclass(frozen=True)
class FloatGate:
    """``|s - r| / |r| <= m * floor + ulps * ulp`` for every row.

    ``ulps`` is for values in which all correct runs agree bit for bit, because they run the same kernel on the same
    input. A correct subject may still round each number differently once. ``m_attention`` is the m of values right
    after a softmax, if it differs: where two keys are nearly tied, a softmax magnifies the rounding of its scores, and
    a few runs do not show by how much.
    """

    m: float
    ulps: float
    m_attention: float | None = None

    def of(self, name: str) -> FloatGate:
        """Return the gate of a seam."""
        if self.m_attention is None or not name.endswith(AFTER_SOFTMAX):
            return self
        return FloatGate(self.m_attention, self.ulps)

    def rows(self, floors: np.ndarray, dtype: str) -> np.ndarray:
        """Return the relative gate of every row (rows,)."""
        return self.m * floors + self.ulp_floor(dtype)

    def ulp_floor(self, dtype: str) -> float:
        return self.ulps * ulp(dtype)

    def describe(self) -> str:
        return f"every row: |subject - reference| / |reference| <= {self.m:g} x floor + {self.ulps:g} ulp"


@dataclass(frozen=True)
class StepGate:
    """No number may be off by more than ``steps`` steps, and no mean by more than ``bias`` steps.

    The gate is for values rounded to whole steps (8-bit pixels). Correct implementations sometimes differ by a step,
    up or down. A mistake in the rounding moves every number in the same direction. Means are taken over all numbers,
    over each place in a row (a channel) and over each row (a patch), so that opposite mistakes do not cancel out.
    Means over few numbers also vary by chance: ``chance`` standard deviations are added to the limit.
    """

    steps: float
    bias: float
    chance_of_columns: float
    chance_of_rows: float

    def largest_bias(self, off: np.ndarray) -> tuple[float, str]:
        """Return the largest ratio of a mean of ``off`` (rows, C), in steps, to its limit, and a description of it."""
        if not off.size:
            return 0.0, ""
        found = [(abs(float(off.mean())) / self.bias, f"{off.mean():+.2f} steps on average")]
        for axis, chance, what in ((0, self.chance_of_columns, "channel"), (1, self.chance_of_rows, "row")):
            means, sizes = off.mean(axis=axis), np.abs(off).mean(axis=axis)
            shares = np.abs(means) / (self.bias + chance * np.sqrt(sizes / off.shape[axis]))
            at = int(shares.argmax())
            found.append((float(shares[at]), f"{means[at]:+.2f} steps on average in {what} {at}"))
        return max(found)


# Measured on six photographs and drawings, resized by four correct kernels. No number was off by more than a step, the
# bias over all numbers was at most 0.009 steps, and the mean of a channel or a patch reached at most 0.4 of its limit.
# Truncating instead of rounding gives a bias of 0.5 steps.
PIXEL_GATE = StepGate(steps=1.0, bias=0.05, chance_of_columns=6.0, chance_of_rows=12.0)

# For the measurement of m and ulps see the README, "How a verdict is reached".
DEFAULT_GATE = FloatGate(m=6.0, ulps=1.0)
# A single part has no errors from other parts. Its runs vary much less, so its gate is narrower.
ISOLATED_GATE = FloatGate(m=2.0, ulps=1.0, m_attention=8.0)


def ulp(dtype: str) -> float:
    """Return the distance from 1 to the next larger number of a float dtype."""

    return float(ml_dtypes.finfo(DTYPES[dtype]).eps)  # numpy's finfo does not support bfloat16
