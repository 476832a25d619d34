"""The error of every patch, laid over the picture that the patches come from.

The overlay is an image of one pixel a patch. Stretched over the picture without smoothing it lines up
with the patches exactly, whatever the picture's size.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from PIL import Image

from reports import formatting as fmt
from reports.errors import ReportError

# Within the gate: faint blues, so that the picture stays visible. Over the gate: strong yellow to red.
# Blue and red can be told apart with the usual colour-vision deficiencies. Alpha grows with the error, so
# that the picture can be read in grey as well.
_RATIO_STOPS = (
    (0.0, (0.13, 0.36, 0.68, 0.08)),
    (0.4999, (0.26, 0.62, 0.85, 0.40)),
    (0.5001, (1.00, 0.87, 0.35, 0.55)),
    (0.75, (0.98, 0.48, 0.14, 0.72)),
    (1.0, (0.78, 0.04, 0.12, 0.88)),
)
_PLAIN_STOPS = (
    (0.0, (0.13, 0.10, 0.30, 0.08)),
    (0.5, (0.75, 0.22, 0.42, 0.45)),
    (1.0, (0.99, 0.86, 0.30, 0.88)),
)
_NOT_MEASURED = (128, 128, 128, 200)
# Longest side of an embedded picture, by how many there are: the page has to stay below a few megabytes.
_SIDES = ((4, 1024), (12, 768), (32, 448))


@dataclass(frozen=True)
class HeatMap:
    """One picture with its overlay, ready for a template."""

    title: str
    kind: str
    seam: str
    width: int
    height: int
    rows: int
    columns: int
    picture_uri: str
    overlay_uri: str
    worst: tuple[int, int] | None  # (row, column)
    worst_text: str
    unit: str
    values: str  # row by row, for the read-out under the pointer; "-" where nothing was measured
    gradient: str  # CSS stops of the colour bar
    ticks: tuple[tuple[float, str], ...]  # (percent, label)
    over: int  # patches over the gate
    zeros: int
    unmeasured: int
    has_gate: bool
    grid_path: str


@dataclass(frozen=True)
class Scale:
    """Where an error stands between no colour (0) and the strongest (1)."""

    low: float  # log10 of the value at 0
    high: float  # log10 of the value at 1
    gate: float | None

    def place(self, values: np.ndarray) -> np.ndarray:
        """Positions in [0, 1]; zeros, which have no logarithm, stand at 0."""
        scaled = values / self.gate if self.gate else values
        with np.errstate(divide="ignore"):
            logs = np.log10(scaled)
        if self.gate is None:
            return np.clip((logs - self.low) / (self.high - self.low), 0.0, 1.0)
        # The gate stands in the middle, so that its side is seen at a glance.
        below, above = 0.5 * (1 - logs / self.low), 0.5 + 0.5 * logs / self.high
        return np.clip(np.where(logs <= 0, np.minimum(below, 0.4999), np.maximum(above, 0.5001)), 0.0, 1.0)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Labels of the colour bar with their place in percent."""
        decades = np.arange(math.ceil(self.low), math.floor(self.high) + 1)
        step = max(1, math.ceil(len(decades) / 7))
        chosen = [int(decade) for decade in decades if int(decade) % step == 0]
        marks = []
        for decade in chosen:
            value = 10.0**decade
            at = float(self.place(np.array([value * (self.gate or 1.0)]))[0])
            label = ("gate" if decade == 0 else fmt.ratio(value)) if self.gate else f"1e{decade}"
            marks.append((round(100 * at, 1), label))
        return tuple(marks)


def scale_for(errors: np.ndarray, *, gate: float | None) -> Scale:
    """A scale that spans the errors, in whole decades."""
    gate = gate or None
    positive = errors[np.isfinite(errors) & (errors > 0)] / (gate or 1.0)
    if positive.size == 0:
        return Scale(low=-2.0, high=1.0, gate=gate)
    low = math.floor(float(np.log10(positive.min())))
    high = math.ceil(float(np.log10(positive.max())))
    if gate:
        return Scale(low=float(min(-1, max(low, -3))), high=float(max(1, high)), gate=gate)
    return Scale(low=float(max(low, high - 6) if high > low else low - 1), high=float(high), gate=None)


