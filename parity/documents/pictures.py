"""Heat maps as sections of a document, and those that a sign-off keeps beside its evidence."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.bundles.jsonfile import read_json
from parity.core.errors import TraceError
from reports.atomic import write_files

if TYPE_CHECKING:
    from parity.diagnosis.heatmaps import HeatMap  # needs torch, which a sign-off by a bundle does not

PICTURES = "pictures"
_OF_ITEM, _ON_PAGE = 4, 12


def picture_section(heat_map: HeatMap, file: str) -> dict[str, Any]:
    """Return the section of a document for a heat map whose picture is in ``file``."""
    return {
        "title": heat_map.title,
        "kind": heat_map.kind,
        "file": file,
        "grid": list(heat_map.errors.shape),
        "seam": heat_map.seam,
        "errors": [[value if math.isfinite(value) else None for value in row] for row in heat_map.errors.tolist()],
        "gate": heat_map.gate,
    }


def png(heat_map: HeatMap) -> bytes:
    """Return the picture of a heat map as a PNG file."""
    buffer = io.BytesIO()
    heat_map.image.save(buffer, format="PNG")
    return buffer.getvalue()


def keep_pictures(maps: Sequence[HeatMap], folder: Path, *, item: str, stem: str) -> None:
    """Write the heat maps of an item with the largest errors. ``stem`` is the name of its file of evidence."""
    order = sorted(range(len(maps)), key=lambda index: -_nearest(maps[index].errors, maps[index].gate))[:_OF_ITEM]
    kept = {f"{PICTURES}/{stem}-{index}.png": maps[index] for index in sorted(order)}
    sections = [{"item": item, **picture_section(found, file)} for file, found in kept.items()]
    if sections:
        files = {folder / file: png(found) for file, found in kept.items()}
        write_files({**files, folder / PICTURES / f"{stem}.json": json.dumps(sections).encode("ascii")})


def take_over(earlier: Path, folder: Path, stems: Iterable[str]) -> None:
    """Copy the heat maps of reused items from the folder of an earlier sign-off."""
    if earlier.resolve() == folder.resolve():
        return
    for stem in stems:
        found = sorted((earlier / PICTURES).glob(f"{stem}*"))
        write_files({folder / PICTURES / path.name: path.read_bytes() for path in found if path.is_file()})


def pictures_of(folder: Path, stems: Iterable[str]) -> list[dict[str, Any]]:
    """Return the sections of the kept heat maps nearest to their gates, or furthest over them.

    Pictures are no evidence: a file that cannot be read is left out.
    """
    found = []
    for stem in stems:
        try:
            sections = read_json(folder / PICTURES / f"{stem}.json")
            found += [section for section in sections if _is_sound(section, folder, stem)]
        except (TraceError, TypeError, KeyError, ValueError):
            continue
    order = sorted(range(len(found)), key=lambda index: -_nearest(found[index]["errors"], found[index]["gate"]))
    return [found[index] for index in order[:_ON_PAGE]]


def _is_sound(section: dict[str, Any], folder: Path, stem: str) -> bool:
    """Whether a section has a picture of its own folder and numbers of the shape that it names."""
    name = Path(section["file"]).name
    own = (
        section["file"] == f"{PICTURES}/{name}" and name.startswith(f"{stem}-") and (folder / PICTURES / name).is_file()
    )
    errors = np.asarray(section["errors"], dtype=float)
    return own and list(errors.shape) == section["grid"] and not (errors < 0).any()


def _nearest(errors: Any, gate: float | None) -> float:
    values = np.asarray(errors, dtype=float)
    worst = float(np.nanmax(values)) if values.size and not np.isnan(values).all() else 0.0
    return worst / gate if gate else worst
