"""What engines do otherwise: each hypothesis changes a picture as it says."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

import port.pixels
from parity.diagnosis.differences import DIFFERENCES, HYPOTHESES
from parity.mutants.registry import ALL


def _resize(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """What the port calls now, so with what is planted there."""
    resized: torch.Tensor = vars(port.pixels)["resize_bicubic"](frames, height, width)
    return resized


BY_ID = {difference.id: difference for difference in DIFFERENCES}
FRAMES = torch.randint(1, 256, (1, 110, 150, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _resized(name: str, height: int, width: int) -> torch.Tensor:
    with BY_ID[name].plant():
        return _resize(FRAMES, height, width)


def test_rounding_once_moves_pixels_by_little_and_only_where_something_is_resized() -> None:
    right = _resize(FRAMES, 96, 160)
    moved = (_resized("resize-rounded-once", 96, 160).int() - right.int()).abs()
    assert 0 < moved.float().mean() < 1
    assert torch.equal(_resized("resize-rounded-once", 110, 150), FRAMES)


def test_the_ratio_is_kept_and_the_rest_is_black() -> None:
    found = _resized("resize-padded", 96, 160)
    # 110 x 150 fits 96 x 160 as 96 x 131; 14 black columns on the left and 15 on the right.
    assert found.shape == (1, 96, 160, 3)
    assert found[:, :, :14].max() == 0
    assert found[:, :, 145:].max() == 0
    assert torch.equal(found[:, :, 14:145], _resized("resize-as-pillow", 96, 131))
    assert torch.equal(_resized("resize-padded", 110, 150), FRAMES)


def test_pillow_itself_resizes_like_the_hypothesis() -> None:
    # One direction after the other, as Pillow 13 takes the other one first where that costs less.
    wide = Image.fromarray(FRAMES[0].numpy()).resize((160, 110), Image.Resampling.BICUBIC)
    pillow = torch.from_numpy(np.array(wide.resize((160, 96), Image.Resampling.BICUBIC)))
    found, torchs = _resized("resize-as-pillow", 96, 160)[0], _resize(FRAMES, 96, 160)[0]
    assert (found.int() - pillow.int()).abs().max() <= 1
    assert (found != pillow).float().mean() < 2e-4 < 2e-3 < (torchs != pillow).float().mean()


def test_no_hypothesis_has_the_name_of_a_mistake() -> None:
    assert len({one.id for one in HYPOTHESES}) == len(HYPOTHESES) == len(ALL) + len(DIFFERENCES)
