"""Reads tensors of a safetensors file as views of the mapped file: nothing is copied.

Only for files that the harness has written itself and that nobody else changes, such as the spool of a yardstick.
"""

from __future__ import annotations

import json
import mmap
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from parity.core.errors import TraceError

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


class MappedFile:
    """A safetensors file whose tensors are views of its mapped bytes.

    The map is private: whoever writes to a view changes neither the file nor another process.
    """

    def __init__(self, path: Path) -> None:
        """Raises TraceError if the file is not a safetensors file."""
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            (length,) = struct.unpack("<Q", self._bytes[:8])
            if 8 + length > len(self._bytes):
                raise ValueError(f"its header should have {length:,} bytes, the file has {len(self._bytes):,}")
            self._header: dict[str, Any] = json.loads(self._bytes[8 : 8 + length])
        except (OSError, ValueError, struct.error) as error:
            raise TraceError(f"{path} cannot be read: {error}") from None
        self._start = 8 + length

    def tensor(self, name: str) -> np.ndarray:
        """Return a view of a tensor. Raises TraceError if the file does not have it, or not all of its bytes."""
        try:
            known = self._header[name]
            begin, end = known["data_offsets"]
            dtype, shape = _DTYPES[known["dtype"]], tuple(known["shape"])
            flat = np.frombuffer(self._bytes, dtype, (end - begin) // dtype.itemsize, self._start + begin)
            return flat.reshape(shape)  # (numbers,) -> shape
        except (KeyError, TypeError, ValueError) as error:
            raise TraceError(f"{self.path} does not give {name!r}: {error}") from None

    def let_go(self) -> None:
        """Let the system take back the memory of what was read. Views stay valid, and are read again when used."""
        if hasattr(self._bytes, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            self._bytes.madvise(mmap.MADV_DONTNEED)
