"""From results to report folders: pictures first, then the document's files, each moved into place when whole."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from parity.core.errors import ParityError
from parity.qwen3vl.document import picture_file
from parity.qwen3vl.heatmaps import HeatMap
from reports.atomic import write_files
from reports.write import write_report


def report_folder(out: Path | None, name: str) -> Path:
    """Where a report goes: ``out``, or a new folder of the day under ``parity-reports``; checked before the work.

    Raises ParityError when nothing can be written there.
    """
    folder = out or Path("parity-reports") / f"{datetime.now():%Y-%m-%d-%H%M%S}-{name}"
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ParityError(f"the report cannot be written to {folder}: {existing} is not a folder you can write to")
    return folder


def write_run(document: Mapping[str, Any], maps: Sequence[HeatMap], folder: Path) -> dict[str, Path]:
    """All files of one run's report."""
    write_files({folder / picture_file(index): _png(heat_map) for index, heat_map in enumerate(maps)})
    return write_report(document, folder)


def _png(heat_map: HeatMap) -> bytes:
    buffer = io.BytesIO()
    heat_map.image.save(buffer, format="PNG")
    return buffer.getvalue()
