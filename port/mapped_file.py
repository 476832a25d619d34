"""Files that a model uses while it runs, because its tensors are mapped and not copied."""

from __future__ import annotations

import os
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from port.errors import WeightsError


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

    def _state(self) -> tuple[int, int]:
        """Size in bytes and time of the last change in nanoseconds."""
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns


def _shown(state: tuple[int, int]) -> str:
    size, changed = state
    return f"{size} bytes, changed at {datetime.fromtimestamp(changed / 1e9, UTC):%Y-%m-%d %H:%M:%S.%f}"
