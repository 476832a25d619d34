"""Trace folders: ``manifest.json`` and safetensors files. They are written during the run, and read by tensor."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any

import jsonschema
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from parity.core.errors import TraceError
from parity.core.mapped import MappedFile
from parity.core.metrics import as_rows
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

MANIFEST = "manifest.json"
_SHARD_BYTES = 64 * 2**20
# Limits against hostile manifests. The largest released model has 94 layers and 1,400 seams per step.
_MANIFEST_BYTES = 64 * 2**20
_MOST_SEAMS = 50_000
_TENSOR = "{name}#{call}"


class TraceWriter:
    """Writes a trace while it is produced, with at most one shard in memory.

    Use as a context manager. The folder is written under a temporary name and renamed when the block ends without an
    error, so it is never incomplete.
    """

    def __init__(self, folder: Path, description: Description, *, order: Sequence[SeamKey] = ()) -> None:
        """``order`` is the order of the values in the manifest. Other values come last, in the order of the run."""
        self.folder = Path(folder)
        self.description = description
        self._order = {key: place for place, key in enumerate(order)}
        self._seams: list[dict[str, Any]] = []
        self._labels: list[dict[str, Any]] = []
        self._pending: dict[str, np.ndarray] = {}
        self._given: set[str] = set()
        self._bytes = 0
        self._shard = 0

    def __enter__(self) -> TraceWriter:
        if self.folder.exists():
            raise TraceError(f"{self.folder} exists already; name a new folder or remove it first")
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}-", dir=self.folder.parent))
        except OSError as error:
            raise TraceError(f"{self.folder} cannot be written: {error}; name another folder") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        try:
            if kind is None:
                if not self._seams:
                    raise TraceError(f"the run gave no seam, so there is no trace to write to {self.folder}")
                self._flush()
                self._write_manifest()
                self._temporary.chmod(0o755)  # mkdtemp makes it private
                os.replace(self._temporary, self.folder)
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def add(self, entry: Entry, array: np.ndarray) -> None:
        check_value(entry, array)
        self._seams.append({**entry_to_json(entry), **self._store(entry.key, array)})

    def add_labels(self, key: SeamKey, kinds: np.ndarray) -> None:
        self._labels.append({"name": key.name, "call": key.call, **self._store(key, kinds)})

    def _store(self, key: SeamKey, array: np.ndarray) -> dict[str, str]:
        tensor = _TENSOR.format(name=key.name, call=key.call)
        if tensor in self._given:
            raise TraceError(f"the value {key} is there twice")
        self._given.add(tensor)
        self._pending[tensor] = np.ascontiguousarray(array)
        place = {"file": self._file(), "tensor": tensor}
        self._bytes += array.nbytes
        if self._bytes >= _SHARD_BYTES:
            self._flush()
        return place

    def _file(self) -> str:
        return f"seams-{self._shard:05d}.safetensors"

    def _flush(self) -> None:
        if self._pending:
            save_file(self._pending, self._temporary / self._file())
            self._pending, self._bytes = {}, 0
            self._shard += 1

    def _place_in_order(self, seam: Mapping[str, Any]) -> int:
        return self._order.get(SeamKey(seam["name"], seam["call"]), len(self._order))

    def _write_manifest(self) -> None:
        description = self.description
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "producer": {"name": description.producer, "detail": description.detail},
            "model": {"checkpoint_sha256": description.checkpoint},
            "dtype": description.dtype,
            "case": description.case,
            "kinds": {str(code): name for code, name in description.kinds.items()},
            "labels": self._labels,
            "seams": sorted(self._seams, key=self._place_in_order),
        }
        (self._temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


class FolderTrace(Trace):
    """A trace folder. Its manifest is checked when it is opened; tensors are only read when needed."""

    _own = False  # whether this process has written it, so that its manifest needs no check

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        manifest = _read_manifest(self.folder)
        problems = [] if self._own else _schema_problems(manifest)
        if problems:
            raise TraceError(f"{self.folder / MANIFEST}: {problems[0]}" + _more(problems))
        self.description = Description(
            producer=manifest["producer"]["name"],
            detail=manifest["producer"]["detail"],
            dtype=manifest["dtype"],
            case=manifest["case"],
            checkpoint=manifest["model"]["checkpoint_sha256"],
            kinds={int(code): name for code, name in manifest["kinds"].items()},
        )
        self._handles: dict[str, Any] = {}
        self._entries: dict[SeamKey, Entry] = {}
        self._place: dict[SeamKey, tuple[str, str]] = {}
        for seam in manifest["seams"]:
            entry = entry_from_json(seam)
            if entry.key in self._entries:
                raise TraceError(f"{self.folder / MANIFEST}: the value {entry.key} is listed twice")
            self._entries[entry.key] = entry
            self._place[entry.key] = (seam["file"], seam["tensor"])
        for label in manifest["labels"]:
            key = SeamKey(label["name"], label["call"])
            if key in self._place:
                raise TraceError(f"{self.folder / MANIFEST}: the labels {key} are listed twice, or are a seam too")
            self._place[key] = (label["file"], label["tensor"])

    def entries(self) -> Mapping[SeamKey, Entry]:
        return self._entries

    def read(self, key: SeamKey) -> np.ndarray:
        if key not in self._entries:
            raise TraceError(f"{self.folder} has no value {key}")
        array = self._tensor(key, self._entries[key].shape)
        check_value(self._entries[key], array)
        return array

    def labels(self, key: SeamKey) -> np.ndarray:
        array = self._tensor(key)
        if array.dtype != np.uint8:
            raise TraceError(f"{self.folder}: row labels {key} are {array.dtype}, must be uint8")
        return array

    def _tensor(self, key: SeamKey, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Read the numbers of a value. Raises TraceError before that if the file's header has another ``shape``."""
        if key not in self._place:
            raise TraceError(f"{self.folder} has no value {key}")
        name, tensor = self._place[key]
        path = self.folder / name
        try:
            if name not in self._handles:
                if path.exists() and not path.is_file():
                    raise TraceError(f"{path} is not a regular file (a pipe or a device may never end)")
                # Files are mapped and stay open, because parsing the header again for each tensor is slow.
                self._handles[name] = safe_open(path, framework="np").__enter__()  # type: ignore[no-untyped-call]
            handle = self._handles[name]
            found = tuple(handle.get_slice(tensor).get_shape())
            if shape is not None and found != shape:
                raise TraceError(f"{key} is declared {list(shape)}, its tensor in {path} is {list(found)}")
            array: np.ndarray = handle.get_tensor(tensor)
            return array
        except (OSError, SafetensorError, AttributeError, TypeError) as error:  # numpy lacks some safetensors dtypes
            raise TraceError(f"{path} does not give {tensor!r} for {key}: {error}") from None


