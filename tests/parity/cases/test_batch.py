"""Batches made from one prompt, and errors of patches arranged as in the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.cases.batch import batch_rows
from parity.cases.media import Clip, Cropped, Noise, PictureFile
from parity.diagnosis.heatmaps import to_raster
from port.grid import merge_order

PICTURE, OTHER = Noise(64, 96, seed=1), Noise(128, 64, seed=2)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 5), cols=st.integers(1, 5), merge=st.integers(1, 3))
def test_raster_order_undoes_merge_order(rows: int, cols: int, merge: int) -> None:
    height, width = rows * merge, cols * merge
    row, col = merge_order(height, width, merge)
    figures = (row * 1000 + col).numpy().astype(float)
    expected = np.add.outer(np.arange(height) * 1000, np.arange(width))
    assert np.array_equal(to_raster(figures, height, width, merge), expected)


def test_raster_by_hand() -> None:
    assert to_raster(np.arange(8.0), 2, 4, 2).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 9])
def test_a_batch_has_its_rows_and_begins_with_the_prompt(batch: int) -> None:
    row = (PICTURE, OTHER, "What is this?")
    rows = batch_rows(row, batch)
    assert len(rows) == batch
    assert rows[0] == row


def test_the_first_four_rows_all_differ_in_pictures_and_length() -> None:
    rows = batch_rows((PICTURE, OTHER, "What is this?"), 4)
    assert len(set(rows)) == 4
    media = [[part for part in row if not isinstance(part, str)] for row in rows]
    assert [len(parts) for parts in media] == [2, 0, 2, 1]
    assert media[2] == [Cropped(OTHER), Cropped(PICTURE)], "the other way round, and other grids"
    assert len({"".join(part for part in row if isinstance(part, str)) for row in rows}) > 1


def test_one_picture_alone_still_gives_rows_that_differ() -> None:
    rows = batch_rows((PICTURE,), 4)
    assert rows[1] == ("Describe this.", "Row 1."), "a row without pictures has at least some text"
    assert len(set(rows)) == 4
    assert all(rows)


def test_videos_are_not_cropped() -> None:
    clip = Clip(4, 64, 64)
    assert batch_rows((clip, PictureFile(Path("a.png")), "x"), 3)[2][:2] == (Cropped(PictureFile(Path("a.png"))), clip)


def test_text_alone_gives_rows_of_different_length_too() -> None:
    rows = batch_rows(("Hello.",), 9)
    assert rows[0] == ("Hello.",)
    assert len(set(rows)) == 9
    assert all(rows)
