"""Layouts: an engine's own names and axes, mapped to those of the seams by a JSON file. No code is run.

A file has rules. Each takes one tensor, or several that are joined, and gives one seam::

    {"rules": [
      {"from": "blk.{}.q", "to": "text.layers.{}.attn.q_rope", "steps": [{"transpose": [0, 2, 1, 3]}]},
      {"from": ["v.{}.q", "v.{}.k", "v.{}.v"], "to": "vision.blocks.{}.attn.qkv", "join": -1}
    ]}

``{}`` stands for the same number on both sides. Steps are done in order: ``transpose`` (a permutation of the axes),
``reshape`` (one length may be -1), ``slice`` (axis, start, stop), ``add_axis``, ``drop_axis`` (of length 1).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from parity.bundles.jsonfile import check_schema, read_json
from parity.core.errors import TraceError
from parity.core.trace import Entry, SeamKey, Trace, dtype_name


@dataclass(frozen=True)
class _Source:
    """Where a seam's numbers come from: values of the engine, how they are joined, and the steps after that."""

    keys: tuple[SeamKey, ...]
    join: int | None
    steps: tuple[Mapping[str, Any], ...]


class Layout:
    """The rules of a layout file. Raises TraceError for a file that does not follow the schema."""

    def __init__(self, path: Path) -> None:
        self.path = path
        document = read_json(path)
        check_schema(document, _validator(), path)
        self._rules: Sequence[Mapping[str, Any]] = document["rules"]
        self.causal = bool(document.get("causal_mask", False))
        for rule in self._rules:
            names = _names(rule["from"])
            if any(name.count("{}") != rule["to"].count("{}") for name in names):
                raise TraceError(f"{path}: {names[0]!r} and {rule['to']!r} have another number of {{}}")
            if (len(names) > 1) != ("join" in rule):
                raise TraceError(f'{path}: {rule["to"]!r} needs "join" (an axis) if it has several tensors, else none')

    def apply(self, trace: Trace) -> Trace:
        """Return a trace with the names and axes of the seams. Values that no rule takes stay as they are."""
        given = trace.entries()
        sources: dict[SeamKey, _Source] = {}
        used: set[SeamKey] = set()
        for rule in self._rules:
            first, *others = _names(rule["from"])
            pattern = re.compile(re.escape(first).replace(r"\{\}", r"(\d+)"))
            for key in given:
                match = pattern.fullmatch(key.name)
                if match is None:
                    continue
                keys = (key, *(SeamKey(_filled(name, match.groups()), key.call) for name in others))
                absent = next((str(one) for one in keys if one not in given), None)
                if absent is not None:
                    raise TraceError(f"{self.path}: {rule['to']!r} needs {absent}, which the trace does not have")
                target = SeamKey(_filled(rule["to"], match.groups()), key.call)
                if target in sources:
                    raise TraceError(f"{self.path}: two rules give {target}")
                sources[target] = _Source(keys, rule.get("join"), tuple(rule.get("steps", ())))
                used |= set(keys)
        return _LaidOut(trace, sources, used, self.path)


class _LaidOut(Trace):
    def __init__(self, trace: Trace, sources: Mapping[SeamKey, _Source], used: set[SeamKey], path: Path) -> None:
        self.description, self._trace, self._sources, self._path = trace.description, trace, sources, path
        rest = {key: entry for key, entry in trace.entries().items() if key not in used}
        clash = next((key for key in sources if key in rest), None)
        if clash is not None:
            raise TraceError(f"{path}: a rule gives {clash}, which the trace has already")
        self._entries = dict(rest)
        for target, source in sources.items():
            array = self.read(target)
            first = trace.entries()[source.keys[0]]
            self._entries[target] = replace(
                first, key=target, shape=array.shape, dtype=dtype_name(array), token_axes=(), axis_names=(), rows=None
            )

    def entries(self) -> Mapping[SeamKey, Entry]:
        return self._entries

    def read(self, key: SeamKey) -> np.ndarray:
        source = self._sources.get(key)
        if source is None:
            return self._trace.read(key)
        parts = [self._trace.read(one) for one in source.keys]
        try:
            array = parts[0] if source.join is None else np.concatenate(parts, axis=source.join)
            for step in source.steps:
                array = _done(array, step)
        except (ValueError, IndexError, TypeError) as error:
            shapes = ", ".join(str(list(part.shape)) for part in parts)
            raise TraceError(f"{self._path}: {key} cannot be made of {shapes}: {error}") from None
        return np.ascontiguousarray(array)

    def labels(self, key: SeamKey) -> np.ndarray:
        return self._trace.labels(key)


def _done(array: np.ndarray, step: Mapping[str, Any]) -> np.ndarray:
    ((name, value),) = step.items()
    if name == "transpose":
        return np.transpose(array, value)
    if name == "reshape":
        return array.reshape(value)  # to the shape that the file names
    if name == "slice":
        axis, start, stop = value
        return np.take(array, range(*slice(start, stop).indices(array.shape[axis])), axis=axis)
    if name == "add_axis":
        return np.expand_dims(array, value)
    return np.squeeze(array, value)


def _names(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _filled(name: str, numbers: Sequence[str]) -> str:
    parts = name.split("{}")
    return "".join(part + number for part, number in zip(parts, (*numbers, ""), strict=True))


@cache
def _validator() -> jsonschema.Draft202012Validator:
    text = resources.files("parity.bundles").joinpath("layout.schema.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))
