"""Traces: the values of a run, in order, with all that is needed to compare them.

A value is the tensor of one seam at one call. ``call`` counts how often the seam was produced before in the run: 0 for
the prefill, 1 for the first decode step. In the vision tower, the pictures come first and then the videos.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np

from parity.core.errors import TraceError

SCHEMA_VERSION = "1.0"
# Rows at padding. Engines may leave any numbers there, so these rows are never compared.
PADDING = 255
GateKind = Literal["float", "exact", "steps"]

DTYPES: dict[str, np.dtype[Any]] = {
    **{
        name: np.dtype(name)
        for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
    },
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


class SeamKey(NamedTuple):
    """The name of a value: its seam and its call index."""

    name: str
    call: int

    def __str__(self) -> str:
        return f"{self.name}[{self.call}]"


@dataclass(frozen=True)
class Entry:
    """The description of a value, without its numbers.

    ``token_axes`` are the axes that count rows (tokens, patches); other axes form the vector of a row. Without token
    axes, the whole tensor is one row. ``rows`` names the labels, in the same trace, that give the kind of every row.
    ``unit`` is the size of one step if the gate counts steps: 1 for 8-bit pixels.
    """

    key: SeamKey
    step: str
    group: str
    gate: GateKind
    shape: tuple[int, ...]
    dtype: str
    token_axes: tuple[int, ...] = ()
    axis_names: tuple[str, ...] = ()
    rows: SeamKey | None = None
    unit: float = 1.0

    @property
    def token_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in self.token_axes)


@dataclass(frozen=True)
class Description:
    """The producer of a trace, and its input. ``kinds`` names the codes in the row labels."""

    producer: str
    detail: str
    dtype: str
    case: str
    checkpoint: str | None = None
    kinds: Mapping[int, str] = field(default_factory=dict)


class Trace(ABC):
    """An ordered collection of values. ``read`` loads one tensor at a time into memory."""

    description: Description

    @abstractmethod
    def entries(self) -> Mapping[SeamKey, Entry]:
        """Return every value that is compared, in the order in which the run produced them."""

    @abstractmethod
    def read(self, key: SeamKey) -> np.ndarray:
        """Return the numbers of a value. Raises TraceError if the trace does not have it."""

    @abstractmethod
    def labels(self, key: SeamKey) -> np.ndarray:
        """Return the kinds of the rows as uint8. Rows with PADDING are not compared."""

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries().values())

    def __len__(self) -> int:
        return len(self.entries())


class MemoryTrace(Trace):
    """A trace in memory."""

    def __init__(self, description: Description) -> None:
        self.description = description
        self._entries: dict[SeamKey, Entry] = {}
        self._arrays: dict[SeamKey, np.ndarray] = {}
        self._labels: dict[SeamKey, np.ndarray] = {}

    def entries(self) -> Mapping[SeamKey, Entry]:
        return self._entries

    def read(self, key: SeamKey) -> np.ndarray:
        if key not in self._arrays:
            raise TraceError(f"the trace of {self.description.producer} has no value {key}")
        return self._arrays[key]

    def labels(self, key: SeamKey) -> np.ndarray:
        if key not in self._labels:
            raise TraceError(f"the trace of {self.description.producer} has no row labels {key}")
        return self._labels[key]

    def add(self, entry: Entry, array: np.ndarray) -> None:
        check_value(entry, array)
        if entry.key in self._entries:
            raise TraceError(f"the value {entry.key} is there twice")
        self._entries[entry.key] = entry
        self._arrays[entry.key] = array

    def add_labels(self, key: SeamKey, kinds: np.ndarray) -> None:
        self._labels[key] = kinds


def check_value(entry: Entry, array: np.ndarray) -> None:
    """Raise TraceError unless ``array`` matches ``entry``: shape, dtype, rows and gate."""
    if entry.shape != array.shape or DTYPES.get(entry.dtype) != array.dtype:
        raise TraceError(
            f"{entry.key} is declared {entry.dtype} {list(entry.shape)}, "
            f"its tensor is {array.dtype} {list(array.shape)}"
        )
    if any(axis >= array.ndim for axis in entry.token_axes):
        raise TraceError(f"{entry.key} has token axes {list(entry.token_axes)}, but only {array.ndim} axes")
    if entry.axis_names and len(entry.axis_names) != len(entry.token_axes):
        raise TraceError(
            f"{entry.key} has axis names {list(entry.axis_names)} for token axes {list(entry.token_axes)}; "
            "give one name for each, or none"
        )
    if entry.gate == "float" and array.dtype.kind in "biu":
        raise TraceError(f"{entry.key} is {entry.dtype} with a float gate; whole numbers need the gate exact")
    if not entry.unit > 0:
        raise TraceError(f"{entry.key} has steps of {entry.unit:g}; a step must be larger than 0")


def dtype_name(array: np.ndarray) -> str:
    """Return the name of an array's dtype in traces. Raises TraceError for other dtypes."""
    for name, dtype in DTYPES.items():
        if dtype == array.dtype:
            return name
    raise TraceError(f"dtype {array.dtype} is not supported in a trace; use one of {', '.join(DTYPES)}")