class SpoolTrace(FolderTrace):
    """A trace folder that this process has written and that nobody else changes. Tensors are views of its files.

    At most the file that was read last stays in memory.
    """

    _own = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._files: dict[str, MappedFile] = {}
        self._last: MappedFile | None = None

    def _tensor(self, key: SeamKey, shape: tuple[int, ...] | None = None) -> np.ndarray:
        if key not in self._place:
            raise TraceError(f"{self.folder} has no value {key}")
        name, tensor = self._place[key]
        if name not in self._files:
            self._files[name] = MappedFile(self.folder / name)
        file = self._files[name]
        if file is not self._last:
            if self._last is not None:
                self._last.let_go()
            self._last = file
        return file.tensor(tensor)


def check_folder(folder: Path) -> list[str]:
    """Return everything that is wrong with a trace folder, one sentence each. Empty if it is valid."""
    try:
        manifest = _read_manifest(Path(folder))
    except TraceError as error:
        return [str(error)]
    problems = _schema_problems(manifest)
    if problems:
        return problems
    try:
        trace = FolderTrace(folder)
    except TraceError as error:
        return [str(error)]
    listed: dict[str, set[str]] = {}
    for place in (*manifest["seams"], *manifest["labels"]):
        listed.setdefault(place["file"], set()).add(place["tensor"])
    for entry in trace:
        problems.extend(_entry_problems(trace, entry))
    used = {entry.rows for entry in trace}
    for label in manifest["labels"]:
        key = SeamKey(label["name"], label["call"])
        if key not in used:  # the others were checked with their seams
            try:
                trace.labels(key)
            except TraceError as error:
                problems.append(str(error))
    for name, tensors in sorted(listed.items()):
        if not (trace.folder / name).is_file():
            continue  # already reported for its values
        try:
            with safe_open(trace.folder / name, framework="np") as handle:
                extra = set(handle.keys()) - tensors
        except (OSError, SafetensorError):
            continue  # already reported for its values
        if extra:
            problems.append(f"{name} holds {len(extra)} tensors that no seam lists: {', '.join(sorted(extra)[:10])}")
    return problems


