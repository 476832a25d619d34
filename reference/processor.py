"""One interface to Hugging Face's processor, which turns conversations with media into model inputs.

Shape legend
    B, S        batch, tokens
    N           patches of all pictures (or of all videos)
    F, H, W     frames, height, width in pixels, as decoded
    h, w        height, width after the resize
    C, T, P     channels, temporal_patch_size, patch_size
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor
from transformers.image_utils import load_image
from transformers.video_utils import VideoMetadata, load_video

from reference.errors import ReferenceModelError
from reference.media import ONE_TURN, PicturePath, Prompting, VideoFrames, VideoPath, conversation
from reference.recording import recording

Sink = Callable[[str, Tensor], object]


_FRAMES_PER_SECOND = 24.0  # what transformers assumes for frames without a rate
Part = str | Image.Image | VideoFrames | PicturePath | VideoPath


@dataclass(frozen=True)
class _Sampled:
    """A sampled video: frames (F, H, W, 3) uint8, and the metadata with ``frames_indices`` set."""

    frames: np.ndarray
    metadata: VideoMetadata


class ReferenceProcessor:
    """A loaded processor: tokenizer, picture and video processor, chat template."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        _average_over_temporal_patches(processor)

    @classmethod
    def load(cls, source: str | Path) -> ReferenceProcessor:
        """Load from a local folder or a hub id. Raises ReferenceModelError if that fails."""
        try:
            return cls(AutoProcessor.from_pretrained(source, trust_remote_code=False))
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise ReferenceModelError(f"the processor of {source} cannot be loaded: {error}") from error

    def prepare(
        self,
        rows: Sequence[Sequence[Part]],
        *,
        padding_side: Literal["left", "right"],
        sink: Sink | None = None,
        prompting: Prompting = ONE_TURN,
        grids_only: bool = False,
    ) -> dict[str, Tensor]:
        """Turn rows into one padded batch. Each row holds texts, pictures and videos in order, and whole turns.

        Returns input_ids and attention_mask (B, S). With pictures also pixel_values (N, C*T*P*P) and image_grid_thw
        (pictures, 3); with videos also pixel_values_videos and video_grid_thw.

        ``sink`` gets every value under its seam's name, ``processor.*``: media as decoded, resized and cut into
        patches, sampled frames and timestamps, and the returned tensors. With ``grids_only`` it gets ids, mask and
        grids, without the values of single pictures and videos.
        """
        images = [_picture(part) for row in rows for part in row if isinstance(part, Image.Image | PicturePath)]
        videos = [self._sampled(part) for row in rows for part in row if isinstance(part, VideoFrames | VideoPath)]
        texts = [
            self.processor.apply_chat_template(conversation(row, _content), tokenize=False, **prompting.arguments())
            for row in rows
        ]
        extra: dict[str, Any] = {}
        if images:
            extra["images"] = images
        if videos:
            extra |= _video_arguments(videos)
        timestamps: list[list[float]] = []
        with recording(self.processor, "_calculate_timestamps", timestamps.append):
            batch = self.processor(text=texts, padding=True, padding_side=padding_side, return_tensors="pt", **extra)
        names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw", "pixel_values_videos")
        tensors = {name: batch[name] for name in (*names, "video_grid_thw") if name in batch}
        if sink is not None:
            if not grids_only:
                self._send_pictures(images, sink)
                self._send_videos(videos, timestamps, sink)
            for name, tensor in tensors.items():
                if not name.startswith("pixel_values"):
                    sink(f"processor.{name}", tensor)
        return tensors

    def frames_kept(self, *, count: int, fps: float, height: int, width: int) -> int:
        """Return how many frames are sampled from a video of ``count`` frames."""
        return len(self._indices(VideoMetadata(count, fps=fps, width=width, height=height, duration=count / fps)))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, with special tokens."""
        text: str = self.processor.tokenizer.decode(list(token_ids))
        return text

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids as it is shown to a user, without special tokens."""
        text: str = self.processor.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def _sampled(self, part: VideoFrames | VideoPath) -> _Sampled:
        """Sample frames as the reference does, by ``fps`` or ``num_frames`` of the video processor."""
        if isinstance(part, VideoPath) and part.path.is_dir():
            part = _frames_of(part.path, part.fps or _FRAMES_PER_SECOND)
        if isinstance(part, VideoPath):
            frames, metadata = load_video(str(part.path), backend="pyav", sample_indices_fn=self._indices)
            return _Sampled(np.asarray(frames), metadata)
        metadata = _metadata(part)
        metadata.frames_indices = self._indices(metadata)
        return _Sampled(part.frames[metadata.frames_indices], metadata)

    def _indices(self, metadata: VideoMetadata, **_: Any) -> np.ndarray:
        own = self.processor.video_processor
        rule = {"fps": own.fps} if own.num_frames is None else {"num_frames": own.num_frames}
        indices: np.ndarray = own.sample_frames(metadata, **rule)
        return indices

    def _send_pictures(self, images: Sequence[Image.Image], sink: Sink) -> None:
        """Send the seams of each picture. They run one by one; a batch would resize those of one size together."""
        own = self.processor.image_processor
        for index, image in enumerate(images):
            name, resized = f"processor.images.{index}", list[Tensor]()
            with recording(own, "resize", resized.append):
                patches = own(images=[image], return_tensors="pt")["pixel_values"]
            sink(f"{name}.decoded", torch.from_numpy(np.array(image)))  # (H, W, 3)
            sink(f"{name}.resized", resized[0].permute(0, 2, 3, 1))  # (1, C, h, w) -> (1, h, w, C)
            sink(f"{name}.patches", patches)

    def _send_videos(self, videos: Sequence[_Sampled], timestamps: Sequence[Sequence[float]], sink: Sink) -> None:
        own = self.processor.video_processor
        for index, video in enumerate(videos):
            name, resized = f"processor.videos.{index}", list[Tensor]()
            with recording(own, "resize", resized.append):
                patches = own(**_video_arguments([video]), return_tensors="pt")["pixel_values_videos"]
            kept = len(video.frames)  # computing the timestamps pads the list of frames in place
            sink(f"{name}.frame_indices", torch.tensor([int(i) for i in video.metadata.frames_indices][:kept]))
            sink(f"{name}.timestamps", torch.tensor(timestamps[index], dtype=torch.float64))
            sink(f"{name}.decoded", torch.from_numpy(np.array(video.frames)))  # (F, H, W, 3)
            frames = resized[0] if resized[0].ndim == 4 else resized[0][0]
            sink(f"{name}.resized", frames.permute(0, 2, 3, 1))  # (F, C, h, w) -> (F, h, w, C)
            sink(f"{name}.patches", patches)


