"""Seams that a bundle does not store, because they are equal bit for bit to others that it has.

A KV cache is the keys or values of the steps so far. The pixels of both stages are those of ``inputs.safetensors``.
"""

from __future__ import annotations

import re

import numpy as np

from parity.bundles.inputs import SEAM_OF, Inputs
from parity.core.errors import TraceError
from parity.core.trace import Entry, SeamKey, Trace

# A cache (B, heads, T, D) is the values (B, S, heads, D) of this seam in all steps so far.
_CACHED = {".attn.k_cache": ".attn.k_rope", ".attn.v_cache": ".attn.v"}
_PIXELS = {SEAM_OF[name]: name for name in ("pixel_values", "pixel_values_videos")}
_PATCHES = re.compile(r"processor\.(images|videos)\.(\d{1,6})\.patches")


def derived(trace: Trace, entry: Entry, inputs: Inputs | None) -> np.ndarray | None:
    """Return the numbers of a seam from other seams of ``trace`` or from ``inputs``; None if there is no such way.

    Rows at padding may have any numbers.
    """
    source = next((entry.key.name.removesuffix(end) + other for end, other in _CACHED.items() if _ends(entry, end)), "")
    if source:
        return _cache(trace, source, entry.key.call)
    if inputs is None:
        return None
    if entry.key in _PIXELS:
        return inputs.read(_PIXELS[entry.key])
    patches = _PATCHES.fullmatch(entry.key.name)
    if patches is not None and entry.key.call == 0:
        return inputs.patches(patches[1], int(patches[2]))
    return None


def _ends(entry: Entry, end: str) -> bool:
    return entry.key.name.endswith(end)


def _cache(trace: Trace, source: str, call: int) -> np.ndarray:
    steps = [trace.read(SeamKey(source, step)) for step in range(call + 1)]
    if any(step.ndim != 4 or step.shape[::2] != steps[0].shape[::2] for step in steps):
        raise TraceError(f"the steps of {source} have shapes {[list(step.shape) for step in steps]}; they do not join")
    joined: np.ndarray = np.moveaxis(np.concatenate(steps, axis=1), 1, 2)  # (B, heads, T, D)
    return joined
