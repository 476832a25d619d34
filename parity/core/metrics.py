"""Figures of one value: how far each row of the subject is from the reference's, and pooled figures.

All arithmetic is float64, in blocks of rows that stay in the processor's cache. Pooled figures are shown, but not
judged: a pooled cosine of 0.99998 can hide a row that is 140 % wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


def as_rows(array: np.ndarray, token_axes: Sequence[int], *, widen: bool = True) -> np.ndarray:
    """Return a view or copy (rows, numbers in a row): the token axes make the rows, other axes are flattened.

    The result is float64, unless ``widen`` is false: float64 cannot hold all int64 numbers exactly.
    """
    count = len(token_axes)
    first = tuple(token_axes) == tuple(range(count))  # moving axes that are in their place takes long for nothing
    moved = array if first else np.moveaxis(array, list(token_axes), range(count))
    rows, width = (math.prod(part) for part in (moved.shape[:count], moved.shape[count:]))
    flat = moved.reshape(rows, width)  # the token axes -> rows, all others -> width
    return flat.astype(np.float64, copy=False) if widen else flat


@dataclass(frozen=True)
class Distances:
    """How far each row (rows,) is: the norm of the difference, the reference's norm, the largest single difference.

    ``peaks`` is None if it was not asked for.
    """

    distance: np.ndarray
    scale: np.ndarray
    peaks: np.ndarray | None = None

    @property
    def relative(self) -> np.ndarray:
        """Return ``distance / scale``. 0 / 0 is 0, x / 0 is inf."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.distance == 0, 0.0, self.distance / self.scale)


def row_distances(subject: np.ndarray, reference: np.ndarray, *, peaks: bool = False) -> Distances:
    """Return the distances of two (rows, C) arrays of any float dtype, which are widened to float64 block by block."""
    if not (subject.flags.c_contiguous and reference.flags.c_contiguous):
        # numpy adds along the memory: rows that are not stored one after another are added in another order.
        subject, reference = subject.astype(np.float64, copy=False), reference.astype(np.float64, copy=False)
        with np.errstate(all="ignore"):
            difference = subject - reference
            largest = _largest(difference) if peaks else None
            return Distances(row_norms(difference), row_norms(reference), largest)
    count, width = reference.shape
    distance, scale, largest = np.empty(count), np.empty(count), np.empty(count) if peaks else None
    for part in _blocks(count, width):
        with np.errstate(all="ignore"):  # padding may hold anything
            right = reference[part].astype(np.float64, copy=False)
            difference = subject[part].astype(np.float64, copy=False) - right
            distance[part], scale[part] = row_norms(difference), row_norms(right)
            if largest is not None:
                largest[part] = _largest(difference)
    return Distances(distance, scale, largest)


def row_errors(subject: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the relative error ``|s - r| / |r|`` of every row of two (rows, C) arrays. 0 / 0 is 0, x / 0 is inf."""
    return row_distances(subject, reference).relative


def row_norms(rows: np.ndarray) -> np.ndarray:
    """Return the Euclidean norm of every row of (rows, C).

    The squares of numbers below 1e-154 or above 1e154 leave the range of float64, and the norm would be 0 or
    infinite. Rows whose norm is near these limits are scaled by a power of two, which is exact, and measured again.
    """
    norms: np.ndarray = np.sqrt(np.add.reduce(rows * rows, axis=1))
    odd = ~((norms > _SMALL) & (norms < _LARGE))
    if rows.shape[1] and odd.any():
        odd[odd] = rows[odd].any(axis=1)
        _, exponents = np.frexp(np.abs(rows[odd]).max(axis=1, initial=0.0))
        scaled = np.ldexp(rows[odd], -exponents[:, None])
        norms[odd] = np.ldexp(np.linalg.norm(scaled, axis=1), exponents)
    return norms


_SMALL, _LARGE = 1e-140, 1e140
_BLOCK = 2**15  # numbers


def _blocks(rows: int, width: int) -> Iterator[slice]:
    height = max(1, _BLOCK // max(1, width))
    return (slice(top, top + height) for top in range(0, rows, height))


def _largest(difference: np.ndarray) -> np.ndarray:
    """Return the largest absolute number of every row (rows,), without a copy of absolute numbers."""
    largest: np.ndarray = np.maximum(difference.max(axis=1, initial=0.0), -difference.min(axis=1, initial=0.0))
    np.abs(largest, out=largest)  # never -0.0
    return largest


@dataclass(frozen=True)
class Pooled:
    """Figures over all compared numbers of a value. Reports show them, but the verdict does not use them."""

    max_abs: float
    rmse: float
    cosine: float | None  # None if a side is all zero


def pooled(subject: np.ndarray, reference: np.ndarray) -> Pooled:
    """Return the figures over all numbers of two float64 arrays of one shape (rows, C)."""
    difference = subject - reference
    norms = np.linalg.norm(subject) * np.linalg.norm(reference)
    largest = np.maximum(difference.max(initial=0.0), -difference.min(initial=0.0))
    np.multiply(difference, difference, out=difference)
    return Pooled(
        max_abs=float(abs(largest)),
        rmse=float(np.sqrt(np.mean(difference))) if difference.size else 0.0,
        cosine=float(np.vdot(subject, reference) / norms) if norms > 0 else None,
    )


def kl_divergence(subject: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return KL(reference || subject) in nats of every row of two (rows, V) arrays of logits."""
    divergence = np.empty(len(reference))
    for part in _blocks(*reference.shape):
        p, q = _log_softmax(reference[part]), _log_softmax(subject[part])
        divergence[part] = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)
    return divergence


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_softmax
