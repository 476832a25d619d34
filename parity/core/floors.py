"""Floors: how far correct runs are from the yardstick, measured for each row of a value."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parity.core.errors import TraceError
from parity.core.metrics import as_rows, row_errors
from parity.core.trace import PADDING, Entry, SeamKey, Trace, dtype_name


class Floors:
    """Measures how far correct runs are from a yardstick trace.

    Call ``observe`` with the values of correct runs, one by one. The floor of a row is the largest relative distance
    of any run. For logits, the peak of a row is the largest difference of a single number in any run.
    """

    def __init__(self, yardstick: Trace) -> None:
        self.yardstick = yardstick
        self._spread: dict[SeamKey, np.ndarray] = {}
        self._peaks: dict[SeamKey, np.ndarray] = {}
        self._dtypes: dict[SeamKey, str] = {}

    def observe(self, entry: Entry, array: np.ndarray) -> None:
        """Add one value of a correct run. Raises TraceError if its shape differs from the yardstick's."""
        reference = self.yardstick.read(entry.key)
        self._dtypes.setdefault(entry.key, dtype_name(array))
        if reference.shape != array.shape:
            raise TraceError(
                f"a correct run gives {entry.key} the shape {list(array.shape)}, "
                f"the yardstick {list(reference.shape)}; "
                "floors can only be measured between runs of one case"
            )
        left, right = as_rows(array, entry.token_axes), as_rows(reference, entry.token_axes)
        _keep_largest(self._spread, entry.key, row_errors(left, right))
        if entry.group == "output":
            with np.errstate(invalid="ignore", over="ignore"):  # padding may hold anything
                _keep_largest(self._peaks, entry.key, np.abs(left - right).max(axis=1, initial=0.0))

    def rows(self, entry: Entry, compared: np.ndarray) -> np.ndarray:
        """Return the floor of every row (rows,). ``compared`` (rows,) bool excludes padding from the median.

        A few runs may agree on a row by chance, so no row's floor is below the median of its value.
        Raises TraceError if no correct run had this value, or if one had NaN or Inf in it: with an infinite floor,
        every subject would pass.
        """
        if entry.key not in self._spread:
            raise TraceError(f"no correct run has measured a floor for {entry.key}; there is nothing to judge it by")
        spread = self._spread[entry.key]
        endless = compared & ~np.isfinite(spread)
        if endless.any():
            raise TraceError(
                f"a correct run has NaN or Inf at {entry.key}, or numbers where the yardstick's row is all zero "
                f"({int(endless.sum())} rows, first {int(endless.argmax())}); there is no floor to judge it by"
            )
        typical = float(np.median(spread[compared])) if compared.any() else 0.0
        return np.where(compared, np.maximum(spread, typical), 0.0)

    def peaks(self, entry: Entry) -> np.ndarray:
        """Return the peak of every row (rows,) of logits, and 0 for other values."""
        return self._peaks.get(entry.key, np.zeros(1))

    def measured(self) -> Iterator[tuple[Entry, np.ndarray]]:
        """Every value that a run was observed at, with the spread (rows,) at rows that are compared."""
        for key, spread in self._spread.items():
            entry = self.yardstick.entries()[key]
            if entry.rows is not None:
                spread = spread[self.yardstick.labels(entry.rows).reshape(-1) != PADDING]
            yield entry, spread

    def dtype(self, entry: Entry) -> str:
        """Return the dtype of this value in the correct runs. The gate uses its ulp."""
        return self._dtypes.get(entry.key, entry.dtype)


def _keep_largest(held: dict[SeamKey, np.ndarray], key: SeamKey, found: np.ndarray) -> None:
    held[key] = np.maximum(held[key], found) if key in held else found
