"""Predicts a seam from others, so that only what the prediction misses has to be stored.

Nothing depends on a prediction being right: a bundle stores the difference of the bits, which is zero for caches and
pixels, a few ulps for rotated queries and keys, and costs space where a prediction is wrong. No prediction follows a
chain that grows with the number of layers.

Shape legend
    B, S, T   batch, tokens of the step, tokens so far
    H, D      heads, channels of a head
    N, F      patches, frames
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from parity.bundles.inputs import PASSES, SEAM_OF, Inputs
from parity.core.trace import DTYPES, Entry, SeamKey, Trace

# A cache (B, H, T, D) is the values (B, S, H, D) of this seam in all steps so far.
_CACHED = {"k_cache": "k_rope", "v_cache": "v"}
_CACHE = re.compile(r"(text\.layers\.\d+\.attn)\.(k_cache|v_cache)")
_ROTATED = re.compile(r"((text|vision)\.(?:layers|blocks)\.\d+\.attn)\.([qk])_rope")
_PATCHES = re.compile(r"processor\.(images|videos)\.(\d{1,6})\.patches")
_PIXELS = {SEAM_OF[name]: name for name in ("pixel_values", "pixel_values_videos")}


@dataclass(frozen=True)
class Known:
    """What predictions may use beside the trace: the model's inputs, and how many patches are merged on each side."""

    inputs: Inputs | None = None
    merge: int = 1


NOTHING = Known()


def predicted(trace: Trace, entry: Entry, known: Known) -> np.ndarray | None:
    """Return a prediction of a seam with its shape and dtype, or None if there is none."""
    found = _predicted(trace, entry, known)
    if found is None or found.shape != entry.shape:
        return None
    return found.astype(DTYPES[entry.dtype])


def _predicted(trace: Trace, entry: Entry, known: Known) -> np.ndarray | None:
    name, call = entry.key
    if cache := _CACHE.fullmatch(name):
        return _joined(trace, f"{cache[1]}.{_CACHED[cache[2]]}", call)
    if rotated := _ROTATED.fullmatch(name):
        return _rotated(trace, rotated[1], rotated[2], rotated[3], call)
    if known.inputs is not None and entry.key in _PIXELS:
        return known.inputs.read(_PIXELS[entry.key])
    if patches := _PATCHES.fullmatch(name):
        return _patches(trace, patches[1], int(patches[2]), known)
    return None


def _joined(trace: Trace, source: str, call: int) -> np.ndarray | None:
    keys = [SeamKey(source, step) for step in range(call + 1)]
    if any(key not in trace.entries() for key in keys):
        return None
    shapes = [trace.entries()[key].shape for key in keys]
    if any(len(shape) != 4 or (shape[0], shape[2:]) != (shapes[0][0], shapes[0][2:]) for shape in shapes):
        return None
    joined: np.ndarray = np.moveaxis(np.concatenate([trace.read(key) for key in keys], axis=1), 1, 2)
    return joined


def _rotated(trace: Trace, attention: str, tower: str, which: str, call: int) -> np.ndarray | None:
    """Rotate queries or keys: (B, S, H, D) of the text model, (N, H, D) of the vision tower."""
    source = f"{attention}.{which}_norm" if tower == "text" else f"{attention}.qkv"
    keys = [SeamKey(name, call) for name in (source, f"{tower}.rope_cos", f"{tower}.rope_sin")]
    if any(key not in trace.entries() for key in keys):
        return None
    x, cos, sin = (trace.read(key).astype(np.float64) for key in keys)
    width = cos.shape[-1]
    if tower == "vision" and x.ndim == 2 and width and x.shape[1] % (3 * width) == 0:
        x = x.reshape(len(x), 3, -1, width)[:, "qk".index(which)]
    if x.shape[-1] != width or x.shape[:-2] != cos.shape[:-1] or width % 2:
        return None
    half = np.concatenate([-x[..., width // 2 :], x[..., : width // 2]], axis=-1)
    return x * cos[..., None, :] + half * sin[..., None, :]


def _patches(trace: Trace, kind: str, index: int, known: Known) -> np.ndarray | None:
    """The patches of a picture or video are those that the model is fed, or else its resized frames, normalised."""
    if known.inputs is not None and PASSES[kind][0] in known.inputs.names:
        return known.inputs.patches(kind, index)
    resized = SeamKey(f"processor.{kind}.{index}.resized", 0)
    grid = SeamKey(f"processor.{kind.removesuffix('s')}_grid_thw", 0)
    own = SeamKey(f"processor.{kind}.{index}.patches", 0)
    if resized not in trace.entries() or grid not in trace.entries():
        return None
    grids = trace.read(grid)
    if index >= len(grids):
        return None
    return cut(trace.read(resized), tuple(map(int, grids[index])), trace.entries()[own].shape, known.merge)


def cut(frames: np.ndarray, grid: tuple[int, ...], shape: tuple[int, ...], merge: int) -> np.ndarray | None:
    """Cut frames (F, y, x, 3) of 8-bit pixels into patches (N, 3 * T * P * P) in [-1, 1], as released models take them.

    ``grid`` is the number of patches in time and on both sides. The last frame is repeated to fill the last patch.
    """
    if frames.ndim != 4 or len(shape) != 2 or 0 in grid or merge < 1:
        return None
    time, high, wide = grid
    side = frames.shape[1] // high
    channels = frames.shape[3]
    depth = shape[1] // max(1, channels * side * side)
    fits = frames.shape[1:3] == (high * side, wide * side) and high % merge == 0 and wide % merge == 0
    missing = time * depth - len(frames)
    if not fits or not 0 <= missing < max(depth, 2) or shape != (time * high * wide, channels * depth * side * side):
        return None
    filled = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
    tiled = filled.reshape(time, depth, high // merge, merge, side, wide // merge, merge, side, channels)
    moved = tiled.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)  # time, y and x of merged patches, of patches, C, T, P, P
    return (moved.astype(np.float32).reshape(shape) - np.float32(127.5)) / np.float32(127.5)
