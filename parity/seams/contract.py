"""Whether a reference's trace is what this project's reference gives: every seam, its gate, its rows.

A reference that lacks a seam, counts in steps of any size, or calls rows padding would let mistakes through.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from parity.core.errors import TraceError
from parity.core.trace import PADDING, Entry, SeamKey, Trace
from parity.seams.model import Dimensions, expected_model_seams, model_specs
from parity.seams.processor import processor_specs
from parity.seams.spec import Expected, SeamSpec, label_key

_LARGEST_STEP = 1.0  # of an 8-bit pixel; normalised ones have smaller steps
_SHOWN = 5


def check_reference(trace: Trace) -> None:
    """Raise TraceError for a seam with another gate, rows or steps than it has, and for seams that are missing.

    Seams of other names are not known here, and left alone.
    """
    specs = {_pattern(spec): spec for spec in (*model_specs(), *processor_specs())}
    known = [(entry, spec) for entry in trace for pattern, spec in specs.items() if pattern.fullmatch(entry.key.name)]
    for entry, spec in known:
        _check_entry(entry, spec)
    model = [pattern for pattern, spec in specs.items() if not spec.name.startswith("processor.")]
    if any(pattern.fullmatch(entry.key.name) for entry in trace for pattern in model):
        _check_complete(trace)
        _check_padding(trace)


def check_expected(trace: Trace, expected: Sequence[Expected]) -> None:
    """Raise TraceError unless a trace has exactly the expected values, each with its step, group, rows and unit."""
    wanted, found = {item.key: item for item in expected}, trace.entries()
    for what, keys in (("lacks", set(wanted) - set(found)), ("has unknown", set(found) - set(wanted))):
        if keys:
            shown = ", ".join(map(str, sorted(keys)[:_SHOWN]))
            raise TraceError(f"the reference {what} seams ({len(keys)}): {shown}; nothing could be said about them")
    for key, item in wanted.items():
        entry = found[key]
        given = (entry.step, entry.group, entry.rows, entry.unit, tuple(entry.axis_names))
        own = (item.step, item.spec.group, item.rows, item.unit, item.spec.axis_names)
        if given != own:
            raise TraceError(f"the reference describes {key} with {given}, it has {own}")


def _pattern(spec: SeamSpec) -> re.Pattern[str]:
    return re.compile(re.escape(spec.name).replace(r"\{\}", r"\d+"))


def _check_entry(entry: Entry, spec: SeamSpec) -> None:
    if entry.gate != spec.gate:
        raise TraceError(f"the reference gives {entry.key} the gate {entry.gate!r}, it has the gate {spec.gate!r}")
    if tuple(entry.token_axes) != spec.token_axes:
        raise TraceError(
            f"the reference gives {entry.key} the token axes {list(entry.token_axes)}, it has {list(spec.token_axes)}"
        )
    if (entry.rows is None) != (spec.rows is None):
        raise TraceError(f"the reference gives {entry.key} row labels {entry.rows}, its rows are {spec.rows}")
    if entry.gate == "steps" and entry.unit > _LARGEST_STEP:
        raise TraceError(f"the reference counts {entry.key} in steps of {entry.unit:g}, at most {_LARGEST_STEP:g}")


def _check_complete(trace: Trace) -> None:
    names = {key.name for key in trace.entries()}
    dimensions = Dimensions(
        _count(names, r"vision\.blocks\.(\d+)\..*"),
        _count(names, r"vision\.deepstack\.(\d+)"),
        _count(names, r"text\.layers\.(\d+)\..*"),
    )
    expected = expected_model_seams(
        dimensions,
        decode_steps=max((key.call for key in trace.entries() if not key.name.startswith("vision.")), default=0),
        images=any(name.startswith("image_") for name in names),
        videos=any(name.startswith("video_") for name in names),
    )
    missing = [str(item.key) for item in expected if item.key not in trace.entries()]
    if missing:
        raise TraceError(
            f"the reference lacks {len(missing)} seams that its model has: {', '.join(missing[:_SHOWN])}; nothing "
            "could be said about them"
        )


def _count(names: set[str], pattern: str) -> int:
    found = [int(match.group(1)) for name in names if (match := re.fullmatch(pattern, name))]
    return max(found, default=-1) + 1


def _check_padding(trace: Trace) -> None:
    """Only tokens that the attention mask hides are padding."""
    hidden = trace.read(SeamKey("attention_mask", 0)) == 0  # (B, S)
    for key in sorted({entry.rows for entry in trace if entry.rows is not None}):
        found = trace.labels(key) == PADDING
        wanted = np.zeros_like(found)
        if key == label_key("tokens", 0):
            wanted = hidden
        elif key.name == label_key("keys", 0).name:
            wanted[:, : hidden.shape[1]] = hidden
        if found.shape != wanted.shape or (found != wanted).any():
            raise TraceError(
                f"the labels {key} of the reference call {int(found.sum())} rows padding, the attention mask "
                f"{int(wanted.sum())}"
            )
