"""Chooses report folders."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path


def report_folder(out: Path | None, name: str) -> Path:
    """Return ``out``, or a new folder under ``parity-reports`` with the date in its name."""
    if out is not None:
        return out
    stem = f"{datetime.now():%Y-%m-%d-%H%M%S}-{name}"
    folder, number = Path("parity-reports") / stem, 2
    while folder.exists():
        folder, number = Path("parity-reports") / f"{stem}-{number}", number + 1
    return folder
