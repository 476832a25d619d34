"""Interleaved multimodal RoPE (M-RoPE): positions on three axes and their angles. Pure functions.

Shape legend
    B, S   batch, sequence (padding included)
    D      head_dim; D/2 frequencies
    axes   0 = time, 1 = height, 2 = width
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from port.errors import InputError

AXES = ("t", "h", "w")


def mrope_positions(
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    image_grid_thw: Tensor | None,
    video_grid_thw: Tensor | None,
    image_token_id: int,
    video_token_id: int,
    merge: int,
) -> tuple[Tensor, Tensor]:
    """Positions of a whole batch of prompts.

    ``input_ids`` (B, S) int64 and ``attention_mask`` (B, S), 0 at padding on either side. The grids list the
    pictures (or the videos) of all rows in reading order. Text tokens count up on all axes together. A picture
    that starts at position p gives its tokens t = p, h = p + row, w = p + column, and the text after it continues
    at p + max(rows, columns). Every frame of a video counts as such a picture, because the prompt has a timestamp
    between frames.

    Returns position_ids (3, B, S) int64, 0 at padding, and rope_delta (B, 1) int64: the next position minus
    the number of real tokens. Raises InputError if tokens and grids disagree. Source: ``get_rope_index``.
    """
    images = _Grids("image", image_grid_thw, merge)
    videos = _Grids("video", video_grid_thw, merge)
    position_ids = torch.zeros(3, *input_ids.shape, dtype=torch.long)  # (3, B, S)
    rope_delta = torch.zeros(input_ids.shape[0], 1, dtype=torch.long)  # (B, 1)
    for row in range(input_ids.shape[0]):
        real = attention_mask[row].bool().cpu()  # (S,)
        tokens = input_ids[row].cpu()[real].tolist()
        blocks: list[Tensor] = []
        at = next_position = 0
        while at < len(tokens):
            if tokens[at] == image_token_id:
                height, width = images.next_frame(tokens, at, image_token_id, row)
            elif tokens[at] == video_token_id:
                height, width = videos.next_frame(tokens, at, video_token_id, row)
            else:
                end = at
                while end < len(tokens) and tokens[end] not in (image_token_id, video_token_id):
                    end += 1
                blocks.append(torch.arange(next_position, next_position + end - at).expand(3, -1))
                next_position += end - at
                at = end
                continue
            blocks.append(next_position + frame_positions(height, width))
            next_position += max(height, width)
            at += height * width
        position_ids[:, row, real] = torch.cat(blocks, dim=1) if blocks else torch.zeros(3, 0, dtype=torch.long)
        rope_delta[row] = next_position - len(tokens)
    images.check_used_up()
    videos.check_used_up()
    return position_ids.to(input_ids.device), rope_delta.to(input_ids.device)


def frame_positions(height: int, width: int) -> Tensor:
    """(3, height * width) offsets of one frame's tokens: time 0, row, column, in raster order."""
    rows = torch.arange(height).view(-1, 1).expand(height, width).reshape(-1)
    cols = torch.arange(width).view(1, -1).expand(height, width).reshape(-1)
    return torch.stack([torch.zeros_like(rows), rows, cols])


class _Grids:
    """Gives the merged (height, width) of one frame after the other, and checks them against the tokens."""

    def __init__(self, kind: str, grid_thw: Tensor | None, merge: int) -> None:
        self.kind = kind
        self.frames: Iterator[tuple[int, int, int]] = iter(())
        self.pictures = 0 if grid_thw is None else len(grid_thw)
        if grid_thw is not None:
            self.frames = iter(
                [
                    (picture, h // merge, w // merge)
                    for picture, (t, h, w) in enumerate(grid_thw.tolist())
                    for _ in range(t)
                ]
            )

    def next_frame(self, tokens: list[int], at: int, token_id: int, row: int) -> tuple[int, int]:
        try:
            picture, height, width = next(self.frames)
        except StopIteration:
            raise InputError(
                f"row {row} has {self.kind} tokens at position {at} (padding not counted), but all "
                f"{self.pictures} grids of {self.kind}_grid_thw are used up; give one grid for each {self.kind}"
            ) from None
        wanted = height * width
        found = 0
        while at + found < len(tokens) and tokens[at + found] == token_id and found < wanted:
            found += 1
        if found < wanted:
            raise InputError(
                f"row {row} has {found} {self.kind} tokens at position {at} (padding not counted), "
                f"but {self.kind}_grid_thw[{picture}] needs {wanted} ({height} x {width} after merging)"
            )
        return height, width

    def check_used_up(self) -> None:
        left = list(self.frames)
        if left:
            raise InputError(
                f"{self.kind}_grid_thw[{left[0][0]}] has no tokens in any row: {self.pictures} grids, "
                f"{len(left)} frames left over; remove the grid or add its {self.kind} tokens"
            )


def inverse_frequencies(dim: int, theta: float, dtype: torch.dtype) -> Tensor:
    """(dim / 2,) angular speed of each pair of channels: theta ** (-2 i / dim)."""
    return 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=dtype) / dim))


def frequency_axes(mrope_section: tuple[int, int, int]) -> Tensor:
    """(D/2,) int64: the axis that turns each frequency, interleaved t, h, w, t, h, w, ..., then t.

    Height takes places 1, 4, 7, ... and width 2, 5, 8, ..., as many as its section says; time has the rest.
    Source: ``apply_interleaved_mrope``.
    """
    axes = torch.zeros(sum(mrope_section), dtype=torch.long)
    for axis in (1, 2):
        axes[axis : 3 * mrope_section[axis] : 3] = axis
    return axes


def mrope_cos_sin(position_ids: Tensor, inv_freq: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (B, S, D) of positions (3, B, S), in the dtype of ``inv_freq`` (D/2,)."""
    turning = position_ids[axes].movedim(0, -1).to(inv_freq.dtype)  # (D/2, B, S) -> (B, S, D/2)
    angles = turning * inv_freq  # (B, S, D/2)
    angles = torch.cat([angles, angles], dim=-1)  # (B, S, D)
    return angles.cos(), angles.sin()