def _picture(part: Image.Image | PicturePath) -> Image.Image:
    return part if isinstance(part, Image.Image) else load_image(str(part.path))


def _frames_of(folder: Path, fps: float) -> VideoFrames:
    """Return the pictures of a folder as a video, frame 2 before frame 10."""

    def key(path: Path) -> list[str | int]:
        return [int(part) if part.isdecimal() else part for part in re.split("([0-9]+)", path.name)]

    files = sorted((path for path in folder.iterdir() if path.is_file() and path.name[0] != "."), key=key)
    return VideoFrames(np.stack([np.asarray(load_image(str(path))) for path in files]), fps)


def _content(part: Part) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image"} if isinstance(part, Image.Image | PicturePath) else {"type": "video"}


def _metadata(video: VideoFrames) -> VideoMetadata:
    count, height, width = video.frames.shape[:3]
    return VideoMetadata(total_num_frames=count, fps=video.fps, width=width, height=height, duration=count / video.fps)


def _video_arguments(videos: Sequence[_Sampled]) -> dict[str, Any]:
    """Return the processor's arguments for videos whose frames are already sampled."""
    return {
        "videos": [video.frames for video in videos],
        "video_metadata": [video.metadata for video in videos],
        "do_sample_frames": False,
    }


def _average_over_temporal_patches(processor: Any) -> None:
    """Patch the timestamps of this object. Nothing else in the reference is patched.

    transformers 4.57 averages a timestamp over ``merge_size`` frames, 5.x over ``temporal_patch_size`` frames
    (huggingface/transformers#43519). Both are 2 in every released checkpoint.
    """
    original = processor._calculate_timestamps
    frames = processor.video_processor.temporal_patch_size
    processor._calculate_timestamps = lambda indices, video_fps, *_size: original(indices, video_fps, frames)
