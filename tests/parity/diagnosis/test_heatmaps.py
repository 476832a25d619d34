"""Heat maps over pictures and video frames: each patch at its place, the frames with the largest errors kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from parity.core.compare import Finding
from parity.core.trace import Entry, SeamKey
from parity.diagnosis.heatmaps import MOST_FRAMES, heat_maps
from parity.documents.pictures import keep_pictures, pictures_of, take_over

CONFIG = {"vision_config": {"spatial_merge_size": 2, "temporal_patch_size": 2}}


def inputs(video: tuple[int, int, int] | None = (3, 4, 4), picture: tuple[int, int, int] | None = (1, 4, 6)) -> Any:
    frames = np.zeros((0 if video is None else 2 * video[0] - 1, 8, 8, 3), dtype=np.uint8)
    frames += np.arange(len(frames), dtype=np.uint8)[:, None, None, None]
    trace = SimpleNamespace(read=lambda key: {"processor.videos.0.decoded": frames}[key.name])
    tensors = {}
    if picture is not None:
        tensors["image_grid_thw"] = torch.tensor([picture])
    if video is not None:
        tensors["video_grid_thw"] = torch.tensor([video])
    return SimpleNamespace(
        tensors=tensors,
        config=CONFIG,
        images=[] if picture is None else [("a picture", Image.new("RGB", (6, 4)))],
        processed=SimpleNamespace(yardstick=SimpleNamespace(trace=trace)),
    )


def finding(kind: str, figures: np.ndarray, status: Any = "ok", name: str = "vision.merger", call: int = 0) -> Finding:
    rows = SeamKey(f"rows.{kind}.merged", 0)
    entry = Entry(SeamKey(name, call), f"prefill, {kind}", "vision", "float", figures.shape, "float32", rows=rows)
    return Finding(entry, status, gate=0.5, row_figures=figures)


def test_each_frame_has_the_errors_of_its_own_patches() -> None:
    found = [finding("images", np.arange(6.0)), finding("videos", np.arange(12.0), call=1)]
    picture, *frames = heat_maps(inputs(), found)
    assert (picture.kind, picture.errors.tolist()) == ("image", [[0, 1, 2], [3, 4, 5]])
    assert [frame.errors.tolist() for frame in frames] == [
        [[4 * t, 4 * t + 1], [4 * t + 2, 4 * t + 3]] for t in range(3)
    ]
    assert [frame.title for frame in frames] == [f"video 1, frame {number} of 5" for number in (1, 3, 5)]
    assert [np.asarray(frame.image)[0, 0, 0] for frame in frames] == [0, 2, 4]
    assert {frame.kind for frame in frames} == {"frame"}


def test_a_video_alone_is_shown_at_the_seam_that_failed() -> None:
    failed = finding("videos", np.arange(48.0), "diverged", "vision.blocks.0.out")
    maps = heat_maps(inputs(picture=None), [failed, finding("videos", np.arange(12.0))])
    assert [found.seam for found in maps] == ["vision.blocks.0.out"] * 3
    # Merge order: blocks of two by two patches.
    assert maps[0].errors[:2, :2].tolist() == [[0, 1], [2, 3]]


def test_of_a_long_video_the_frames_with_the_largest_errors_are_kept_in_order() -> None:
    figures = np.zeros((20, 4))
    worst = [1, 4, 5, 9, 11, 13, 17, 19]
    figures[worst] = 1.0
    maps = heat_maps(inputs(video=(20, 4, 4), picture=None), [finding("videos", figures.ravel())])
    assert len(maps) == MOST_FRAMES
    assert [found.title for found in maps] == [f"video 1, frame {2 * time + 1} of 39" for time in worst]


def test_without_vision_there_are_no_maps() -> None:
    assert heat_maps(inputs(), []) == []
    assert heat_maps(inputs(video=None, picture=None), [finding("images", np.arange(6.0))]) == []


@pytest.mark.parametrize("spoil", ["{", "[]", '[{"file": "../../secret.png"}]', '[{"file": 3}]', "null"])
def test_kept_pictures_are_taken_over_and_a_spoiled_file_is_left_out(spoil: str, tmp_path: Path) -> None:
    found = [finding("images", np.arange(6.0)), finding("videos", np.arange(12.0), call=1)]
    keep_pictures(heat_maps(inputs(), found), tmp_path / "a", item="case:photo:float32", stem="case-photo")
    take_over(tmp_path / "a", tmp_path / "b", ["case-photo", "case-text"])
    sections = pictures_of(tmp_path / "b", ["case-photo", "case-text"])
    assert [section["kind"] for section in sections] == ["frame", "frame", "image", "frame"]
    assert {section["item"] for section in sections} == {"case:photo:float32"}
    (tmp_path / "b" / "pictures" / "case-photo.json").write_text(spoil, encoding="utf-8")
    assert pictures_of(tmp_path / "b", ["case-photo"]) == []
