"""The reference's trace in a bundle: ``seams.json`` and packed safetensors files.

Three things make it small. Float seams are stored as float32: that moves a number by at most 6e-8 of itself, a fraction
of the narrowest gate (one ulp of float32, 1.2e-7), and the floors are measured before it. Rows at padding are left out,
except where an engine goes on with them. Of seams that others predict, only the difference of the bits is stored, see
``prediction``. The last two lose nothing.
"""

from __future__ import annotations

import copy
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from parity.bundles.jsonfile import check_schema, read_json
from parity.bundles.packing import compared_rows, pack, unpack
from parity.bundles.tokens.prediction import NOTHING, Known, predicted
from parity.core.errors import TraceError
from parity.core.folder import entry_from_json, entry_to_json, manifest_schema
from parity.core.trace import (
    DTYPES,
    PADDING,
    SCHEMA_VERSION,
    Description,
    Entry,
    SeamKey,
    Trace,
    check_value,
)
from parity.seams.generation import FED

SEAMS = "seams.json"
_SHARD_BYTES = 64 * 2**20
_MOST_NUMBERS = 2**30  # the logits of 7,000 tokens of the largest vocabulary
_MOST_SEAMS = 50_000  # the largest released model has 94 layers and 1,400 seams per step


class BundleTrace(Trace):
    """A trace in a bundle, read one tensor at a time. ``known`` must be what it was written with."""

    def __init__(self, folder: Path, known: Known = NOTHING) -> None:
        self.folder, self._known = folder, known
        found = read_json(folder / SEAMS)
        check_schema(found, _validator(), folder / SEAMS)
        self.description = Description(
            producer=found["producer"]["name"],
            detail=found["producer"]["detail"],
            dtype=found["dtype"],
            case=found["case"],
            checkpoint=found["model"]["checkpoint_sha256"],
            kinds={int(code): name for code, name in found["kinds"].items()},
        )
        self._handles: dict[str, Any] = {}
        self._entries: dict[SeamKey, Entry] = {}
        self._labels: dict[SeamKey, tuple[int, ...]] = {}
        self._files: dict[SeamKey, str] = {}
        self._checks: dict[SeamKey, int | None] = {}
        for label in found["labels"]:
            key = SeamKey(label["name"], label["call"])
            _check_shape(_label_entry(key, tuple(label["shape"])))
            self._labels[key], self._files[key] = tuple(label["shape"]), label["file"]
        for seam in found["seams"]:
            entry = entry_from_json(seam)
            if entry.key in self._files:
                raise TraceError(f"{folder / SEAMS}: {entry.key} is listed twice")
            _check_shape(entry)
            if entry.rows is not None and entry.rows not in self._labels:
                raise TraceError(f"{folder / SEAMS}: {entry.key} names the labels {entry.rows}, which are not there")
            self._entries[entry.key], self._files[entry.key] = entry, seam["file"]
            self._checks[entry.key] = seam["crc32"]

    def entries(self) -> Mapping[SeamKey, Entry]:
        return self._entries

    def read(self, key: SeamKey) -> np.ndarray:
        if key not in self._entries:
            raise TraceError(f"{self.folder} has no value {key}")
        entry = self._entries[key]
        used = stored_rows(self, entry)
        array = unpack(self._stored(key), entry, used)
        guess = predicted(self, entry, self._known)
        if guess is not None:
            array = (_bits(array) + _bits(guess)).view(array.dtype)
            rows = np.moveaxis(array, entry.token_axes, range(len(entry.token_axes)))
            rows[~used.reshape(entry.token_shape)] = 0
        self._check_numbers(entry, array, used, was_predicted=guess is not None)
        check_value(entry, array)
        return array

    def _check_numbers(self, entry: Entry, array: np.ndarray, used: np.ndarray, *, was_predicted: bool) -> None:
        """Raise TraceError unless a predicted value is bit for bit what was written."""
        written = self._checks[entry.key]
        found = zlib.crc32(compared_rows(array, entry.token_axes, used).tobytes()) if was_predicted else None
        if found != written:
            raise TraceError(
                f"{self.folder}: the numbers of {entry.key} have the checksum {found}, written were {written}; the "
                "seams that predict it were changed, or this machine computes them in another way"
            )

    def labels(self, key: SeamKey) -> np.ndarray:
        if key not in self._labels:
            raise TraceError(f"{self.folder} has no row labels {key}")
        entry = _label_entry(key, self._labels[key])
        return unpack(self._stored(key), entry, np.ones(1, dtype=bool))

    def _stored(self, key: SeamKey) -> np.ndarray:
        name = self._files[key]
        path = self.folder / name
        try:
            if name not in self._handles:
                # Files are mapped and stay open, because parsing the header again for each tensor is slow.
                self._handles[name] = safe_open(path, framework="np").__enter__()  # type: ignore[no-untyped-call]
            array: np.ndarray = self._handles[name].get_tensor(str(key))
            return array
        except (OSError, SafetensorError, AttributeError, TypeError) as error:
            raise TraceError(f"{path} does not give {key}: {error}") from None


def compared(trace: Trace, entry: Entry) -> np.ndarray:
    """Return which rows (rows,) of a value are compared. Raises TraceError for labels of another shape."""
    if entry.rows is None:
        return np.ones(int(np.prod(entry.token_shape, dtype=object)), dtype=bool)
    kinds = trace.labels(entry.rows)
    if kinds.shape != entry.token_shape:
        raise TraceError(f"{entry.key} has rows {entry.token_shape}, its labels {entry.rows} are {kinds.shape}")
    used: np.ndarray = kinds.reshape(-1) != PADDING
    return used


