"""Turns an engine's named tensors into values: counts calls, joins chunks, converts to numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from parity.core.trace import SeamKey, Trace
from parity.seams.spec import Expected, SeamSpec

OnValue = Callable[[SeamKey, np.ndarray], object]


class Recorder:
    """A sink for tensors. Each complete value goes to ``on_value`` as a numpy array.

    The array is a new one that may be kept. Without ``copies`` it may be a view of the engine's tensor, which the
    engine changes later.

    ``chunks`` is the number of chunks in the engine's prefill. The pieces of a text seam are joined, so that a chunked
    prefill can be compared with a whole one. With ``instead``, each of the engine's tensors is replaced by the value in
    that trace, so that each part computes on the trace's inputs. With ``nudge`` (a seed), these inputs are moved by one
    ulp of float32, up or down, so that floors show how much a part magnifies rounding; narrower dtypes are not moved.
    """

    def __init__(
        self,
        expected: Iterable[Expected],
        on_value: OnValue,
        *,
        chunks: int = 1,
        instead: Trace | None = None,
        nudge: int | None = None,
        copies: bool = True,
    ) -> None:
        self._copies = copies
        self._specs: dict[str, SeamSpec] = {item.key.name: item.spec for item in expected}
        self._on_value = on_value
        self._chunks = chunks
        self._instead = instead
        self._nudge = None if nudge is None else torch.Generator().manual_seed(nudge)
        self._calls: dict[str, int] = {}
        self._pieces: dict[str, list[np.ndarray]] = {}

    def __call__(self, name: str, tensor: Tensor) -> Tensor | None:
        spec = self._specs.get(name)
        array = to_numpy(tensor, copy=self._copies or self._chunks > 1)
        key = SeamKey(name, self._calls.get(name, 0))
        pieces = self._pieces.setdefault(name, [])
        start = sum(piece.shape[spec.chunk_axis] for piece in pieces) if spec and pieces and spec.chunked else 0
        pieces.append(array)
        whole = self._chunks == 1 or spec is None or spec.join == "once" or key.call > 0
        if whole or len(pieces) == self._chunks:
            self._calls[name] = key.call + 1
            del self._pieces[name]
            self._on_value(key, array if whole or spec is None else join(pieces, spec))
        return self._replacement(key, spec, tensor, start)

    def _replacement(self, key: SeamKey, spec: SeamSpec | None, tensor: Tensor, start: int) -> Tensor | None:
        """Return the numbers of ``instead`` for this piece, or None if it has none with this shape."""
        if self._instead is None or spec is None or key not in self._instead.entries():
            return None
        wanted = piece_of(self._instead.read(key), spec, start, tuple(tensor.shape))
        if wanted.shape != tuple(tensor.shape):
            return None  # a wrong shape gets its own finding
        given = torch.from_numpy(np.ascontiguousarray(wanted)).to(tensor.dtype, copy=True)
        if self._nudge is not None and given.dtype == torch.float32:
            from reference.nudge import moved  # imports transformers, which recording does not need

            given = moved(given, self._nudge)
        return given.to(tensor.device)


def piece_of(whole: np.ndarray, spec: SeamSpec, start: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the part of a whole value for a piece of ``shape`` that begins at token ``start``."""
    if spec.join == "last":
        return whole[:, :, : shape[2]]  # (B, K, T so far, D)
    if spec.join in ("concat", "mask"):
        axis = spec.chunk_axis
        whole = whole[(slice(None),) * axis + (slice(start, start + shape[axis]),)]
    return whole[..., : shape[-1]] if spec.join == "mask" else whole


def both(first: OnValue, second: OnValue) -> OnValue:
    """Return a function that passes every value to two others."""

    def on_value(key: SeamKey, array: np.ndarray) -> None:
        first(key, array)
        second(key, array)

    return on_value


def join(pieces: list[np.ndarray], spec: SeamSpec) -> np.ndarray:
    """Join the pieces of a chunked prefill to one value."""
    if spec.join == "last":
        return pieces[-1]  # a cache also holds the earlier pieces
    if spec.join == "mask":
        total = pieces[-1].shape[-1]
        pieces = [np.pad(piece, [(0, 0)] * (piece.ndim - 1) + [(0, total - piece.shape[-1])]) for piece in pieces]
    return np.concatenate(pieces, axis=spec.chunk_axis)


def to_numpy(tensor: Tensor, *, copy: bool = True) -> np.ndarray:
    """Return a numpy array with the same dtype, also for bfloat16: a copy, or else a view if that is possible."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        bits = tensor.view(torch.int16).numpy()
        return (bits.copy() if copy else bits).view(ml_dtypes.bfloat16)
    array: np.ndarray = tensor.numpy()
    return array.copy() if copy else array
