"""Figures of one value: how far each row of the subject is from the reference's, and pooled figures.

All arithmetic is float64. Pooled figures are shown, but not judged: a pooled cosine of 0.99998 can hide a row that is
140 % wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def as_rows(array: np.ndarray, token_axes: Sequence[int], *, widen: bool = True) -> np.ndarray:
    """Return a view or copy (rows, numbers in a row): the token axes make the rows, other axes are flattened.

    The result is float64, unless ``widen`` is false: float64 cannot hold all int64 numbers exactly.
    """
    moved = np.moveaxis(array, list(token_axes), range(len(token_axes)))
    rows, width = (math.prod(part) for part in (moved.shape[: len(token_axes)], moved.shape[len(token_axes) :]))
    flat = moved.reshape(rows, width)
    return flat.astype(np.float64) if widen else flat


def row_errors(subject: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the relative error ``|s - r| / |r|`` of every row of two (rows, C) arrays. 0 / 0 is 0, x / 0 is inf."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # padding may hold anything
        distance, scale = row_norms(subject - reference), row_norms(reference)
        return np.where(distance == 0, 0.0, distance / scale)


def row_norms(rows: np.ndarray) -> np.ndarray:
    """Return the Euclidean norm of every row of (rows, C).

    The squares of numbers below 1e-154 or above 1e154 leave the range of float64, and the norm would be 0 or
    infinite. Rows whose norm is near these limits are scaled by a power of two, which is exact, and measured again.
    """
    norms: np.ndarray = np.linalg.norm(rows, axis=1)
    odd = ~((norms > _SMALL) & (norms < _LARGE)) & rows.any(axis=1) if rows.shape[1] else np.zeros(len(rows), bool)
    if odd.any():
        _, exponents = np.frexp(np.abs(rows[odd]).max(axis=1))
        scaled = np.ldexp(rows[odd], -exponents[:, None])
        norms[odd] = np.ldexp(np.linalg.norm(scaled, axis=1), exponents)
    return norms


_SMALL, _LARGE = 1e-140, 1e140


@dataclass(frozen=True)
class Pooled:
    """Figures over all compared numbers of a value. Reports show them, but the verdict does not use them."""

    max_abs: float
    rmse: float
    cosine: float | None  # None if a side is all zero


def pooled(subject: np.ndarray, reference: np.ndarray) -> Pooled:
    difference = subject - reference
    norms = np.linalg.norm(subject) * np.linalg.norm(reference)
    return Pooled(
        max_abs=float(np.abs(difference).max(initial=0.0)),
        rmse=float(np.sqrt(np.mean(difference**2))) if difference.size else 0.0,
        cosine=float(np.vdot(subject, reference) / norms) if norms > 0 else None,
    )


def kl_divergence(subject: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return KL(reference || subject) in nats of every row of two (rows, V) arrays of logits."""
    p, q = _log_softmax(reference), _log_softmax(subject)
    divergence: np.ndarray = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)
    return divergence


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_softmax
