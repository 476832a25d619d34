"""From an engine's stream of named tensors to readings: call counts, chunks joined, torch to numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from parity.core.trace import SeamKey
from parity.qwen3vl.seams import Expected, SeamSpec

OnReading = Callable[[SeamKey, np.ndarray], object]


class Recorder:
    """A sink for tensors. Each complete reading goes to ``on_reading`` as a numpy array of its own.

    ``chunks`` is how many pieces the engine's prefill comes in: the pieces of a text seam are joined, so that a
    chunked prefill is judged against a whole one.
    """

    def __init__(self, expected: Iterable[Expected], on_reading: OnReading, *, chunks: int = 1) -> None:
        self._specs: dict[str, SeamSpec] = {item.key.name: item.spec for item in expected}
        self._on_reading = on_reading
        self._chunks = chunks
        self._calls: dict[str, int] = {}
        self._pieces: dict[str, list[np.ndarray]] = {}

    def __call__(self, name: str, tensor: Tensor) -> None:
        array = to_numpy(tensor)
        spec = self._specs.get(name)
        if self._chunks > 1 and spec is not None and spec.join != "once" and name not in self._calls:
            pieces = self._pieces.setdefault(name, [])
            pieces.append(array)
            if len(pieces) < self._chunks:
                return
            array = join(self._pieces.pop(name), spec)
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        self._on_reading(SeamKey(name, call), array)


def both(first: OnReading, second: OnReading) -> OnReading:
    """Every reading to two places."""

    def on_reading(key: SeamKey, array: np.ndarray) -> None:
        first(key, array)
        second(key, array)

    return on_reading


def join(pieces: list[np.ndarray], spec: SeamSpec) -> np.ndarray:
    """One reading from the pieces of a chunked prefill."""
    if spec.join == "last":
        return pieces[-1]  # a cache holds everything so far
    if spec.join == "mask":
        total = pieces[-1].shape[-1]
        pieces = [np.pad(piece, [(0, 0)] * (piece.ndim - 1) + [(0, total - piece.shape[-1])]) for piece in pieces]
    return np.concatenate(pieces, axis=spec.chunk_axis)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A numpy copy in the same dtype; bfloat16 keeps its bits."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().copy().view(ml_dtypes.bfloat16)
    return tensor.numpy().copy()