def overlay(errors: np.ndarray, *, scale: Scale) -> Image.Image:
    """An RGBA image of one pixel a patch; null (NaN) patches are grey, zeros fully transparent."""
    placed = scale.place(np.nan_to_num(errors, nan=0.0))
    pixels = _colours(scale)(placed, bytes=True)
    pixels[errors == 0] = 0
    pixels[np.isnan(errors)] = _NOT_MEASURED
    return Image.fromarray(np.ascontiguousarray(pixels))


def worst_patch(errors: np.ndarray) -> tuple[int, int] | None:
    """(row, column) of the largest error; None when no patch has any."""
    if not np.any(np.nan_to_num(errors) > 0):
        return None
    row, column = np.unravel_index(int(np.nanargmax(errors)), errors.shape)
    return int(row), int(column)


def heat_map(picture: Mapping[str, Any], *, folder: Path, among: int = 1) -> HeatMap:
    """Prepare one picture of a document; ``among`` is how many share the page."""
    image = open_picture(folder / picture["file"], title=picture["title"])
    errors = np.array([[np.nan if v is None else v for v in row] for row in picture["errors"]], dtype=np.float64)
    gate = picture["gate"] or None
    scale = scale_for(errors, gate=gate)
    rows, columns = errors.shape
    longest = next((side for most, side in _SIDES if among <= most), 256)
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    worst = worst_patch(errors)
    worst_text = "every patch is equal, error 0"
    if worst is not None:
        value = float(errors[worst])
        worst_text = f"row {worst[0]}, column {worst[1]}: error {fmt.number(value)}"
        worst_text += f", {fmt.ratio(value / gate)} the gate" if gate else ""
    elif np.isnan(errors).any():
        worst_text = "no patch has an error above 0; some were not measured"
    stops = [(place, _colours(scale)(place)) for place in np.linspace(0, 1, 25)]
    return HeatMap(
        title=picture["title"],
        kind=picture["kind"],
        seam=picture["seam"],
        width=image.width,
        height=image.height,
        rows=rows,
        columns=columns,
        picture_uri=_picture_uri(image),
        overlay_uri=_png_uri(overlay(errors, scale=scale)),
        worst=worst,
        worst_text=worst_text,
        unit=f"{fmt.TIMES} gate" if gate else "relative error",
        values=" ".join("-" if np.isnan(value) else f"{value / (gate or 1):.3g}" for value in errors.flat),
        gradient=", ".join(
            f"rgba({r * 255:.0f},{g * 255:.0f},{b * 255:.0f},{max(a, 0.25):.2f}) {100 * place:.1f}%"
            for place, (r, g, b, a) in stops
        ),
        ticks=scale.ticks(),
        over=int(np.sum(np.nan_to_num(errors) > gate)) if gate else 0,
        zeros=int(np.sum(errors == 0)),
        unmeasured=int(np.sum(np.isnan(errors))),
        has_gate=gate is not None,
        grid_path=_grid_path(rows=rows, columns=columns),
    )


def open_picture(path: Path, *, title: str) -> Image.Image:
    """Read a picture of the report folder as RGB."""
    try:
        with Image.open(path) as opened:
            # Pixels as stored: the grid covers the file, whatever its EXIF orientation says.
            return opened.convert("RGB")
    except FileNotFoundError as error:
        raise ReportError(
            f"the picture {title!r} is missing: {path} does not exist; "
            "put it there before writing the report, or take it out of the document's pictures"
        ) from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ReportError(f"the picture {title!r} cannot be read: {path}: {error}") from error


def _grid_path(*, rows: int, columns: int) -> str:
    across = "".join(f"M0 {row}H{columns}" for row in range(1, rows))
    return across + "".join(f"M{column} 0V{rows}" for column in range(1, columns))


def _colours(scale: Scale) -> LinearSegmentedColormap:
    stops = _RATIO_STOPS if scale.gate else _PLAIN_STOPS
    return LinearSegmentedColormap.from_list("patch-error", list(stops), N=1024)


def _picture_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    # JPEG keeps photographs small; 4:4:4 keeps the edges of drawings.
    image.save(buffer, format="JPEG", quality=86, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _png_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
