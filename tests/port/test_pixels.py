"""Patches of pictures and videos are bit-equal to those of the reference's processors, for many sizes and configs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import qwen_vl_utils
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from port import InputError, listening
from port.pixels import normalise, process_picture, process_video, video_size
from port.tap import Tap
from tests.port.pixel_samples import (
    CLIP_MEAN,
    CLIP_STD,
    PICTURE,
    Heard,
    grid_of,
    moving,
    noise,
    picture_config,
    reference_pictures,
    reference_video,
    reference_videos,
    smooth,
    video_config,
)

SIDES = st.one_of(st.integers(1, 40), st.integers(20, 200))
COLOURS = st.sampled_from([([0.5] * 3, [0.5] * 3), (CLIP_MEAN, CLIP_STD), ([0.1, 0.9, 0.0], [0.3, 2.0, 1.0])])
PATCH = Tap("processor.images.0.")
CLIP = Tap("processor.videos.0.")


@st.composite
def _changes(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a config that both processors take, limits small enough to matter to small pictures."""
    mean, std = draw(COLOURS)
    least, more = draw(st.integers(1, 40_000)), draw(st.integers(0, 40_000))
    return {
        "size": {"shortest_edge": least, "longest_edge": least + more},
        "patch_size": draw(st.sampled_from([8, 14, 16])),
        "temporal_patch_size": draw(st.sampled_from([1, 2, 4])),
        "merge_size": draw(st.sampled_from([1, 2, 3])),
        "image_mean": mean,
        "image_std": std,
        "rescale_factor": draw(st.sampled_from([1 / 255, 1 / 256, 0.0123])),
    }


@settings(max_examples=120, deadline=None)
@given(_changes(), SIDES, SIDES, st.integers(0, 9))
@example({}, 600, 500, 0)  # as published; more patches than a block has
@example({}, 1, 200, 0)
def test_pictures_are_the_references(changes: dict[str, Any], height: int, width: int, seed: int) -> None:
    picture = noise(height, width, 3, seed=seed)
    theirs = reference_pictures(**changes)(images=[Image.fromarray(picture)], return_tensors="pt")
    before = picture.copy()
    ours = process_picture(picture, picture_config(**changes), PATCH)
    assert ours.pixel_values.dtype == torch.float32
    assert ours.pixel_values.is_contiguous()
    assert torch.equal(ours.pixel_values, theirs["pixel_values"])
    assert grid_of(ours) == theirs["image_grid_thw"].tolist()
    np.testing.assert_array_equal(picture, before)


@settings(max_examples=80, deadline=None)
@given(_changes(), st.integers(1, 9), SIDES, SIDES, st.booleans(), st.integers(1, 300))
@example({}, 5, 130, 170, False, 768)
@example({}, 8, 64, 64, True, 768)
@example({"size": {"shortest_edge": 100_000, "longest_edge": 50_000}}, 3, 64, 64, True, 1)  # the floor of the cap
def test_videos_are_the_references(
    changes: dict[str, Any], count: int, height: int, width: int, cap: bool, tokens: int
) -> None:
    changes = {**changes, "cap_pixels_per_frame": cap, "max_video_tokens": tokens}
    config = video_config(**changes)
    assume(count >= config.temporal_patch_size)
    frames = noise(count, height, width, 3)
    theirs = reference_video(reference_videos(**changes), frames)
    ours = process_video(frames, config, CLIP)
    assert torch.equal(ours.pixel_values, theirs["pixel_values_videos"])
    assert grid_of(ours) == theirs["video_grid_thw"].tolist()


def test_a_video_of_one_frame_is_refused() -> None:
    with pytest.raises(InputError, match="1 frames, but a temporal patch needs 2"):
        process_video(noise(1, 64, 64, 3), video_config(), CLIP)


def test_the_cap_binds_and_its_absence_does_not() -> None:
    """As null means in the reference that is installed: without the cap."""
    free, capped = video_config(), video_config(cap_pixels_per_frame=True)
    assert video_size(8, 1080, 1920, free) == (1088, 1920)
    assert video_size(8, 1080, 1920, capped) == (640, 1152)
    frames = moving(4, 640, 1280)  # more than 768 merged patches
    sizes = [
        reference_video(reference_videos(cap_pixels_per_frame=cap), frames)["video_grid_thw"].tolist()
        for cap in (None, False, True)
    ]
    assert sizes[0] == sizes[1] == grid_of(process_video(frames, free, CLIP)) == [[2, 40, 80]]
    assert sizes[2] == grid_of(process_video(frames, capped, CLIP)) == [[2, 38, 78]]


@pytest.mark.parametrize(("height", "width"), [(640, 1280), (768, 1024), (448, 2560), (1024, 768)])
def test_qwen_vl_utils_has_the_capped_size(height: int, width: int) -> None:
    """Sides that its own step for lists of frames, which rounds to twice the factor, leaves alone."""
    frames = [Image.fromarray(frame) for frame in moving(4, height, width)]
    theirs = qwen_vl_utils.fetch_video({"video": frames}, image_patch_size=16)
    size = tuple(theirs.shape[2:])
    assert size == video_size(4, height, width, video_config(cap_pixels_per_frame=True))
    assert (size != video_size(4, height, width, video_config())) is (height * width > 768 * 32**2)


