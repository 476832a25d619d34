"""Floors: how far correct runs are from the yardstick, measured for each row of a value."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from parity.core.errors import TraceError
from parity.core.metrics import as_rows, row_distances
from parity.core.trace import DTYPES, PADDING, Entry, SeamKey, Trace, dtype_name

# The entry of a file's metadata that holds the distance of each run. All others name the dtype of a value.
_RUNS = "runs"
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


class Floors:
    """Measures how far correct runs are from a yardstick trace.

    Call ``observe`` with the values of correct runs, one by one. The floor of a row is the largest relative distance
    of any run. For logits, the peak of a row is the largest difference of a single number in any run. ``runs`` tells
    how far the single runs are apart.
    """

    def __init__(self, yardstick: Trace) -> None:
        self.yardstick = yardstick
        self._spread: dict[SeamKey, np.ndarray] = {}
        self._peaks: dict[SeamKey, np.ndarray] = {}
        self._runs: dict[SeamKey, tuple[float, ...]] = {}
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
        left, right = (as_rows(side, entry.token_axes, widen=False) for side in (array, reference))
        found = row_distances(left, right, peaks=_has_peaks(entry))
        _keep_largest(self._spread, entry.key, found.relative)
        compared = self._compared(entry)
        if compared.shape == found.relative.shape:  # labels that do not fit are refused by the comparison
            self._runs[entry.key] = (*self.runs(entry), float(found.relative[compared].max(initial=0.0)))
        if found.peaks is not None:
            _keep_largest(self._peaks, entry.key, found.peaks)

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
            yield entry, spread[self._compared(entry)]

    def spread(self, entry: Entry) -> np.ndarray:
        """Return the largest distance (rows,) of any correct run, before the median is applied."""
        return self._spread[entry.key]

    def runs(self, entry: Entry) -> tuple[float, ...]:
        """Return the largest distance of any compared row in each correct run. Empty if a bundle does not have it."""
        return self._runs.get(entry.key, ())

    def check_runs(self) -> None:
        """Raise TraceError unless the furthest run of every value is as far as its furthest row."""
        for entry, spread in self.measured():
            furthest, runs = float(spread.max(initial=0.0)), self.runs(entry)
            if runs and not math.isclose(max(runs), furthest, rel_tol=1e-6, abs_tol=_SMALLEST):
                raise TraceError(
                    f"the furthest run at {entry.key} is said to be {max(runs):.6g} from the reference, the furthest "
                    f"row of its floors is {furthest:.6g} from it; make the bundle again"
                )

    def dtype(self, entry: Entry) -> str:
        """Return the dtype of this value in the correct runs. The gate uses its ulp."""
        return self._dtypes.get(entry.key, entry.dtype)

    def save(self, path: Path) -> None:
        """Write the spread of every value (and the peaks of logits) as float32, rounded up, and the runs' dtypes.

        Padding is written as 0. Raises TraceError for a value that gives no floor, as ``rows`` does.
        """
        tensors: dict[str, np.ndarray] = {}
        for key, spread in self._spread.items():
            entry = self.yardstick.entries()[key]
            compared = self._compared(entry)
            self.rows(entry, compared)
            kept = [spread, self._peaks[key]] if key in self._peaks else [spread]
            tensors[str(key)] = _rounded_up(np.where(compared, np.stack(kept), 0.0))  # (1 or 2, rows)
        runs = {str(key): list(found) for key, found in self._runs.items()}
        dtypes = {str(key): dtype for key, dtype in self._dtypes.items()}
        save_file(tensors, path, metadata=dtypes | {_RUNS: json.dumps(runs)})

    @classmethod
    def load(cls, path: Path, yardstick: Trace) -> Floors:
        """Read what ``save`` wrote. ``yardstick`` is the trace that the correct runs were measured against.

        Raises TraceError unless the file has finite floors for exactly the float seams of the yardstick.
        """
        floors = cls(yardstick)
        entries = {str(entry.key): entry for entry in yardstick if entry.gate == "float"}
        try:
            with safe_open(path, framework="np") as handle:
                dtypes = handle.metadata() or {}
                runs = dtypes.pop(_RUNS, None)
                _check_names(path, set(entries), set(handle.keys()), set(dtypes))
                for name, entry in entries.items():
                    floors._spread[entry.key], *peaks = _checked(path, entry, handle)
                    if peaks:
                        floors._peaks[entry.key] = peaks[0]
                    floors._dtypes[entry.key] = _float_dtype(path, entry, dtypes[name])
                if runs is not None:
                    floors._runs = _read_runs(path, runs, entries)
        except (OSError, SafetensorError, AttributeError, TypeError) as error:
            raise TraceError(f"{path} cannot be read: {error}") from None
        return floors

    def exact(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return all that was measured: float64 (1 or 2, rows) by name, and the runs' dtypes and distances as JSON.

        See ``of_exact``.
        """
        tensors = {
            str(key): np.stack([spread, self._peaks[key]] if key in self._peaks else [spread])
            for key, spread in self._spread.items()
        }
        described = {
            str(key): {"dtype": dtype, "runs": list(self._runs.get(key, ()))} for key, dtype in self._dtypes.items()
        }
        return tensors, described

    @classmethod
    def of_exact(cls, yardstick: Trace, tensors: Mapping[str, np.ndarray], described: Mapping[str, Any]) -> Floors:
        """Make floors of what ``exact`` gave, bit for bit. Raises TraceError unless it fits the yardstick."""
        floors = cls(yardstick)
        entries = {str(entry.key): entry for entry in yardstick if entry.gate == "float"}
        if tensors.keys() != entries.keys() or described.keys() != entries.keys():
            raise TraceError("the kept floors are not those of this yardstick's seams")
        for name, entry in entries.items():
            expected = (2 if _has_peaks(entry) else 1, int(np.prod(entry.token_shape, dtype=np.int64)))
            if tensors[name].shape != expected or tensors[name].dtype != np.float64:
                raise TraceError(
                    f"the kept floors of {name} are {list(tensors[name].shape)}, expected {list(expected)}"
                )
            floors._spread[entry.key], *peaks = tensors[name]
            if peaks:
                floors._peaks[entry.key] = peaks[0]
            floors._dtypes[entry.key] = described[name]["dtype"]
            floors._runs[entry.key] = tuple(described[name]["runs"])
        return floors

    def _compared(self, entry: Entry) -> np.ndarray:
        """Return which rows (rows,) are compared: all that are not padding."""
        if entry.rows is None:
            return np.ones(int(np.prod(entry.token_shape, dtype=np.int64)), dtype=bool)
        compared: np.ndarray = self.yardstick.labels(entry.rows).reshape(-1) != PADDING
        return compared


