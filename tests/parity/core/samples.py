"""Small traces for the tests of the core. They are not specific to Qwen3-VL and need no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from parity.core.compare import Comparison, Finding, compare
from parity.core.floors import Floors
from parity.core.folder import TraceWriter
from parity.core.gates import FloatGate
from parity.core.trace import PADDING, Description, Entry, MemoryTrace, SeamKey, dtype_name

KINDS = {0: "text", 1: "image"}
ROWS = SeamKey("rows.tokens", 0)
GATE = FloatGate(m=8.0, ulps=8.0)
Change = Callable[[np.ndarray], np.ndarray]


def description(producer: str = "reference", dtype: str = "float32") -> Description:
    return Description(producer, "1.0", dtype, "sample", checkpoint="0" * 64, kinds=KINDS)


def entry(name: str, array: np.ndarray, *, gate: str | None = None, **options: Any) -> Entry:
    """Make an entry (batch, token, ...) for an array, with an exact gate for whole numbers."""
    discrete = array.dtype.kind in "biu"
    fields: dict[str, Any] = {
        "step": "prefill",
        "group": "text",
        "gate": gate or ("exact" if discrete else "float"),
        "shape": array.shape,
        "dtype": dtype_name(array),
        "token_axes": (0, 1),
        "axis_names": ("batch", "token"),
        "rows": ROWS,
    }
    return Entry(key=SeamKey(name, options.pop("call", 0)), **{**fields, **options})


def labels(batch: int = 2, tokens: int = 4, padding: int = 1) -> np.ndarray:
    """Make row labels. Row 0 starts with ``padding`` tokens; the last token of every row is an image."""
    kinds = np.zeros((batch, tokens), dtype=np.uint8)
    kinds[:, -1:] = 1
    kinds[0, :padding] = PADDING
    return kinds


def values(seed: int = 0, batch: int = 2, tokens: int = 4) -> dict[str, np.ndarray]:
    """Make ids, a hidden state and logits of one pass."""
    rng = np.random.default_rng(seed)
    return {
        "ids": rng.integers(0, 1000, (batch, tokens)),
        "hidden": rng.standard_normal((batch, tokens, 16)).astype(np.float32),
        "scores": rng.standard_normal((batch, tokens, 32)).astype(np.float32),
    }


def entries(arrays: dict[str, np.ndarray]) -> list[Entry]:
    return [entry(name, array, group="output" if name == "scores" else "text") for name, array in arrays.items()]


def memory_trace(arrays: dict[str, np.ndarray], kinds: np.ndarray | None = None) -> MemoryTrace:
    trace = MemoryTrace(description())
    trace.add_labels(ROWS, labels() if kinds is None else kinds)
    for item, array in zip(entries(arrays), arrays.values(), strict=True):
        trace.add(item, array)
    return trace


def write_folder(folder: Path, arrays: dict[str, np.ndarray], kinds: np.ndarray | None = None) -> Path:
    with TraceWriter(folder, description()) as writer:
        writer.add_labels(ROWS, labels() if kinds is None else kinds)
        for item, array in zip(entries(arrays), arrays.values(), strict=True):
            writer.add(item, array)
    return folder


def nudged(array: np.ndarray, relative: float, seed: int = 1) -> np.ndarray:
    """Move every row by ``relative`` times its norm, in a random direction."""
    if array.dtype.kind in "biu":
        return array.copy()
    wide = array.astype(np.float64)
    noise = np.random.default_rng(seed).standard_normal(wide.shape)
    noise *= np.linalg.norm(wide, axis=-1, keepdims=True) / np.linalg.norm(noise, axis=-1, keepdims=True)
    return (wide + relative * noise).astype(array.dtype)


def floors(trace: MemoryTrace, *runs: dict[str, np.ndarray]) -> Floors:
    measured = Floors(trace)
    for run in runs:
        for item in trace:
            if item.gate == "float":
                measured.observe(item, run[item.key.name])
    return measured


def comparison(trace: MemoryTrace, spread: float = 1e-6, **options: Any) -> Comparison:
    """Make a comparison with floors of ``spread`` on every row."""
    run = {item.key.name: nudged(trace.read(item.key), spread) for item in trace}
    return Comparison(trace, floors(trace, run), GATE, **options)


def judged(arrays: dict[str, np.ndarray], trace: MemoryTrace, spread: float = 1e-6) -> dict[str, Finding]:
    """Return the findings, by name, of a subject that gives ``arrays``."""
    return {f.entry.key.name: f for f in compare(memory_trace(arrays), comparison(trace, spread))}
