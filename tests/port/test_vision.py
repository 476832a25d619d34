"""The vision tower: attention stays inside segments, and pictures do not influence each other.

Legend: N = patches, H, D = heads and their width.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from port import InputError, Qwen3VL, listening
from port.vision import attend_segments
from tests.port.port_samples import CLIP, MERGE, PATCH_DIM, TALL, WIDE


def _masked(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """One softmax over all N patches, everything outside the own segment masked."""
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    scores = torch.einsum("nhd,mhd->hnm", q, k) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(segment[:, None] != segment[None, :], -torch.inf)
    return torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.sampled_from([1, 2, 3, 4, 6, 9]), min_size=1, max_size=7),
    heads=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_segments_attend_as_under_a_block_diagonal_mask(lengths: list[int], heads: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, sum(lengths), heads, 8, generator=generator, dtype=torch.float64)
    found = attend_segments(q, k, v, lengths)
    assert found.shape == q.shape
    assert (found - _masked(q, k, v, lengths)).abs().max() < 1e-12


@pytest.mark.parametrize("lengths", [[4, 4, 4], [4, 4, 6, 6, 4], [6, 4, 4, 4, 2]])
def test_runs_of_equal_segments_give_what_each_gives_alone(lengths: list[int]) -> None:
    q, k, v = torch.randn(3, sum(lengths), 2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone = [
        attend_segments(a, b, c, [len(a)])
        for a, b, c in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    ]
    assert (attend_segments(q, k, v, lengths) - torch.cat(alone)).abs().max() < 1e-13


def test_a_wrong_boundary_shows() -> None:
    q, k, v = torch.randn(3, 10, 2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (attend_segments(q, k, v, [4, 6]) - attend_segments(q, k, v, [5, 5])).abs().max() > 0.1


def test_each_picture_is_seen_alone(model: Qwen3VL) -> None:
    pictures = (WIDE, TALL, CLIP)
    visual = model.model.visual
    together, taps = visual(torch.cat([p.pixels for p in pictures]), torch.tensor([p.grid for p in pictures]))
    start = 0
    for picture in pictures:
        count = len(picture.pixels) // MERGE**2
        alone, alone_taps = visual(picture.pixels, torch.tensor([picture.grid]))
        for found, expected in zip([together, *taps], [alone, *alone_taps], strict=True):
            assert (found[start : start + count] - expected).abs().max() < 1e-10
        start += count
    assert start == len(together)


def test_each_frame_of_a_video_is_seen_alone(model: Qwen3VL) -> None:
    visual, grid = model.model.visual, torch.tensor([CLIP.grid])
    before, _ = visual(CLIP.pixels, grid)
    changed = CLIP.pixels
    frame = CLIP.grid[1] * CLIP.grid[2]
    changed[frame : 2 * frame] += 1
    after, _ = visual(changed, grid)
    moved = (before - after).abs().amax(dim=1) > 1e-6
    tokens = frame // MERGE**2
    assert moved.tolist() == [False] * tokens + [True] * tokens + [False] * tokens


def test_the_place_of_a_patch_matters(model: Qwen3VL) -> None:
    # 4 x 8 and 8 x 4 hold as many patches: only positions and rotation tell them apart.
    visual = model.model.visual
    wide, _ = visual(WIDE.pixels, torch.tensor([[1, 4, 8]]))
    tall, _ = visual(WIDE.pixels, torch.tensor([[1, 8, 4]]))
    assert (wide - tall).abs().max() > 0.1


def test_rotation_takes_rows_from_the_first_quarter_and_columns_from_the_second(model: Qwen3VL) -> None:
    visual = model.model.visual
    cos, sin = visual.rotary(torch.tensor([[1, 4, 6]]))
    speed = torch.tensor([10000.0 ** (-2 * i / 6) for i in range(3)], dtype=torch.float64)  # head_dim 12: D/4 = 3
    # In merge order patch 14 is the third of the fourth block: row 3, column 0.
    angle = torch.cat([3 * speed, 0 * speed]).repeat(2)
    assert torch.allclose(cos[14], angle.cos(), atol=1e-14)
    assert torch.allclose(sin[14], angle.sin(), atol=1e-14)
    assert cos.dtype == torch.float64


def test_the_three_mergers_use_exact_gelu_and_the_blocks_its_tanh_form(model: Qwen3VL) -> None:
    visual: Any = model.model.visual
    x = torch.randn(8, 48, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    merger, tap, mlp = visual.merger, visual.deepstack_merger_list[1], visual.blocks[0].mlp
    normed = F.layer_norm(x, (48,), merger.norm.weight, merger.norm.bias, 1e-6).view(2, 192)
    expected = merger.linear_fc2(F.gelu(merger.linear_fc1(normed)))
    assert torch.allclose(merger(x), expected, rtol=0, atol=1e-12)
    normed = F.layer_norm(x.view(2, 192), (192,), tap.norm.weight, tap.norm.bias, 1e-6)
    assert torch.allclose(tap(x), tap.linear_fc2(F.gelu(tap.linear_fc1(normed))), rtol=0, atol=1e-12)
    h = mlp.linear_fc1(x)
    tanh = 0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)))
    assert torch.allclose(mlp(x), mlp.linear_fc2(tanh), rtol=0, atol=1e-12)


def test_deepstack_features_come_from_the_tapped_blocks(model: Qwen3VL) -> None:
    outputs: dict[str, Tensor] = {}

    def keep(name: str, tensor: Tensor) -> Tensor:
        outputs[name] = tensor
        return tensor

    with listening(keep):
        _, features = model.model.visual(TALL.pixels, torch.tensor([TALL.grid]))
    mergers = model.model.visual.deepstack_merger_list
    for index, block in enumerate((1, 3, 4)):
        assert torch.equal(features[index], mergers[index](outputs[f"vision.blocks.{block}.out"]))


@pytest.mark.parametrize("shape", [(11, PATCH_DIM), (13, PATCH_DIM), (12, PATCH_DIM - 1), (1, 12, PATCH_DIM)])
def test_pixel_rows_that_do_not_fit_the_grids_are_refused_with_both_shapes(
    model: Qwen3VL, shape: tuple[int, ...]
) -> None:
    grid = torch.tensor([TALL.grid])
    model.model.visual(torch.zeros(12, PATCH_DIM), grid)
    with pytest.raises(InputError) as caught:
        model.model.visual(torch.zeros(shape), grid)
    assert str(shape) in str(caught.value)
    assert f"(12, {PATCH_DIM})" in str(caught.value)
