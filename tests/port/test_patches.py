"""Patch order compared with a simple loop, with the grid's merge order, and with the reference.

Legend: t, h, w = grid in merged patches; P, T, M = patch, temporal patch, merge sizes; N = patches.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from port import InputError
from port.grid import merge_order
from port.patches import cut_patches, pad_frames, patch_grid
from tests.port.pixel_samples import noise, reference_videos

SIZES = {"patch": st.sampled_from([1, 2, 14, 16]), "temporal_patch": st.integers(1, 3), "merge": st.integers(1, 3)}
BLOCKS = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))


def _frames(blocks: tuple[int, int, int], *, patch: int, temporal_patch: int, merge: int) -> Tensor:
    """(F, h, w, 3) uint8 noise that fills the grid."""
    t, h, w = blocks
    return torch.from_numpy(noise(t * temporal_patch, h * merge * patch, w * merge * patch, 3))


def _loop(frames: Tensor, *, patch: int, temporal_patch: int, merge: int) -> Tensor:
    """One patch after the other."""
    side = patch * merge
    rows = []
    for time in range(0, len(frames), temporal_patch):
        for top in range(0, frames.shape[1], side):
            for left in range(0, frames.shape[2], side):
                for row in range(merge):
                    for column in range(merge):
                        y, x = top + row * patch, left + column * patch
                        block = frames[time : time + temporal_patch, y : y + patch, x : x + patch]  # (T, P, P, C)
                        rows.append(block.permute(3, 0, 1, 2).flatten())
    return torch.stack(rows)


@settings(max_examples=40, deadline=None)
@given(BLOCKS, SIZES["patch"], SIZES["temporal_patch"], SIZES["merge"])
def test_patches_are_those_of_the_loop_and_of_the_reference(
    blocks: tuple[int, int, int], patch: int, temporal_patch: int, merge: int
) -> None:
    sizes = {"patch": patch, "temporal_patch": temporal_patch, "merge": merge}
    frames = _frames(blocks, **sizes)
    cut = cut_patches(frames, **sizes)
    assert cut.dtype == torch.uint8
    assert torch.equal(cut, _loop(frames, **sizes))
    theirs, *grid = reference_videos().patchify(frames.permute(0, 3, 1, 2)[None], patch, merge, temporal_patch)
    assert torch.equal(cut, theirs[0])
    assert patch_grid(frames, patch=patch, temporal_patch=temporal_patch) == tuple(grid)
    assert len(cut) == grid[0] * grid[1] * grid[2]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_rows_go_in_the_grids_merge_order(height: int, width: int, merge: int) -> None:
    """Each pixel says where it is, with patches of one pixel."""
    h, w = height * merge, width * merge
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    frames = torch.stack([y, x, y * 0], dim=-1)[None]  # (1, h, w, 3)
    cut = cut_patches(frames, patch=1, temporal_patch=1, merge=merge)  # (N, 3)
    rows, columns = merge_order(h, w, merge)
    assert torch.equal(cut[:, 0], rows)
    assert torch.equal(cut[:, 1], columns)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("temporal_patch", [1, 2, 4])
def test_the_last_frame_fills_the_last_temporal_patch(count: int, temporal_patch: int) -> None:
    frames = torch.arange(count).view(count, 1, 1, 1)
    padded = pad_frames(frames, temporal_patch).flatten().tolist()
    assert padded == [*range(count), *[count - 1] * (len(padded) - count)]
    assert len(padded) % temporal_patch == 0
    assert len(padded) - count < temporal_patch
    assert patch_grid(frames, patch=1, temporal_patch=temporal_patch) == (len(padded) // temporal_patch, 1, 1)


@pytest.mark.parametrize(("shape", "said"), [((3, 32, 32), "3 x 32 x 32"), ((2, 48, 32), "48"), ((2, 32, 16), "16")])
def test_what_does_not_divide_is_refused(shape: tuple[int, int, int], said: str) -> None:
    with pytest.raises(InputError, match=rf"{said}.*resize and pad"):
        cut_patches(torch.zeros(*shape, 3), patch=16, temporal_patch=2, merge=2)
