"""Checks before a run. Inputs that no processor or model could take are refused with a clear message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psutil
import torch
from torch import Tensor

from parity.cases.media import MAX_FRAME_BYTES, Source, Video
from parity.core.errors import ParityError
from reference.processor import ReferenceProcessor

_PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>")
_MAX_ASPECT = 200  # limit of the reference's processor


def check_part(source: Source, *, row: int, config: Mapping[str, Any], processor: ReferenceProcessor) -> None:
    """Refuse inputs that the processor would refuse without naming them. Raises ParityError."""
    if isinstance(source, str):
        for placeholder in _PLACEHOLDERS:
            if placeholder in source:
                raise ParityError(
                    f"the prompt of row {row} holds {placeholder}, the placeholder of a picture; leave it out, "
                    "the chat template adds one for every picture and video"
                )
        return
    if not isinstance(source, Video):
        width, height = source.load().size
    else:
        width, height = _check_video(source, config["vision_config"]["temporal_patch_size"], processor)
    if 0 in (width, height) or max(width, height) > _MAX_ASPECT * min(width, height):
        raise ParityError(
            f"{source.title} is {width} x {height}, the reference's processor takes an aspect ratio of at most "
            f"{_MAX_ASPECT}; crop it"
        )


def _check_video(source: Video, needed: int, processor: ReferenceProcessor) -> tuple[int, int]:
    """Return width and height. Refuses videos with too few frames, or with too many sampled frames for memory."""
    header = source.probe()
    if header.frames < needed:
        raise ParityError(
            f"the video {source.title} has {header.frames} frame(s), the model needs {needed}; use a longer one"
        )
    kept = processor.frames_kept(count=header.frames, fps=header.fps, height=header.height, width=header.width)
    size = 3 * kept * header.width * header.height
    if size > MAX_FRAME_BYTES:
        raise ParityError(
            f"the {kept} frames sampled from {source.title} take {size / 2**30:.1f} GiB, at most "
            f"{MAX_FRAME_BYTES / 2**30:g} GiB are allowed; cut it or scale it down"
        )
    return header.width, header.height


def check_fit(tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, decode_steps: int) -> None:
    """Raise ParityError if ids, grids and pixels contradict each other or config.json, or do not fit in memory.

    A checkpoint's tokenizer, processor configs and config.json are separate files. If they come from different
    checkpoints, the models' inputs would be meaningless.
    """
    ids, text, vision = tensors["input_ids"], config["text_config"], config["vision_config"]
    if int(ids.max()) >= text["vocab_size"]:
        raise ParityError(
            f"the tokenizer gives token id {int(ids.max())}, config.json has a vocab_size of {text['vocab_size']}; "
            "they are from different checkpoints"
        )
    length, longest = ids.shape[1] + decode_steps, text.get("max_position_embeddings")
    if longest is not None and length > longest:
        raise ParityError(
            f"the longest prompt and its decode steps are {length} tokens, max_position_embeddings of config.json is "
            f"{longest}; shorten the prompt, or use fewer or smaller pictures"
        )
    for kind, suffix in (("image", ""), ("video", "_videos")):
        _check_pictures(kind, ids, tensors.get(f"pixel_values{suffix}"), tensors.get(f"{kind}_grid_thw"), config)
    pictures = sum(len(grid) for name, grid in tensors.items() if name.endswith("_grid_thw"))
    starts, start_id = int((ids == config["vision_start_token_id"]).sum()), config["vision_start_token_id"]
    if starts < pictures:
        raise ParityError(
            f"the prompts hold {starts} vision start tokens for {pictures} pictures and videos; vision_start_token_id "
            f"{start_id} of config.json and the chat template must be from the same checkpoint"
        )
    patches = [int(grid[:, 1:].prod(dim=1).max()) for name, grid in tensors.items() if name.endswith("_grid_thw")]
    scores = max(
        ids.shape[0] * text["num_attention_heads"] * length**2,
        *(vision["num_heads"] * count**2 for count in patches),
        0,
    )
    # Scores and their softmax are in memory at the same time.
    needed, free = 2 * 8 * scores, psutil.virtual_memory().available
    if needed > free:
        raise ParityError(
            f"the reference's attention over {length} tokens and {max(patches, default=0)} patches needs at least "
            f"{needed / 2**30:.1f} GiB in float64, {free / 2**30:.1f} GiB are free; use a shorter prompt, fewer rows "
            "or smaller pictures"
        )


def _check_pictures(
    kind: str, ids: Tensor, pixels: Tensor | None, grids: Tensor | None, config: Mapping[str, Any]
) -> None:
    vision, token_id = config["vision_config"], config[f"{kind}_token_id"]
    tokens, merge = int((ids == token_id).sum()), vision["spatial_merge_size"]
    features = 0 if grids is None else int(grids.prod(dim=1).sum()) // merge**2
    if tokens != features:
        raise ParityError(
            f"the prompts hold {tokens} {kind} tokens (id {token_id} in config.json), the grids make {features} "
            f"features; {kind}_token_id, the tokenizer and the processor's merge_size must be from the same checkpoint"
        )
    if pixels is None:
        return
    numbers = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    if pixels.shape[1] != numbers:
        raise ParityError(
            f"the processor gives {pixels.shape[1]} numbers per {kind} patch, vision_config of config.json needs "
            f"{numbers}; patch_size and temporal_patch_size must be the same in both"
        )
    if not bool(torch.isfinite(pixels).all()):
        raise ParityError(f"the processor gives {kind} pixels with NaN or Inf; check image_mean and image_std")
