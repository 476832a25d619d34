"""How a bundle stores a tensor: only the rows that are compared, as compressed bytes.

Rows at padding are never compared, so they are not stored and are read as zeros. The bytes of the numbers are put in
planes (all first bytes, then all second bytes, ...) before they are compressed: signs and exponents then lie together,
and pixels take a quarter of their size. Nothing is lost.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

from parity.core.errors import TraceError
from parity.core.metrics import as_rows
from parity.core.trace import DTYPES, Entry

_LEVEL = 6


def compared_rows(array: np.ndarray, token_axes: tuple[int, ...], compared: np.ndarray) -> np.ndarray:
    """Return the rows (compared, numbers in a row) of an array that are compared. ``compared`` is (rows,) bool."""
    rows: np.ndarray = as_rows(array, token_axes, widen=False)[compared]
    return rows


def pack(rows: np.ndarray) -> np.ndarray:
    """Return the compressed bytes of (rows, C), as uint8."""
    numbers = np.frombuffer(rows.tobytes(), dtype=np.uint8).reshape(rows.size, rows.dtype.itemsize)
    return np.frombuffer(zlib.compress(np.ascontiguousarray(numbers.T).tobytes(), _LEVEL), dtype=np.uint8)


def unpack(stored: np.ndarray, entry: Entry, compared: np.ndarray) -> np.ndarray:
    """Return the whole tensor of ``entry``, with zeros in rows that are not compared.

    Raises TraceError if the bytes are not those of such a tensor. They are never unpacked to more than its size.
    """
    dtype, size = DTYPES[entry.dtype], math.prod(entry.shape)
    width = size // compared.size if compared.size else 0
    shape = (int(compared.sum()), width)
    numbers = shape[0] * width
    raw = _decompressed(stored, entry, numbers * dtype.itemsize)
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(dtype.itemsize, numbers)
    rows = np.zeros((compared.size, width), dtype=dtype)
    rows[compared] = np.ascontiguousarray(planes.T).reshape(-1).view(dtype).reshape(shape)
    others = tuple(length for axis, length in enumerate(entry.shape) if axis not in entry.token_axes)
    moved = rows.reshape(*entry.token_shape, *others)
    return np.moveaxis(moved, range(len(entry.token_axes)), entry.token_axes)


def _decompressed(stored: np.ndarray, entry: Entry, expected: int) -> bytes:
    if stored.dtype != np.uint8 or stored.ndim != 1:
        raise TraceError(f"{entry.key} is stored as {stored.dtype} {list(stored.shape)}, expected packed bytes")
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(stored.tobytes(), expected + 1)
    except zlib.error as error:
        raise TraceError(f"{entry.key} cannot be unpacked: {error}") from None
    if len(raw) != expected or not unpacker.eof or unpacker.unused_data:
        raise TraceError(f"{entry.key} does not unpack to the {expected:,} bytes of its shape {list(entry.shape)}")
    return raw