def _rounded_up(spread: np.ndarray) -> np.ndarray:
    narrow: np.ndarray = spread.astype(np.float32)
    return np.where(narrow < spread, np.nextafter(narrow, np.float32(np.inf)), narrow)


def _check_names(path: Path, expected: set[str], found: set[str], described: set[str]) -> None:
    for what, names in (("floors", found), ("dtypes", described)):
        if names != expected:
            missing, surplus = sorted(expected - names)[:5], sorted(names - expected)[:5]
            raise TraceError(f"{path} lacks the {what} of {missing} and has those of {surplus}, which are not expected")


def _checked(path: Path, entry: Entry, handle: Any) -> np.ndarray:
    """Return spread and peaks (1 or 2, rows) of a value."""
    expected = (2 if _has_peaks(entry) else 1, int(np.prod(entry.token_shape, dtype=np.int64)))
    held = handle.get_slice(str(entry.key))
    if tuple(held.get_shape()) != expected or held.get_dtype() != "F32":
        raise TraceError(
            f"{path} gives {entry.key} floors {held.get_dtype()} {list(held.get_shape())}, expected F32 "
            f"{list(expected)}"
        )
    found: np.ndarray = handle.get_tensor(str(entry.key)).astype(np.float64)
    if not (np.isfinite(found) & (found >= 0)).all():
        raise TraceError(f"{path} has a floor at {entry.key} that is negative, NaN or Inf; it is not a distance")
    return found


def _read_runs(path: Path, text: str, entries: Mapping[str, Entry]) -> dict[SeamKey, tuple[float, ...]]:
    """Return the distance of each run. Raises TraceError unless they are distances of the yardstick's values."""
    try:
        runs = {entries[name].key: tuple(map(float, found)) for name, found in json.loads(text).items()}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise TraceError(f"{path} has distances of runs that cannot be read: {error}") from None
    for key, found in runs.items():
        if not found or not all(math.isfinite(far) and far >= 0 for far in found):
            raise TraceError(f"{path} has runs at {key} whose distances are {list(found)[:8]}; they are 0 or larger")
    return runs


def _float_dtype(path: Path, entry: Entry, name: str) -> str:
    if name not in DTYPES or DTYPES[name].kind in "biu":
        raise TraceError(f"{path} gives {entry.key} the dtype {name!r}, which is not a float dtype of traces")
    return name


def _has_peaks(entry: Entry) -> bool:
    return entry.group == "output"


def _keep_largest(held: dict[SeamKey, np.ndarray], key: SeamKey, found: np.ndarray) -> None:
    held[key] = np.maximum(held[key], found) if key in held else found
