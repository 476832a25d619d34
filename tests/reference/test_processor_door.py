"""The interface to the reference's processor: what it patches, and that it leaves the object unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor

from reference.checkpoint import make_checkpoint
from reference.media import VideoFrames
from reference.processor import ReferenceProcessor


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> ReferenceProcessor:
    """merge_size 3, temporal_patch_size 4."""
    return ReferenceProcessor.load(make_checkpoint(tmp_path_factory.mktemp("odd") / "odd", "tiny-odd"))


def test_a_timestamp_is_of_the_frames_of_one_temporal_patch(odd: ReferenceProcessor) -> None:
    """The size that transformers passes has no effect. 4.57 passes merge_size."""
    for size in ((), (3,), (4,)):
        assert odd.processor._calculate_timestamps(list(range(8)), 2.0, *size) == [0.75, 2.75]


def test_prompts_have_one_timestamp_for_each_row_of_the_grid(odd: ReferenceProcessor) -> None:
    frames = np.zeros((24, 126, 168, 3), dtype=np.uint8)
    heard: dict[str, Tensor] = {}
    batch = odd.prepare(
        [[VideoFrames(frames, 4.0), "So?"]],
        padding_side="left",
        sink=lambda name, tensor: heard.update({name: tensor}),
    )
    times = heard["processor.videos.0.timestamps"].tolist()
    assert len(times) == int(batch["video_grid_thw"][0, 0])
    text = odd.decode(batch["input_ids"][0].tolist())
    assert [f"<{time:.1f} seconds>" in text for time in times] == [True] * len(times)
    # The function is still patched after it was recorded.
    assert len(odd.processor._calculate_timestamps(list(range(12)), 2.0, 3)) == 3
