"""Floors: how far apart correct computations of one value are, row by row. They are measured."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parity.core.errors import TraceError
from parity.core.metrics import as_rows, row_errors
from parity.core.trace import PADDING, Entry, SeamKey, Trace, dtype_name


class Floors:
    """How far correct runs lie from one yardstick trace.

    ``observe`` takes the values of a further correct run, one at a time; a row's floor is the largest relative
    distance that any run showed there.
    """

    def __init__(self, yardstick: Trace) -> None:
        self.yardstick = yardstick
        self._spread: dict[SeamKey, np.ndarray] = {}
        self._dtypes: dict[SeamKey, str] = {}

    def observe(self, entry: Entry, array: np.ndarray) -> None:
        """One value of a correct run. Raises TraceError where it has another shape than the yardstick."""
        reference = self.yardstick.read(entry.key)
        self._dtypes.setdefault(entry.key, dtype_name(array))
        if reference.shape != array.shape:
            raise TraceError(
                f"a correct run gives {entry.key} the shape {list(array.shape)}, "
                f"the yardstick {list(reference.shape)}; "
                "floors can only be measured between runs of one case"
            )
        errors = row_errors(as_rows(array, entry.token_axes), as_rows(reference, entry.token_axes))
        known = self._spread.get(entry.key)
        self._spread[entry.key] = errors if known is None else np.maximum(known, errors)

    def rows(self, entry: Entry, compared: np.ndarray) -> np.ndarray:
        """The floor of every row (rows,). ``compared`` (rows,) bool leaves padding out of the median.

        A few runs may agree by luck on a row, so no row's floor is below the median of its value.
        Raises TraceError when no correct run had this value, or one had NaN or Inf there: an infinite floor
        would let everything through.
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

    def measured(self) -> Iterator[tuple[Entry, np.ndarray]]:
        """Every value that a run was observed at, with the spread (rows,) at rows that are compared."""
        for key, spread in self._spread.items():
            entry = self.yardstick.entries()[key]
            if entry.rows is not None:
                spread = spread[self.yardstick.labels(entry.rows).reshape(-1) != PADDING]
            yield entry, spread

    def dtype(self, entry: Entry) -> str:
        """The dtype that the correct runs give this value in; its ulp is the gate's."""
        return self._dtypes.get(entry.key, entry.dtype)