def _entry_problems(trace: FolderTrace, entry: Entry) -> list[str]:
    try:
        array = trace.read(entry.key)
        kinds = None if entry.rows is None else trace.labels(entry.rows)
    except TraceError as error:
        return [str(error)]
    problems = []
    if kinds is not None and kinds.shape != entry.token_shape:
        problems.append(
            f"{entry.key} has rows {list(entry.token_shape)}, its labels {entry.rows} are {list(kinds.shape)}"
        )
        return problems
    rows = as_rows(array, entry.token_axes)
    if kinds is not None:
        rows = rows[kinds.reshape(-1) != PADDING]
    if not bool(np.isfinite(rows).all()):
        problems.append(f"{entry.key} holds NaN or Inf")
    return problems


def entry_to_json(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.key.name,
        "call": entry.key.call,
        "step": entry.step,
        "group": entry.group,
        "gate": entry.gate,
        "shape": list(entry.shape),
        "dtype": entry.dtype,
        "token_axes": list(entry.token_axes),
        "axis_names": list(entry.axis_names),
        "rows": None if entry.rows is None else {"name": entry.rows.name, "call": entry.rows.call},
        "unit": entry.unit,
    }


def entry_from_json(seam: Mapping[str, Any]) -> Entry:
    rows = seam["rows"]
    return Entry(
        key=SeamKey(seam["name"], seam["call"]),
        step=seam["step"],
        group=seam["group"],
        gate=seam["gate"],
        shape=tuple(seam["shape"]),
        dtype=seam["dtype"],
        token_axes=tuple(seam["token_axes"]),
        axis_names=tuple(seam["axis_names"]),
        rows=None if rows is None else SeamKey(rows["name"], rows["call"]),
        unit=seam.get("unit", 1.0),
    )


@cache
def manifest_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``manifest.json``."""
    text = resources.files("parity.core").joinpath("trace.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    schema["$defs"]["dtype"]["enum"] = list(DTYPES)
    schema["$defs"]["ran_in"]["enum"] = [*DTYPES, "tf32"]
    return schema


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise TraceError(f"{path} is not a regular file (a pipe or a device may never end); copy it to a file")
        if status.st_size > _MANIFEST_BYTES:
            raise TraceError(f"{path} has {status.st_size:,} bytes, at most {_MANIFEST_BYTES:,} are read")
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TraceError(f"{path} does not exist; a trace is a folder with a {MANIFEST}") from None
    except RecursionError:
        raise TraceError(f"{path} is nested too deeply") from None
    except TraceError:
        raise
    except (OSError, ValueError) as error:  # not UTF-8, not JSON, or a number with thousands of digits
        raise TraceError(f"{path} cannot be read: {error}") from None
    for name in ("seams", "labels"):
        listed = manifest.get(name) if isinstance(manifest, dict) else None
        if isinstance(listed, list) and len(listed) > _MOST_SEAMS:
            raise TraceError(f"{path} lists {len(listed):,} {name}, at most {_MOST_SEAMS:,} are read")
    return manifest


def _schema_problems(manifest: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(manifest_schema())
    found = sorted(validator.iter_errors(manifest), key=lambda error: error.json_path)
    return [f"{error.json_path}: {error.message}" for error in found]


def _more(problems: list[str]) -> str:
    return f" (and {len(problems) - 1} more; `parity trace check` lists them)" if len(problems) > 1 else ""
