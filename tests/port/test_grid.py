"""Grid arithmetic compared with simple loops and with torch's own interpolation.

Legend: t, h, w = frames, rows and columns of patches; m = spatial merge size; N = patches.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from port import InputError
from port.grid import (
    check_grid,
    interpolation,
    merge_order,
    merged_count,
    patch_coordinates,
    segment_boundaries,
    segment_lengths,
)

MERGES = st.integers(1, 3)
GRIDS = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3)


def _patches(blocks: list[tuple[int, int, int]], merge: int) -> list[tuple[int, int, int]]:
    """Grids (t, h, w) in patches from grids counted in merged patches."""
    return [(t, h * merge, w * merge) for t, h, w in blocks]


def _loop(height: int, width: int, merge: int) -> list[tuple[int, int]]:
    order = []
    for block_row in range(height // merge):
        for block_col in range(width // merge):
            for row in range(merge):
                for col in range(merge):
                    order.append((block_row * merge + row, block_col * merge + col))
    return order


@given(rows=st.integers(1, 6), cols=st.integers(1, 6), merge=MERGES)
@settings(deadline=None)
def test_merge_order_follows_the_loop_and_is_a_permutation(rows: int, cols: int, merge: int) -> None:
    height, width = rows * merge, cols * merge
    row, col = merge_order(height, width, merge)
    order = list(zip(row.tolist(), col.tolist(), strict=True))
    assert order == _loop(height, width, merge)
    assert sorted(order) == [(r, c) for r in range(height) for c in range(width)]


def test_merge_order_by_hand() -> None:
    row, col = merge_order(2, 4, 2)
    assert row.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert col.tolist() == [0, 1, 0, 1, 2, 3, 2, 3]


@given(blocks=GRIDS, merge=MERGES)
@settings(deadline=None)
def test_patch_coordinates_follow_the_loop_and_repeat_for_frames(
    blocks: list[tuple[int, int, int]], merge: int
) -> None:
    grids = _patches(blocks, merge)
    expected = [place for t, h, w in grids for _ in range(t) for place in _loop(h, w, merge)]
    found = patch_coordinates(torch.tensor(grids), merge)
    assert found.dtype == torch.int64
    assert [tuple(place) for place in found.tolist()] == expected


def _resized(table: Tensor, side: int, height: int, width: int) -> Tensor:
    """(h, w, C) torch's bilinear resize of the (side * side, C) table."""
    image = table.view(1, side, side, -1).permute(0, 3, 1, 2)
    return F.interpolate(image, (height, width), mode="bilinear", align_corners=True)[0].permute(1, 2, 0)


@given(
    blocks=GRIDS,
    merge=MERGES,
    side=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
@example(blocks=[(1, 12, 7)], merge=2, side=8, seed=0)  # larger than the table
@example(blocks=[(1, 1, 6)], merge=2, side=8, seed=0)  # one merged row
@example(blocks=[(2, 1, 5)], merge=1, side=8, seed=0)  # a single row
@example(blocks=[(1, 5, 1)], merge=1, side=8, seed=0)  # a single column
@example(blocks=[(1, 4, 4)], merge=2, side=8, seed=0)  # the table itself
@settings(deadline=None, max_examples=60)
def test_interpolated_positions_are_torchs_bilinear_with_aligned_corners(
    blocks: list[tuple[int, int, int]], merge: int, side: int, seed: int
) -> None:
    grids = _patches(blocks, merge)
    table = torch.randn(side * side, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    indices, weights = interpolation(torch.tensor(grids), side, merge)
    ours = (table[indices] * weights.double().unsqueeze(-1)).sum(1)
    expected: list[Tensor] = []
    for t, h, w in grids:
        resized = _resized(table, side, h, w)
        expected.extend(resized[r, c] for _ in range(t) for r, c in _loop(h, w, merge))
    assert ours.shape[0] == len(expected)
    # Weights are float32, as in the model; float64 would leave 1e-15.
    assert (ours - torch.stack(expected)).abs().max() < 1e-5


@given(blocks=GRIDS, merge=MERGES, side=st.integers(1, 9))
@settings(deadline=None)
def test_interpolation_weights_sum_to_one_and_stay_in_the_table(
    blocks: list[tuple[int, int, int]], merge: int, side: int
) -> None:
    indices, weights = interpolation(torch.tensor(_patches(blocks, merge)), side, merge)
    assert indices.dtype == torch.int64
    assert weights.dtype == torch.float32
    assert indices.min() >= 0
    assert indices.max() < side * side
    assert weights.min() >= 0
    assert (weights.double().sum(1) - 1).abs().max() < 1e-6


def test_corners_read_the_corners_of_the_table_exactly() -> None:
    indices, weights = interpolation(torch.tensor([[1, 6, 10]]), 8, 2)
    coordinates = patch_coordinates(torch.tensor([[1, 6, 10]]), 2).tolist()
    for place, entry in (([0, 0], 0), ([0, 9], 7), ([5, 0], 56), ([5, 9], 63)):
        patch = coordinates.index(place)
        share = sum(
            float(w) for i, w in zip(indices[patch].tolist(), weights[patch].tolist(), strict=True) if i == entry
        )
        assert share == 1.0, (place, indices[patch], weights[patch])


def test_a_grid_as_large_as_the_table_reads_it_unweighted() -> None:
    table = torch.arange(64, dtype=torch.float64).unsqueeze(1)
    indices, weights = interpolation(torch.tensor([[1, 8, 8]]), 8, 2)
    read = (table[indices] * weights.double().unsqueeze(-1)).sum(1).squeeze(1)
    assert read.tolist() == [r * 8 + c for r, c in _loop(8, 8, 2)]


@given(blocks=GRIDS, merge=MERGES)
@settings(deadline=None)
def test_every_frame_is_a_segment_and_boundaries_add_up(blocks: list[tuple[int, int, int]], merge: int) -> None:
    grids = _patches(blocks, merge)
    lengths = [h * w for t, h, w in grids for _ in range(t)]
    assert segment_lengths(torch.tensor(grids)) == lengths
    boundaries = segment_boundaries(torch.tensor(grids))
    assert boundaries.dtype == torch.int32
    assert boundaries.tolist() == [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    assert merged_count(torch.tensor(grids), merge) == sum(t * h * w for t, h, w in blocks)


def test_boundaries_by_hand() -> None:
    assert segment_boundaries(torch.tensor([[1, 2, 4], [2, 4, 4]])).tolist() == [0, 8, 24, 40]


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ([[1, 4, 6], [1, 3, 4]], ("images[1]", "(1, 3, 4)", "spatial_merge_size 2")),
        ([[1, 4, 5]], ("images[0]", "(1, 4, 5)")),
        ([[0, 4, 4]], ("(0, 4, 4)", "at least 1")),
        ([[1, 0, 4]], ("(1, 0, 4)",)),
        ([[1, 4, -2]], ("(1, 4, -2)",)),
    ],
)
def test_grids_that_do_not_merge_are_refused_with_their_place(grid: list[list[int]], words: tuple[str, ...]) -> None:
    check_grid(torch.tensor([[1, 4, 6]]), 2)
    with pytest.raises(InputError) as caught:
        check_grid(torch.tensor(grid), 2, name="images")
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("shape", [(3,), (1, 2), (0, 3), (1, 1, 3)])
def test_grids_of_the_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="needs \\(pictures, 3\\)"):
        check_grid(torch.ones(shape, dtype=torch.long), 1)