def stored_rows(trace: Trace, entry: Entry) -> np.ndarray:
    """Return which rows (rows,) of a value are stored: those that are compared.

    Of values with which an engine goes on, all rows are: an engine must be told that a row has ended.
    """
    used = compared(trace, entry)
    return np.ones_like(used) if entry.key.name in FED else used


def write_trace(trace: Trace, folder: Path, *, checkpoint: str | None, known: Known = NOTHING) -> None:
    """Write a trace to a new folder, with at most one file's tensors in memory.

    ``checkpoint`` is the sha256 that the trace names.
    """
    folder.mkdir(parents=True)
    writer = _Shards(folder)
    labels, seams = [], []
    for key in dict.fromkeys(entry.rows for entry in trace if entry.rows is not None):
        kinds = trace.labels(key)
        file = writer.add(key, kinds.reshape(1, -1))
        labels.append({"name": key.name, "call": key.call, "shape": list(kinds.shape), "file": file})
    stored = _Narrow(trace)
    for entry in stored:
        array = stored.read(entry.key)
        used = stored_rows(trace, entry)
        rows = compared_rows(array, entry.token_axes, used)
        guess, check = predicted(stored, entry, known), None
        if guess is not None:
            check = zlib.crc32(rows.tobytes())
            rows = _bits(rows) - _bits(compared_rows(guess, entry.token_axes, used))
        seams.append({**entry_to_json(entry), "file": writer.add(entry.key, rows), "crc32": check})
    writer.flush()
    description = trace.description
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "producer": {"name": description.producer, "detail": description.detail},
        "model": {"checkpoint_sha256": checkpoint},
        "dtype": description.dtype,
        "case": description.case,
        "kinds": {str(code): name for code, name in description.kinds.items()},
        "labels": labels,
        "seams": seams,
    }
    (folder / SEAMS).write_text(json.dumps(manifest, separators=(",", ":")) + "\n", encoding="utf-8")


class _Shards:
    """Files of packed tensors."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending: dict[str, np.ndarray] = {}
        self._bytes = self._number = 0

    def add(self, key: SeamKey, rows: np.ndarray) -> str:
        """Add the rows of a value. Returns the name of its file."""
        name, packed = self._file(), pack(rows)
        self._pending[str(key)] = packed
        self._bytes += packed.nbytes
        if self._bytes >= _SHARD_BYTES:
            self.flush()
        return name

    def flush(self) -> None:
        if self._pending:
            save_file(self._pending, self._folder / self._file())
            self._pending, self._bytes, self._number = {}, 0, self._number + 1

    def _file(self) -> str:
        return f"seams-{self._number:05d}.safetensors"


def narrow(entry: Entry) -> Entry:
    """Return the entry as a bundle has it: float seams are float32."""
    return replace(entry, dtype="float32") if entry.gate == "float" and entry.dtype == "float64" else entry


class _Narrow(Trace):
    """A trace as its bundle will give it: float seams as float32, and zeros at padding."""

    def __init__(self, trace: Trace) -> None:
        self.description, self._trace = trace.description, trace
        self._entries = {entry.key: narrow(entry) for entry in trace}

    def entries(self) -> Mapping[SeamKey, Entry]:
        return self._entries

    def read(self, key: SeamKey) -> np.ndarray:
        entry = self._entries[key]
        array = self._trace.read(key).astype(DTYPES[entry.dtype])
        rows = np.moveaxis(array, entry.token_axes, range(len(entry.token_axes)))
        rows[~stored_rows(self, entry).reshape(entry.token_shape)] = 0
        return array

    def labels(self, key: SeamKey) -> np.ndarray:
        return self._trace.labels(key)


def _bits(rows: np.ndarray) -> np.ndarray:
    """Return the bits of numbers as whole numbers of the same size."""
    return np.ascontiguousarray(rows).view(np.dtype(f"u{rows.dtype.itemsize}"))


def _check_shape(entry: Entry) -> None:
    """Raise TraceError for token axes that the shape does not have, and for more numbers than any seam has."""
    if any(axis >= len(entry.shape) for axis in entry.token_axes):
        raise TraceError(f"{entry.key} has token axes {list(entry.token_axes)}, but only {len(entry.shape)} axes")
    if math.prod(entry.shape) > _MOST_NUMBERS:
        raise TraceError(f"{entry.key} has the shape {list(entry.shape)}, at most {_MOST_NUMBERS:,} numbers are read")


def _label_entry(key: SeamKey, shape: tuple[int, ...]) -> Entry:
    return Entry(key=key, step="", group="inputs", gate="exact", shape=shape, dtype="uint8")


@cache
def _validator() -> jsonschema.Draft202012Validator:
    """The schema of ``seams.json``: a trace's manifest with shapes of labels, checksums, and no names of tensors."""
    schema = copy.deepcopy(manifest_schema())
    for part in ("labels", "seams"):
        item = schema["properties"][part]["items"]
        del item["properties"]["tensor"]
        item["required"].remove("tensor")
        schema["properties"][part]["maxItems"] = _MOST_SEAMS
        item["properties"]["shape"] = {"type": "array", "maxItems": 8, "items": {"$ref": "#/$defs/count"}}
    labels = schema["properties"]["labels"]["items"]
    labels["required"].append("shape")
    seams = schema["properties"]["seams"]["items"]
    seams["required"].append("crc32")
    seams["properties"]["crc32"] = {"type": ["integer", "null"], "minimum": 0}
    schema["$defs"]["dtype"]["enum"] = list(schema["$defs"]["dtype"]["enum"])
    return jsonschema.Draft202012Validator(schema)
