"""The kinds of rows: text, image, video, boundary (vision start and end), padding.

Shape legend
    B, S, T   batch, prompt tokens, all tokens so far
    N, F      patches, merged patches of a tower pass
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import numpy as np

from parity.core.trace import PADDING, SeamKey
from parity.seams.spec import label_key


class TokenKind(IntEnum):
    """The codes of the row labels. The code of padding is in ``parity.core.trace``."""

    TEXT = 0
    IMAGE = 1
    VIDEO = 2
    BOUNDARY = 3


KINDS = {kind.value: kind.name.lower() for kind in TokenKind}


def row_labels(
    inputs: Mapping[str, np.ndarray], config: Mapping[str, Any], *, decode_steps: int
) -> dict[SeamKey, np.ndarray]:
    """Return uint8 labels of all rows of a run, one array per kind of rows and call.

    ``inputs`` holds input_ids and attention_mask (B, S) and the grids; ``config`` is the parsed config.json.
    """
    prompt = _prompt_kinds(inputs["input_ids"], inputs["attention_mask"], config)  # (B, S)
    labels: dict[SeamKey, np.ndarray] = {}
    generated = np.full((prompt.shape[0], 1), TokenKind.TEXT, dtype=np.uint8)
    keys = prompt
    for step in range(decode_steps + 1):
        keys = keys if step == 0 else np.concatenate([keys, generated], axis=1)  # (B, T)
        labels[label_key("tokens", step)] = prompt if step == 0 else generated
        labels[label_key("keys", step)] = keys
    merge = config["vision_config"]["spatial_merge_size"]
    passes = [
        ("images", inputs.get("image_grid_thw"), TokenKind.IMAGE),
        ("videos", inputs.get("video_grid_thw"), TokenKind.VIDEO),
    ]
    for name, grid, kind in passes:
        if grid is not None:
            patches = int(np.prod(grid, axis=1).sum())
            labels[label_key("patches", name)] = np.full(patches, kind, dtype=np.uint8)
            labels[label_key("merged", name)] = np.full(patches // merge**2, kind, dtype=np.uint8)
    return labels


def _prompt_kinds(ids: np.ndarray, mask: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    kinds = np.full(ids.shape, TokenKind.TEXT, dtype=np.uint8)
    kinds[ids == config["image_token_id"]] = TokenKind.IMAGE
    kinds[ids == config["video_token_id"]] = TokenKind.VIDEO
    kinds[(ids == config["vision_start_token_id"]) | (ids == config["vision_end_token_id"])] = TokenKind.BOUNDARY
    kinds[mask == 0] = PADDING
    return kinds
