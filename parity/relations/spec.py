"""An example of a relation: a config, a seed for the weights, and a batch. It can be written as JSON.

Shape legend
    B, S   batch, tokens;  N   patches;  P   patch size;  T   temporal patch size
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from port import Inputs, Qwen3VL, Qwen3VLConfig

IMAGE_ID, VIDEO_ID, START_ID, END_ID, FIRST_WORD = 0, 1, 2, 3, 4


@dataclass(frozen=True)
class Picture:
    """A grid after merging: frames, rows, columns. With more than one frame it is a video."""

    t: int
    h: int
    w: int


@dataclass(frozen=True)
class Spec:
    """One example. ``rows`` are lists of words (token ids) and pictures. ``cut`` is used by relations that split."""

    seed: int
    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    tied: bool
    rows: Sequence[Sequence[int | Picture]]
    side: Literal["left", "right"] = "left"
    cut: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Read an example. Raises ValueError, KeyError or TypeError if ``to_json`` could not have written the text."""
        raw = json.loads(text)
        rows = [[Picture(**part) if isinstance(part, dict) else part for part in row] for row in raw.pop("rows")]
        return cls(**raw, rows=rows)


def build(spec: Spec) -> Qwen3VL:
    """Build the port with seeded weights in which every part influences the logits."""
    config = Qwen3VLConfig.from_dict(
        {
            "model_type": "qwen3_vl",
            "tie_word_embeddings": spec.tied,
            "image_token_id": IMAGE_ID,
            "video_token_id": VIDEO_ID,
            "vision_start_token_id": START_ID,
            "vision_end_token_id": END_ID,
            "text_config": {"hidden_act": "silu", "attention_bias": False, "rms_norm_eps": 1e-6, **spec.text},
            "vision_config": {
                "hidden_act": "gelu_pytorch_tanh",
                "out_hidden_size": spec.text["hidden_size"],
                **spec.vision,
            },
        },
        where="spec",
    )
    generator = torch.Generator().manual_seed(spec.seed)
    model = Qwen3VL(config).double().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if parameter.ndim == 1:
            parameter.copy_(0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
        else:
            parameter.copy_(noise * 1.2 / parameter.shape[-1] ** 0.5)
    return model


def batch(spec: Spec, model: Qwen3VL, rows: Sequence[Sequence[int | Picture]], *, padding: int = END_ID) -> Inputs:
    """Make one padded batch. A picture's pixels depend only on its grid."""
    merge = model.config.vision.spatial_merge_size
    ids = [[token for part in row for token in _tokens(part)] for row in rows]
    longest = max(map(len, ids))
    input_ids = torch.full((len(ids), longest), padding)
    mask = torch.zeros(len(ids), longest, dtype=torch.long)
    for index, tokens in enumerate(ids):
        place = slice(longest - len(tokens), longest) if spec.side == "left" else slice(0, len(tokens))
        input_ids[index, place] = torch.tensor(tokens)
        mask[index, place] = 1
    media: dict[str, Tensor] = {}
    kinds = [(False, "pixel_values", "image_grid_thw"), (True, "pixel_values_videos", "video_grid_thw")]
    for moving, pixels, grids in kinds:
        pictures = [part for row in rows for part in row if isinstance(part, Picture) and (part.t > 1) is moving]
        if pictures:
            media[grids] = torch.tensor([[p.t, p.h * merge, p.w * merge] for p in pictures])
            media[pixels] = torch.cat([pixels_of(picture, model) for picture in pictures])
    return Inputs(input_ids, mask, **media)


def _tokens(part: int | Picture) -> list[int]:
    if not isinstance(part, Picture):
        return [part]
    token = VIDEO_ID if part.t > 1 else IMAGE_ID
    return [token_id for _ in range(part.t) for token_id in (START_ID, *[token] * (part.h * part.w), END_ID)]


def pixels_of(picture: Picture, model: Qwen3VL) -> Tensor:
    """Return pixels (N, channels*T*P*P) in [-1, 1]. The same grid gives the same pixels."""
    vision = model.config.vision
    count = picture.t * picture.h * picture.w * vision.spatial_merge_size**2
    generator = torch.Generator().manual_seed(picture.t * 10007 + picture.h * 101 + picture.w)
    return torch.rand(count, vision.patch_dim, generator=generator, dtype=torch.float64) * 2 - 1
