"""Pixel configs are read as by the reference. Unusable ones are refused with file and field."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from port import ConfigError
from port.pixel_config import PictureConfig, VideoConfig
from tests.port.pixel_samples import CLIP_MEAN, CLIP_STD, PICTURE, VIDEO, picture_config, video_config, write_configs

OTHER: dict[str, Any] = {
    "size": {"shortest_edge": 4096, "longest_edge": 262144},
    "patch_size": 14,
    "temporal_patch_size": 4,
    "merge_size": 3,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
    "rescale_factor": 1 / 256,
}
OTHER_VIDEO = {**OTHER, "fps": 4, "min_frames": 8, "max_frames": 64, "max_video_tokens": 96}


def _as_the_reference(config: PictureConfig | VideoConfig, reference: Any) -> None:
    """Every field is what the reference's processor of the same files has."""
    ours = asdict(config)
    assert (ours.pop("min_pixels"), ours.pop("max_pixels")) == (
        reference.size["shortest_edge"],
        reference.size["longest_edge"],
    )
    if "cap_pixels_per_frame" in ours:
        assert ours.pop("cap_pixels_per_frame") is bool(reference.cap_pixels_per_frame)
    for name, value in ours.items():
        theirs = getattr(reference, name)
        assert value == (tuple(theirs) if isinstance(theirs, list | tuple) else theirs), name


@pytest.mark.parametrize(
    ("picture", "video"),
    [(PICTURE, VIDEO), (OTHER, OTHER_VIDEO), (PICTURE, {**VIDEO, "cap_pixels_per_frame": True})],
    ids=["published", "other", "capped"],
)
def test_files_mean_what_they_mean_to_the_reference(tmp_path: Path, picture: Any, video: Any) -> None:
    write_configs(tmp_path, picture=picture, video=video)
    _as_the_reference(PictureConfig.from_folder(tmp_path), Qwen2VLImageProcessor.from_pretrained(tmp_path))
    _as_the_reference(VideoConfig.from_folder(tmp_path), Qwen3VLVideoProcessor.from_pretrained(tmp_path))


def test_published_files_are_read_whole(tmp_path: Path) -> None:
    write_configs(tmp_path)
    assert PictureConfig.from_folder(tmp_path) == picture_config()
    assert VideoConfig.from_folder(str(tmp_path)) == video_config()
    assert picture_config().factor == 32