def test_qwen_vl_utils_rounds_lists_of_frames_to_twice_the_factor_and_to_even_numbers() -> None:
    """It takes the merged patch for the patch there: where that moves a side, it differs from the reference."""
    frames = moving(3, 480, 672)
    theirs = qwen_vl_utils.fetch_video({"video": [Image.fromarray(frame) for frame in frames]}, image_patch_size=16)
    assert tuple(theirs.shape) == (4, 3, 512, 640)
    assert video_size(3, 480, 672, video_config(cap_pixels_per_frame=True)) == (480, 672)


@settings(max_examples=30, deadline=None)
@given(st.integers(64, 700), st.integers(64, 700))
def test_qwen_vl_utils_has_the_grids_of_pictures(height: int, width: int) -> None:
    changes = {"size": {"shortest_edge": 4 * 32**2, "longest_edge": 16384 * 32**2}}
    ours = process_picture(noise(height, width, 3), picture_config(**changes), PATCH)
    image = qwen_vl_utils.fetch_image({"image": Image.new("RGB", (width, height))}, image_patch_size=16)
    assert ours.grid_thw == (1, image.height // 16, image.width // 16)


@pytest.mark.parametrize(("size", "most"), [((313, 490), 2), ((512, 256), 0)])
def test_the_references_other_backend_lies_within_two_steps(size: tuple[int, int], most: int) -> None:
    """It resizes with Pillow and normalises in other steps, which alone moves no pixel by more than an ulp or two."""
    picture = smooth(*size)
    ours = process_picture(picture, picture_config(), PATCH)
    theirs = Qwen2VLImageProcessorPil(**PICTURE)(images=[Image.fromarray(picture)], return_tensors="pt")
    steps = (ours.pixel_values - theirs["pixel_values"]).abs() * 127.5
    assert grid_of(ours) == theirs["image_grid_thw"].tolist()
    assert most - 0.001 < steps.max() < most + 0.001
    assert (steps < 0.001).float().mean() > 0.97


def test_every_byte_is_normalised_as_by_the_reference() -> None:
    """All 256 of them in each channel; the fused arithmetic is not the plain one to the last bit."""
    config = picture_config(image_mean=CLIP_MEAN, image_std=CLIP_STD)
    own = reference_pictures(image_mean=CLIP_MEAN, image_std=CLIP_STD)
    flat = torch.arange(256, dtype=torch.uint8).repeat(1, 3)  # one patch
    before = flat.clone()
    ours = normalise(flat, config).view(3, 256)
    planes = flat.view(1, 3, 16, 16)
    theirs = own.rescale_and_normalize(planes, True, 1 / 255, True, tuple(CLIP_MEAN), tuple(CLIP_STD))
    assert torch.equal(ours, theirs.view(3, 256))
    plain = (flat.view(3, 256) / 255 - torch.tensor(CLIP_MEAN)[:, None]) / torch.tensor(CLIP_STD)[:, None]
    assert not torch.equal(ours, plain)
    assert torch.equal(flat, before)


def test_taps_are_read_and_their_replacements_gone_on_with() -> None:
    picture, config = noise(70, 50, 3), picture_config(size={"shortest_edge": 1024, "longest_edge": 10**6})
    with Heard() as heard:
        ours = process_picture(picture, config, PATCH)
    assert list(heard.values) == ["processor.images.0.resized", "processor.images.0.patches"]
    resized = heard.values["processor.images.0.resized"]
    assert (resized.dtype, resized.shape) == (torch.uint8, (1, 64, 64, 3))
    assert heard.values["processor.images.0.patches"] is ours.pixel_values
    with listening(lambda name, value: value * 0 if name.endswith("resized") else value):
        assert (process_picture(picture, config, PATCH).pixel_values == -1).all()
    with listening(lambda name, value: value * 0 if name.endswith("patches") else value):
        assert (process_picture(picture, config, PATCH).pixel_values == 0).all()


def test_taps_of_a_video_come_before_it_is_padded() -> None:
    with Heard() as heard:
        ours = process_video(noise(3, 64, 96, 3), video_config(), CLIP)
    assert heard.values["processor.videos.0.resized"].shape == (3, 64, 96, 3)
    assert heard.values["processor.videos.0.patches"] is ours.pixel_values
    assert ours.grid_thw == (2, 4, 6)
    with listening(lambda name, value: value * 0 if name.endswith("resized") else value):
        assert (process_video(noise(3, 64, 96, 3), video_config(), CLIP).pixel_values == -1).all()


def test_what_may_not_be_written_to_is_left_alone() -> None:
    picture = noise(64, 64, 3)
    picture.flags.writeable = False
    config = picture_config(size={"shortest_edge": 1024, "longest_edge": 10**6})
    assert torch.equal(
        process_picture(picture, config, PATCH).pixel_values,
        process_picture(picture.copy(), config, PATCH).pixel_values,
    )
