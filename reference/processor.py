"""Hugging Face's processor behind one door: conversations with pictures and videos to model inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor
from transformers.video_utils import VideoMetadata

from reference.errors import ReferenceModelError


@dataclass(frozen=True)
class VideoFrames:
    """A decoded video: frames (F, H, W, 3) uint8 and how fast they were shown."""

    frames: np.ndarray
    fps: float


Part = str | Image.Image | VideoFrames


class ReferenceProcessor:
    """One loaded processor (tokenizer, picture and video processor, chat template)."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    @classmethod
    def load(cls, source: str | Path) -> ReferenceProcessor:
        """From a local folder or a hub id. Raises ReferenceModelError naming what does not load."""
        try:
            return cls(AutoProcessor.from_pretrained(source, trust_remote_code=False))
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise ReferenceModelError(f"the processor of {source} cannot be loaded: {error}") from error

    def prepare(self, rows: Sequence[Sequence[Part]], *, padding_side: Literal["left", "right"]) -> dict[str, Tensor]:
        """One user turn per row, each a list of text, pictures and videos in order, to one padded batch.

        Returns input_ids and attention_mask (B, S), and where there are any: pixel_values (N, channels*T*P*P),
        image_grid_thw (pictures, 3), pixel_values_videos and video_grid_thw.
        """
        images = [part for row in rows for part in row if isinstance(part, Image.Image)]
        videos = [part for row in rows for part in row if isinstance(part, VideoFrames)]
        texts = [
            self.processor.apply_chat_template(
                [{"role": "user", "content": [_content(part) for part in row]}],
                tokenize=False,
                add_generation_prompt=True,
            )
            for row in rows
        ]
        extra: dict[str, Any] = {}
        if images:
            extra["images"] = images
        if videos:
            extra["videos"] = [video.frames for video in videos]
            extra["video_metadata"] = [_metadata(video) for video in videos]
        batch = self.processor(text=texts, padding=True, padding_side=padding_side, return_tensors="pt", **extra)
        names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw", "pixel_values_videos")
        return {name: batch[name] for name in (*names, "video_grid_thw") if name in batch}

    def decode(self, token_ids: Sequence[int]) -> str:
        """Token ids to text, special tokens shown."""
        return self.processor.tokenizer.decode(list(token_ids))


def _content(part: Part) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image"} if isinstance(part, Image.Image) else {"type": "video"}


def _metadata(video: VideoFrames) -> VideoMetadata:
    count, height, width = video.frames.shape[:3]
    return VideoMetadata(
        total_num_frames=count,
        fps=video.fps,
        width=width,
        height=height,
        duration=count / video.fps,
        frames_indices=list(range(count)),
    )
