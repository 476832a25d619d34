"""One case, ready to run: the tensors that both sides get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psutil
import torch
from PIL import Image
from torch import Tensor

from parity.core.errors import ParityError
from parity.qwen3vl.media import Source, load
from parity.qwen3vl.seams import Dimensions, Expected, expected_seams
from reference.processor import ReferenceProcessor, VideoFrames

_PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>")
_MAX_ASPECT = 200  # the reference's processor takes no more


@dataclass(frozen=True)
class CaseInputs:
    """``tensors`` holds input_ids and attention_mask (B, S), pixels and grids; ``config`` is config.json.

    ``images`` are the pictures of all rows in reading order, with a title each, for the report.
    """

    name: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    images: Sequence[tuple[str, Image.Image]] = ()
    decode_steps: int = 4
    chunk: int | None = None

    @property
    def chunks(self) -> int:
        tokens = self.tensors["input_ids"].shape[1]
        return 1 if self.chunk is None else -(-tokens // self.chunk)

    @property
    def expected(self) -> list[Expected]:
        """The readings that both sides must give."""
        return expected_seams(
            Dimensions.from_config(self.config),
            decode_steps=self.decode_steps,
            images="pixel_values" in self.tensors,
            videos="pixel_values_videos" in self.tensors,
        )


def prepare_inputs(
    name: str,
    rows: Sequence[Sequence[Source]],
    *,
    processor: ReferenceProcessor,
    config: Mapping[str, Any],
    padding_side: Literal["left", "right"] = "left",
    decode_steps: int = 4,
    chunk: int | None = None,
) -> CaseInputs:
    """Decode the media and run the reference's processor.

    Raises ParityError for media that cannot be read, and for inputs on which no model can run: see ``check_fit``.
    """
    loaded = [[load(source) for source in row] for row in rows]
    for index, (row, parts) in enumerate(zip(rows, loaded, strict=True)):
        for source, part in zip(row, parts, strict=True):
            _check_part(source, part, row=index, frames=config["vision_config"]["temporal_patch_size"])
    images = [
        (f"image {len_before + 1} of row {index} ({source.title})", part)
        for index, (row, parts) in enumerate(zip(rows, loaded, strict=True))
        for len_before, (source, part) in enumerate(_pictures(row, parts))
    ]
    try:
        tensors = processor.prepare(loaded, padding_side=padding_side)
    except Exception as error:
        # Templates and processor configs are the user's files, and what they raise has no common class.
        titles = [part if isinstance(part, str) else part.title for row in rows for part in row]
        shown = ", ".join(title if len(title) <= 60 else f"{title[:57]}..." for title in titles)
        raise ParityError(
            f"the reference's processor refuses the input ({shown}): {str(error).rstrip('.')}; check the input, and "
            "the chat template and processor configs of the checkpoint"
        ) from error
    check_fit(tensors, config, decode_steps=decode_steps)
    return CaseInputs(name, tensors, config, images, decode_steps, chunk)


def _pictures(row: Sequence[Source], parts: Sequence[Any]) -> list[tuple[Any, Image.Image]]:
    pairs = zip(row, parts, strict=True)
    return [(source, part) for source, part in pairs if isinstance(part, Image.Image)]


def _check_part(source: Source, part: Any, *, row: int, frames: int) -> None:
    """Refuse, by name, what the processor would refuse without one."""
    if isinstance(part, str):
        for placeholder in _PLACEHOLDERS:
            if placeholder in part:
                raise ParityError(
                    f"the prompt of row {row} holds {placeholder}, the place of a picture's features; leave it out, "
                    "the chat template puts one in for every picture and video"
                )
        return
    title = "" if isinstance(source, str) else source.title
    if isinstance(part, VideoFrames):
        count, height, width = part.frames.shape[:3]
        if count < frames:
            raise ParityError(f"the video {title} has {count} frame(s), the model needs {frames}; use a longer one")
    else:
        width, height = part.size
    if 0 in (width, height) or max(width, height) > _MAX_ASPECT * min(width, height):
        raise ParityError(
            f"{title} is {width} x {height}, the reference's processor takes an aspect ratio of at most {_MAX_ASPECT}; "
            "crop it"
        )


def check_fit(tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, decode_steps: int) -> None:
    """Raise ParityError where ids, grids and pixels contradict each other or config.json, or would not fit in memory.

    A checkpoint's tokenizer, processor configs and config.json are separate files, and a mixture of two checkpoints'
    would reach the models as nonsense.
    """
    ids, text, vision = tensors["input_ids"], config["text_config"], config["vision_config"]
    if int(ids.max()) >= text["vocab_size"]:
        raise ParityError(
            f"the tokenizer gives token id {int(ids.max())}, config.json has a vocab_size of {text['vocab_size']}; "
            "they are not of one checkpoint"
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
            f"{start_id} of config.json and the chat template must be of one checkpoint"
        )
    patches = [int(grid[:, 1:].prod(dim=1).max()) for name, grid in tensors.items() if name.endswith("_grid_thw")]
    scores = max(
        ids.shape[0] * text["num_attention_heads"] * length**2,
        *(vision["num_heads"] * count**2 for count in patches),
        0,
    )
    # Scores and their softmax are there at once.
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
            f"features; {kind}_token_id, the tokenizer and the processor's merge_size must be of one checkpoint"
        )
    if pixels is None:
        return
    numbers = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    if pixels.shape[1] != numbers:
        raise ParityError(
            f"the processor gives {pixels.shape[1]} numbers per {kind} patch, vision_config of config.json asks for "
            f"{numbers}; patch_size and temporal_patch_size must be the same in both"
        )
    if not bool(torch.isfinite(pixels).all()):
        raise ParityError(f"the processor gives {kind} pixels with NaN or Inf; look at image_mean and image_std")