def test_what_the_reference_saves_is_read(tmp_path: Path) -> None:
    """One file each from the processors alone, one for both from the whole processor."""
    picture, video = Qwen2VLImageProcessor(**OTHER), Qwen3VLVideoProcessor(**OTHER_VIDEO)
    picture.save_pretrained(tmp_path)
    video.save_pretrained(tmp_path)
    _as_the_reference(PictureConfig.from_folder(tmp_path), picture)
    _as_the_reference(VideoConfig.from_folder(tmp_path), video)
    both = tmp_path / "both"
    both.mkdir()
    sections = {"image_processor": picture.to_dict(), "video_processor": video.to_dict()}
    (both / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen3VLProcessor", **sections}))
    assert PictureConfig.from_folder(both) == PictureConfig.from_folder(tmp_path)
    assert VideoConfig.from_folder(both) == VideoConfig.from_folder(tmp_path)


def test_the_file_for_both_goes_first_as_in_the_reference(tmp_path: Path) -> None:
    write_configs(tmp_path)
    sections = {"image_processor": OTHER, "video_processor": OTHER_VIDEO}
    (tmp_path / "processor_config.json").write_text(json.dumps(sections))
    assert PictureConfig.from_folder(tmp_path).patch_size == 14
    _as_the_reference(PictureConfig.from_folder(tmp_path), Qwen2VLImageProcessor.from_pretrained(tmp_path))
    _as_the_reference(VideoConfig.from_folder(tmp_path), Qwen3VLVideoProcessor.from_pretrained(tmp_path))
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen3VLProcessor"}))
    assert PictureConfig.from_folder(tmp_path).patch_size == 16, "an older one without sections is passed over"


def test_older_limits_go_before_size_in_pictures_and_count_for_nothing_in_videos(tmp_path: Path) -> None:
    older = {"min_pixels": 1000, "max_pixels": 2000}
    write_configs(tmp_path, picture={**PICTURE, **older}, video={**VIDEO, **older})
    picture, video = PictureConfig.from_folder(tmp_path), VideoConfig.from_folder(tmp_path)
    assert (picture.min_pixels, picture.max_pixels) == (1000, 2000)
    assert (video.min_pixels, video.max_pixels) == (4096, 25165824)
    _as_the_reference(picture, Qwen2VLImageProcessor.from_pretrained(tmp_path))
    _as_the_reference(video, Qwen3VLVideoProcessor.from_pretrained(tmp_path))
    write_configs(tmp_path, picture={**{name: PICTURE[name] for name in PICTURE if name != "size"}, **older})
    assert PictureConfig.from_folder(tmp_path) == picture
    write_configs(tmp_path, picture={**PICTURE, "min_pixels": 1000})
    assert PictureConfig.from_folder(tmp_path).max_pixels == 16777216
    _as_the_reference(PictureConfig.from_folder(tmp_path), Qwen2VLImageProcessor.from_pretrained(tmp_path))


def test_no_cap_is_the_meaning_of_null_and_of_nothing(tmp_path: Path) -> None:
    write_configs(tmp_path, video={**VIDEO, "cap_pixels_per_frame": None})
    assert VideoConfig.from_folder(tmp_path) == video_config(cap_pixels_per_frame=False)


def test_num_frames_goes_alone(tmp_path: Path) -> None:
    write_configs(tmp_path, video={**VIDEO, "num_frames": 8})
    config = VideoConfig.from_folder(tmp_path)
    assert (config.num_frames, config.fps) == (8, None)
    write_configs(tmp_path, video={**VIDEO, "num_frames": 8, "fps": 2})
    with pytest.raises(ConfigError, match="both fps = 2 and num_frames = 8; keep one"):
        VideoConfig.from_folder(tmp_path)


@pytest.mark.parametrize("field", sorted(PICTURE))
@pytest.mark.parametrize("kind", ["picture", "video"])
def test_a_missing_field_is_named_with_its_file(tmp_path: Path, field: str, kind: str) -> None:
    raw = {name: value for name, value in (PICTURE if kind == "picture" else VIDEO).items() if name != field}
    write_configs(tmp_path, **{kind: raw})
    reader, file = (
        (PictureConfig, "preprocessor_config.json") if kind == "picture" else (VideoConfig, "video_preprocessor_config")
    )
    with pytest.raises(ConfigError, match=rf"{file}.*{field}"):
        reader.from_folder(tmp_path)


@pytest.mark.parametrize("edge", ["shortest_edge", "longest_edge"])
def test_a_missing_edge_is_named(tmp_path: Path, edge: str) -> None:
    size = {name: value for name, value in PICTURE["size"].items() if name != edge}
    write_configs(tmp_path, picture={**PICTURE, "size": size}, video={**VIDEO, "size": size})
    for reader in (PictureConfig, VideoConfig):
        with pytest.raises(ConfigError, match=rf"size\.{edge} is missing"):
            reader.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patch_size": 0}, "patch_size is 0"),
        ({"patch_size": 16.0}, r"patch_size is 16\.0"),
        ({"merge_size": True}, "merge_size is True"),
        ({"temporal_patch_size": "2"}, "temporal_patch_size is '2'"),
        ({"image_mean": 0.5}, r"image_mean is 0\.5; it must be a list of three finite numbers"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_mean": [0.5, 0.5, float("nan")]}, "image_mean"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std.*above 0"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"rescale_factor": float("inf")}, "rescale_factor is inf"),
        ({"size": 5}, "size is 5; it must be an object"),
        ({"size": {"shortest_edge": 10, "longest_edge": 5}}, "at least 10 and at most 5"),
        ({"size": {"shortest_edge": 0, "longest_edge": 5}}, r"size\.shortest_edge is 0"),
        ({"do_resize": False}, "do_resize is False; it must be True, the only value"),
        ({"do_rescale": False}, "do_rescale"),
        ({"do_normalize": False}, "do_normalize"),
        ({"do_convert_rgb": None}, "do_convert_rgb is missing"),
        ({"resample": 2}, "resample is 2; it must be 3, the only value"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_configs(tmp_path, picture={**PICTURE, **change}, video={**VIDEO, **change})
    for reader in (PictureConfig, VideoConfig):
        with pytest.raises(ConfigError, match=said):
            reader.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"do_sample_frames": False}, "do_sample_frames is False"),
        ({"cap_pixels_per_frame": "false"}, "cap_pixels_per_frame is 'false'; it must be true or false"),
        ({"cap_pixels_per_frame": 1}, "cap_pixels_per_frame is 1"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": None}, "fps is missing"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"min_frames": -4}, "min_frames is -4"),
        ({"max_frames": "768"}, "max_frames is '768'"),
        ({"max_video_tokens": 0}, "max_video_tokens is 0"),
    ],
)
def test_what_cannot_be_used_of_a_video_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_configs(tmp_path, video={**VIDEO, **change})
    with pytest.raises(ConfigError, match=said):
        VideoConfig.from_folder(tmp_path)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"preprocessor_config\.json does not exist, and processor_config\.json has no image_processor",
    ):
        PictureConfig.from_folder(tmp_path)
    write_configs(tmp_path, video=None)
    with pytest.raises(ConfigError, match=r"video_preprocessor_config\.json does not exist"):
        VideoConfig.from_folder(tmp_path)  # the reference would take the pictures' limits
    for broken, said in (("{", "is not valid JSON"), ("[]", "holds a list"), ("\\xff", "is not valid JSON")):
        (tmp_path / "preprocessor_config.json").write_text(broken)
        with pytest.raises(ConfigError, match=rf"preprocessor_config\.json {said}"):
            PictureConfig.from_folder(tmp_path)
