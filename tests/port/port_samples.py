"""A tiny model, its config and its prompts, for the tests of the port.

Legend: F, H, W = frames, rows and columns of a grid, in patches.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from port import Inputs, Qwen3VL, Qwen3VLConfig
from port.weights import checkpoint_name
from reference.shapes import TINY, config_dict
from reference.weights import tensor_values

TOKEN_IDS = {
    "<|endoftext|>": 690,
    "<|im_end|>": 691,
    "<|vision_start|>": 692,
    "<|vision_end|>": 693,
    "<|image_pad|>": 694,
    "<|video_pad|>": 695,
}
IMAGE, VIDEO = TOKEN_IDS["<|image_pad|>"], TOKEN_IDS["<|video_pad|>"]
START, END = TOKEN_IDS["<|vision_start|>"], TOKEN_IDS["<|vision_end|>"]
PATCH_DIM = 3 * 2 * 16 * 16
MERGE = 2


def raw_config(**options: Any) -> dict[str, Any]:
    """Return a new, valid ``config.json`` as a dict. Options as in ``config_dict``."""
    return copy.deepcopy(config_dict(TINY, token_ids=TOKEN_IDS, dtype="float32", **options))


def make_model(*, tied: bool = False, dtype: torch.dtype = torch.float64) -> Qwen3VL:
    """Make a model with seeded weights in which every seam influences the logits."""
    model = Qwen3VL(Qwen3VLConfig.from_dict(raw_config(tied=tied)))
    state = {}
    for name, parameter in model.named_parameters():
        values = tensor_values(checkpoint_name(name), tuple(parameter.shape), seed=3, tied=tied)
        state[name] = torch.from_numpy(values).to(dtype)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Picture:
    """An image or a video of a prompt. Its pixels depend on the seed."""

    grid: tuple[int, int, int]
    seed: int
    video: bool = False

    @property
    def pixels(self) -> Tensor:
        frames, rows, columns = self.grid
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(frames * rows * columns, PATCH_DIM, generator=generator, dtype=torch.float64) * 2 - 1

    def tokens(self) -> list[int]:
        """Start, placeholders, end; a video has a timestamp before each of its frames."""
        frames, rows, columns = self.grid
        count = rows * columns // MERGE**2
        if not self.video:
            return [START, *[IMAGE] * (frames * count), END]
        return [token for frame in range(frames) for token in (100 + frame, START, *[VIDEO] * count, END)]


Part = int | Picture
Row = Sequence[Part]


def text(seed: int, length: int) -> list[int]:
    """Return ordinary token ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 680, (length,), generator=generator).tolist()


def tokens_of(row: Row) -> list[int]:
    return [token for part in row for token in (part.tokens() if isinstance(part, Picture) else [part])]


def batch(rows: Sequence[Row], *, side: str = "left", pad_id: int = 690, extra: int = 0) -> Inputs:
    """Make one batch, padded to its longest row plus ``extra`` tokens."""
    tokens = [tokens_of(row) for row in rows]
    width = max(map(len, tokens)) + extra
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row_tokens in enumerate(tokens):
        place = slice(width - len(row_tokens), None) if side == "left" else slice(0, len(row_tokens))
        ids[index, place] = torch.tensor(row_tokens)
        mask[index, place] = 1
    media: dict[str, Tensor] = {}
    for video, pixels, grids in (
        (False, "pixel_values", "image_grid_thw"),
        (True, "pixel_values_videos", "video_grid_thw"),
    ):
        pictures = [part for row in rows for part in row if isinstance(part, Picture) and part.video is video]
        if pictures:
            media[pixels] = torch.cat([picture.pixels for picture in pictures])
            media[grids] = torch.tensor([picture.grid for picture in pictures])
    return Inputs(ids, mask, **media)


def real(logits: Tensor, inputs: Inputs, row: int) -> Tensor:
    """Return the logits (tokens, V) of one row's real tokens."""
    return logits[row][inputs.attention_mask[row].bool()]


WIDE = Picture((1, 4, 8), seed=1)
TALL = Picture((1, 6, 2), seed=2)
CLIP = Picture((3, 2, 4), seed=3, video=True)
CLIP_2 = Picture((2, 4, 2), seed=4, video=True)

# Rows of different lengths and contents: text alone, one picture, several, pictures and videos mixed.
ROWS: dict[str, list[Part]] = {
    "text": [*text(10, 9)],
    "picture": [*text(11, 3), WIDE, *text(12, 4)],
    "pictures": [TALL, *text(13, 2), WIDE, *text(14, 1)],
    "mixed": [*text(15, 2), CLIP, *text(16, 3), TALL, CLIP_2, *text(17, 2)],
}
