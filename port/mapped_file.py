"""Files that a model uses while it runs, because its tensors are mapped and not copied."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from port.errors import WeightsError

_MAPS = Path("/proc/self/maps")


class MappedFile:
    """A file that must not change while a model uses it.

    Removing or replacing the file is harmless, since the model keeps the old one. Writing into the file or cutting it
    off would change the weights, or end the process at the next read of a page that is gone. ``check`` finds both
    afterwards, but not while a forward is running, and not if the file's time of change was set back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Kept open: under its name there may be another file later.
        self._file = path.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)
        self._opened = self._state()

    def __deepcopy__(self, _memo: dict[int, Any]) -> MappedFile:
        return self

    def check(self) -> None:
        """Raise WeightsError if size or time of change are not those at the start. Takes about a microsecond."""
        now = self._state()
        if now != self._opened:
            raise WeightsError(
                f"{self.path} was changed while a model uses it ({_shown(self._opened)} when it was loaded, now "
                f"{_shown(now)}); load the model again, and replace files of a checkpoint instead of writing into them"
            )

    def let_go(self, tensors: Iterable[Tensor]) -> None:
        """Let the system take back the memory of tensors that are mapped from this file. They are read again when used.

        They must never have been written to, as what was written would be lost. Does nothing to a tensor that is not
        mapped from this file, and nothing on other systems than Linux.
        """
        mapped = self._mapped()
        for tensor in tensors:
            start = tensor.data_ptr()
            end = start + tensor.numel() * tensor.element_size()
            if any(low <= start and end <= high for low, high in mapped):
                start, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
                if start < end:
                    _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)

    def _mapped(self) -> list[tuple[int, int]]:
        """The addresses at which this process has mapped the file."""
        try:
            lines = _MAPS.read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return []
        own = os.fstat(self._file.fileno())
        device = f"{os.major(own.st_dev):02x}:{os.minor(own.st_dev):02x}"
        found = []
        for line in lines:
            addresses, _, _, place, inode, *_ = line.split(maxsplit=5)
            if (place, inode) == (device, str(own.st_ino)):
                low, high = addresses.split("-")
                found.append((int(low, 16), int(high, 16)))
        return found

    def _state(self) -> tuple[int, int]:
        """Size in bytes and time of the last change in nanoseconds."""
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _shown(state: tuple[int, int]) -> str:
    size, changed = state
    return f"{size} bytes, changed at {datetime.fromtimestamp(changed / 1e9, UTC):%Y-%m-%d %H:%M:%S.%f}"
