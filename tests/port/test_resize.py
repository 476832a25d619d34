"""Sizes compared with the reference's two rules and qwen-vl-utils, pixels with both of the reference's backends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import qwen_vl_utils.vision_process as qwen
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as tv
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as reference_size
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as reference_video_size

from port import InputError
from port.resize import resize_bicubic, smart_resize, smart_resize_video
from tests.port.pixel_samples import noise, smooth

SIDES = st.one_of(st.integers(1, 100), st.integers(1, 5000), st.integers(1, 10**7))
FACTORS = st.sampled_from([1, 7, 14, 16, 28, 32, 48])
AREAS = st.one_of(st.integers(1, 10**4), st.integers(10**4, 10**8))
PUBLISHED = (65536, 16777216)


def _or_refused(rule: Any, **arguments: int) -> tuple[int, int] | str:
    """The size, or "refused"."""
    try:
        return rule(**arguments)
    except ValueError:
        return "refused"


@settings(max_examples=400, deadline=None)
@given(SIDES, SIDES, FACTORS, AREAS, AREAS)
@example(48, 80, 32, 1, 10**8)  # both halves: 1.5 to 2, 2.5 to 2
@example(16, 16, 32, 1, 10**8)  # a half to nothing, then grown
@example(200, 1, 16, *PUBLISHED)
@example(201, 1, 16, *PUBLISHED)
@example(10**7, 10**5, 32, *PUBLISHED)
def test_pictures_have_the_references_size(height: int, width: int, factor: int, one: int, other: int) -> None:
    sizes = {"height": height, "width": width, "factor": factor}
    limits = {"min_pixels": min(one, other), "max_pixels": max(one, other)}
    assert _or_refused(smart_resize, **sizes, **limits) == _or_refused(reference_size, **sizes, **limits)


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 1000), SIDES, SIDES, FACTORS, st.integers(1, 4), AREAS, AREAS)
@example(5, 48, 80, 32, 2, 1, 10**8)  # 2.5 temporal patches count as 2
@example(5, 64, 64, 32, 2, 1, 18_000)  # within the limit when counted as 4, over it as 5
@example(2, 1, 180, 32, 2, 4096, 25165824)  # scaled up first
@example(1, 64, 64, 32, 2, 4096, 25165824)
@example(768, 1080, 1920, 32, 2, 4096, 25165824)
def test_videos_have_the_references_size(
    frames: int, height: int, width: int, factor: int, temporal: int, one: int, other: int
) -> None:
    sizes = {"height": height, "width": width, "factor": factor, "temporal_factor": temporal}
    limits = {"min_pixels": min(one, other), "max_pixels": max(one, other)}
    ours = _or_refused(smart_resize_video, frames=frames, **sizes, **limits)
    assert ours == _or_refused(reference_video_size, num_frames=frames, **sizes, **limits)


@settings(max_examples=200, deadline=None)
@given(SIDES, SIDES, FACTORS)
def test_qwen_vl_utils_agrees_on_pictures_that_no_limit_makes_narrow(height: int, width: int, factor: int) -> None:
    """It rounds a side to at least the factor before the limits, and lets one vanish when shrinking."""
    limits = {"min_pixels": 4 * factor**2, "max_pixels": 16384 * factor**2}
    assume(max(height, width) <= 100 * min(height, width))
    assume(min(height, width) >= 2 * factor)
    assert smart_resize(height, width, factor=factor, **limits) == qwen.smart_resize(height, width, factor, **limits)


def test_qwen_vl_utils_differs_on_narrow_pictures() -> None:
    limits = {"min_pixels": 1, "max_pixels": 4 * 32**2}
    assert smart_resize(32, 6000, factor=32, **limits) == (32, 864)
    assert qwen.smart_resize(32, 6000, 32, **limits) == (0, 864)
    limits = {"min_pixels": 1, "max_pixels": 10**6}
    assert smart_resize(10, 40, factor=32, **limits) == (32, 32)
    assert qwen.smart_resize(10, 48, 32, **limits) == (32, 64)
    assert smart_resize(10, 48, factor=32, **limits) == (32, 32), "grown from no pixels at all"


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_no_pixels_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="both sides must be at least 1"):
        smart_resize(*size, factor=32, min_pixels=1, max_pixels=10)
    with pytest.raises(InputError, match="both sides must be at least 1"):
        smart_resize_video(2, *size, factor=32, temporal_factor=2, min_pixels=1, max_pixels=10)


def test_what_is_too_narrow_or_too_short_is_refused_with_both_numbers() -> None:
    with pytest.raises(InputError, match=r"2010 x 10, but the aspect ratio may be at most 200; crop it"):
        smart_resize(10, 2010, factor=1, min_pixels=1, max_pixels=10**6)
    with pytest.raises(InputError, match=r"1 frames, but a temporal patch needs 2"):
        smart_resize_video(1, 64, 64, factor=32, temporal_factor=2, min_pixels=1, max_pixels=10**6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), *[st.integers(1, 150)] * 2, *[st.integers(2, 150)] * 2, st.integers(0, 9))
def test_pixels_are_torchvisions(frames: int, height: int, width: int, h: int, w: int, seed: int) -> None:
    """One after the other and together, with channels last in memory as here, and first as in the reference.

    To 1 x 1, which no factor asks for, torch's kernel fails with channels first.
    """
    pixels = torch.from_numpy(noise(frames, height, width, 3, seed=seed))
    ours = resize_bicubic(pixels, h, w)
    assert ours.dtype == torch.uint8
    theirs = tv.resize(
        pixels.permute(0, 3, 1, 2).contiguous(), [h, w], interpolation=tv.InterpolationMode.BICUBIC, antialias=True
    )
    assert torch.equal(ours, theirs.permute(0, 2, 3, 1))
    assert torch.equal(ours[:1], resize_bicubic(pixels[:1], h, w))


def _pillow_steps(picture: np.ndarray, h: int, w: int) -> np.ndarray:
    """How far Pillow's bicubic resize of (H, W, 3) lies from ours, in 8-bit steps."""
    ours = resize_bicubic(torch.from_numpy(picture)[None], h, w)[0].numpy()
    theirs = np.asarray(Image.fromarray(picture).resize((w, h), Image.Resampling.BICUBIC))
    return np.abs(ours.astype(int) - theirs)


@pytest.mark.parametrize("size", [(200, 300), (192, 288), (380, 580), (420, 620)])
def test_pillows_pixels_lie_within_two_steps_in_smooth_pictures(size: tuple[int, int]) -> None:
    """The reference has both backends; the default is the one that this equals."""
    steps = _pillow_steps(smooth(400, 600), *size)
    assert 1 <= steps.max() <= 2, "the kernels are not the same"
    assert (steps == 0).mean() > 0.97
    assert (steps <= 1).mean() > 0.999


def test_pillows_pixels_lie_further_off_where_the_height_shrinks_and_the_width_grows() -> None:
    """At hard edges; the other way round, and where both shrink, they are within a step there too."""
    edges = np.kron(noise(60, 60, 1, seed=1) // 128 * 255, np.ones((5, 5, 3), np.uint8)).astype(np.uint8)
    steps = _pillow_steps(edges, 288, 320)
    assert 10 <= steps.max() <= 20
    assert 0.9 < (steps == 0).mean() < 0.99
    assert _pillow_steps(edges, 320, 288).max() <= 1
    assert _pillow_steps(edges, 96, 96).max() <= 1


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    pixels = torch.from_numpy(noise(1, 32, 64, 3))
    assert resize_bicubic(pixels, 32, 64) is pixels
