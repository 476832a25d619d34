"""The colours of a heat map are at the places of the errors."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reports import ReportError
from reports.heatmap import heat_map, overlay, scale_for, worst_patch
from tests.reports.report_samples import BAD_PATCH, GRIDS

Document = dict[str, Any]


def _picture(errors: np.ndarray, *, gate: float | None, file: str = "p.png") -> Document:
    values = [[None if np.isnan(value) else float(value) for value in row] for row in errors]
    return {
        "title": "a picture", "kind": "image", "file": file, "grid": list(errors.shape),
        "seam": "vision.merger", "errors": values, "gate": gate,
    }  # fmt: skip


def _decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def _laid_over(picture_uri: str, overlay_uri: str) -> tuple[np.ndarray, np.ndarray]:
    """The picture alone and with its overlay stretched over it, as the page shows them."""
    picture = _decode(picture_uri).convert("RGBA")
    colours = _decode(overlay_uri).convert("RGBA").resize(picture.size, Image.Resampling.NEAREST)
    both = Image.alpha_composite(picture, colours)
    return np.asarray(picture.convert("RGB"), float), np.asarray(both.convert("RGB"), float)


@pytest.mark.parametrize("gate", [1e-6, None])
@pytest.mark.parametrize("bad", [(0, 0), (0, 6), (4, 0), (4, 6), (2, 5)])
def test_the_hottest_cell_of_the_picture_is_the_planted_patch(
    bad: tuple[int, int], gate: float | None, tmp_path: Path
) -> None:
    # The sides are no multiple of the grid's, as with a picture whose size the processor has rounded.
    Image.new("RGB", (333, 217), (90, 90, 90)).save(tmp_path / "p.png")
    errors = np.full((5, 7), 2e-7)
    errors[bad] = 3e-5
    made = heat_map(_picture(errors, gate=gate), folder=tmp_path)
    plain, both = _laid_over(made.picture_uri, made.overlay_uri)
    change = np.abs(both - plain).sum(axis=2)
    hot = np.argwhere(change > 0.9 * change.max())
    (top, left), (bottom, right) = hot.min(axis=0), hot.max(axis=0)
    high, wide = change.shape
    assert made.worst == bad
    assert top == pytest.approx(bad[0] * high / 5, abs=1)
    assert bottom + 1 == pytest.approx((bad[0] + 1) * high / 5, abs=1)
    assert left == pytest.approx(bad[1] * wide / 7, abs=1)
    assert right + 1 == pytest.approx((bad[1] + 1) * wide / 7, abs=1)


@pytest.mark.parametrize("number", [0, 1])
def test_the_sample_pictures_are_hottest_at_their_bad_patch(number: int, diverged: Document, folder: Path) -> None:
    made = heat_map(diverged["pictures"][number], folder=folder)
    alpha = np.asarray(_decode(made.overlay_uri))[..., 3]
    assert alpha.shape == GRIDS[number]
    assert tuple(map(int, np.unravel_index(alpha.argmax(), alpha.shape))) == BAD_PATCH[number]
    assert made.worst == BAD_PATCH[number]
    assert made.over > 10


def test_within_the_gate_is_blue_and_over_it_is_red() -> None:
    errors = np.array([[0.99e-6, 1.01e-6, 1e-4]])
    pixels = np.asarray(overlay(errors, scale=scale_for(errors, gate=1e-6))).astype(int)[0]
    assert pixels[0, 2] > pixels[0, 0]
    assert pixels[1, 0] > pixels[1, 2]
    assert pixels[2, 0] > pixels[2, 1] + 80
    assert pixels[0, 3] < pixels[1, 3] < pixels[2, 3]


def test_zeros_are_clear_and_unmeasured_patches_grey(tmp_path: Path) -> None:
    errors = np.array([[0.0, np.nan], [1e-7, 1e-3]])
    pixels = np.asarray(overlay(errors, scale=scale_for(errors, gate=None)))
    assert pixels[0, 0, 3] == 0
    assert len(set(pixels[0, 1, :3].tolist())) == 1
    assert worst_patch(errors) == (1, 1)


@pytest.mark.parametrize("gate", [1e-6, 0.0, None])
def test_a_picture_without_any_error_has_no_worst_patch(gate: float | None, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "p.png")
    made = heat_map(_picture(np.zeros((4, 4)), gate=gate), folder=tmp_path)
    assert made.worst is None
    assert made.worst_text == "every patch is equal, error 0"
    assert np.asarray(_decode(made.overlay_uri))[..., 3].max() == 0
    unmeasured = heat_map(_picture(np.full((2, 2), np.nan), gate=gate), folder=tmp_path)
    assert (unmeasured.worst, unmeasured.unmeasured) == (None, 4)


def test_large_pictures_are_reduced_and_keep_their_proportions(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 1500)).save(tmp_path / "p.png")
    made = heat_map(_picture(np.ones((2, 4)), gate=None), folder=tmp_path)
    assert (made.width, made.height) == (1024, 512)
    assert heat_map(_picture(np.ones((2, 4)), gate=None), folder=tmp_path, among=20).width == 448


def test_a_missing_or_broken_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"'a picture' is missing: .*none\.png does not exist"):
        heat_map(_picture(np.ones((1, 1)), gate=None, file="none.png"), folder=tmp_path)
    (tmp_path / "bad.png").write_text("not a picture")
    with pytest.raises(ReportError, match=r"'a picture' cannot be read: .*bad\.png"):
        heat_map(_picture(np.ones((1, 1)), gate=None, file="bad.png"), folder=tmp_path)
