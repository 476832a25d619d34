"""The processor: turns conversations with pictures and videos into the model's inputs.

Shape legend
    B, S    rows, tokens of the longest row
    N       patches of all pictures (or of all videos) of all rows
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from port.errors import InputError
from port.limits import DEFAULT_LIMITS, Limits
from port.model import Inputs
from port.picture import load_picture
from port.pixel_config import PictureConfig, VideoConfig
from port.pixels import Patches, process_picture, process_video
from port.prompt import Medium, VideoStyle, VideoText, check_text, media_of, prompt_ids
from port.tap import Tap
from port.template import ChatTemplate
from port.tokenizer import Tokenizer, TokenStream
from port.video import Frames, load_video, timestamps

Conversation = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Prepared:
    """The model's inputs, the prompts as the template rendered them, and the number of tokens of each row."""

    inputs: Inputs
    texts: tuple[str, ...]
    tokens: tuple[int, ...]


class Processor:
    """Tokenizer, chat template and pixel configs of one checkpoint. Equal to the reference's processor, bit for bit.

    A conversation has Hugging Face's format: ``[{"role": "user", "content": [{"type": "image", "image": "a.jpg"},
    {"type": "text", "text": "..."}]}]``, where content is a text or a list of parts. An image is anything that
    ``load_picture`` takes, a video anything that ``load_video`` takes. A video that is given as pictures or an array
    may have its frame rate under ``fps``.

    ``video_style``: see ``port.prompt.VideoStyle``. With ``allow_turns``, texts may hold the names of the tokens that
    start and end turns, and they become those tokens, as in the reference. Vision tokens in texts are always refused.

    Taps: ``processor.images.{i}.decoded``, ``.resized``, ``.patches``; ``processor.videos.{i}.frame_indices``,
    ``.timestamps``, ``.decoded``, ``.resized``, ``.patches``, with i counting over the batch in reading order; and
    ``processor.input_ids``, ``.attention_mask``, ``.image_grid_thw``, ``.video_grid_thw``.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        picture: PictureConfig,
        video: VideoConfig,
        *,
        video_style: VideoStyle = "inside",
        allow_turns: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.tokenizer, self.template, self.picture, self.video = tokenizer, template, picture, video
        self.video_style, self.allow_turns, self.limits = video_style, allow_turns, limits

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        video_style: VideoStyle = "inside",
        allow_turns: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Processor:
        """Load a checkpoint folder. Raises ConfigError with the file and the field that is missing or wrong."""
        return cls(
            Tokenizer.from_folder(folder),
            ChatTemplate.from_folder(folder, limits),
            PictureConfig.from_folder(folder),
            VideoConfig.from_folder(folder),
            video_style=video_style,
            allow_turns=allow_turns,
            limits=limits,
        )

    def __call__(
        self,
        conversations: Sequence[Conversation],
        *,
        padding_side: Literal["left", "right"] = "left",
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Inputs:
        """One row for each conversation. Raises InputError with the row, turn and part that cannot be processed.

        ``tools``: JSON schemas of functions that the model may call, the same for every row. ``variables``: further
        variables of the chat template, such as ``{"add_vision_id": True}``.
        """
        return self.prepare(
            conversations,
            padding_side=padding_side,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            variables=variables,
        ).inputs

    def prepare(
        self,
        conversations: Sequence[Conversation],
        *,
        padding_side: Literal["left", "right"] = "left",
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """As ``__call__``, but also returns the rendered prompts and the number of tokens of each row."""
        if isinstance(conversations, str | bytes | Mapping) or not isinstance(conversations, Sequence):
            raise InputError(f"conversations is a {type(conversations).__name__}; pass a list of conversations")
        if not conversations:
            raise InputError("there are no conversations; a batch needs at least one")
        if padding_side not in ("left", "right"):
            raise InputError(f"padding_side is {padding_side!r}; use 'left' or 'right'")
        check_text(tools, "tools", allow_turns=self.allow_turns)
        check_text(variables, "variables", allow_turns=self.allow_turns)
        pictures, videos = _Pass("image"), _Pass("video")
        texts: list[str] = []
        rows: list[list[int]] = []
        for row, conversation in enumerate(conversations):
            media = media_of(conversation, row, allow_turns=self.allow_turns)
            with _naming(f"row {row}"):
                text = self.template.render(
                    conversation, add_generation_prompt=add_generation_prompt, tools=tools, variables=variables
                )
            images = [self._picture(medium, pictures) for medium in media if medium.kind == "image"]
            clips = [self._video(medium, videos) for medium in media if medium.kind == "video"]
            ids = prompt_ids(
                text,
                self.tokenizer,
                images=images,
                videos=clips,
                style=self.video_style,
                row=row,
                limits=self.limits,
            )
            if not ids:
                raise InputError(f"row {row} has no tokens: its text is empty and the chat template adds none")
            texts.append(text)
            rows.append(ids)
        ids_tensor, mask = self.tokenizer.pad(rows, padding_side)
        tap = Tap("processor.")
        image_pixels, image_grids = pictures.joined(tap)
        video_pixels, video_grids = videos.joined(tap)
        inputs = Inputs(
            tap("input_ids", ids_tensor),
            tap("attention_mask", mask),
            image_pixels,
            image_grids,
            video_pixels,
            video_grids,
        )
        return Prepared(inputs, tuple(texts), tuple(map(len, rows)))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids."""
        return self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def stream(self, *, skip_special_tokens: bool = True) -> TokenStream:
        """A decoder for token ids that come one at a time. It never gives half a character."""
        return self.tokenizer.stream(skip_special_tokens=skip_special_tokens)

    def _picture(self, medium: Medium, done: _Pass) -> int:
        """Process a picture. Returns its number of features."""
        tap = done.tap()
        with _naming(medium.where):
            pixels = load_picture(medium.part["image"], self.limits)
            pixels = tap("decoded", _tensor(pixels)).numpy()
            return done.add(process_picture(pixels, self.picture, tap), self.picture.merge_size)

    def _video(self, medium: Medium, done: _Pass) -> VideoText:
        """Process a video. Returns what the prompt needs to know about it."""
        tap = done.tap()
        with _naming(medium.where):
            video: Frames = load_video(medium.part["video"], self.video, fps=medium.part.get("fps"), limits=self.limits)
            indices = tap("frame_indices", torch.tensor(video.indices)).tolist()
            seconds = timestamps(indices, video.fps, self.video.temporal_patch_size)
            seconds = tuple(tap("timestamps", torch.tensor(seconds, dtype=torch.float64)).tolist())
            frames = tap("decoded", _tensor(video.frames)).numpy()
            features = done.add(process_video(frames, self.video, tap), self.video.merge_size)
        return VideoText(seconds, features // len(seconds))


class _Pass:
    """All pictures, or all videos, of a batch in reading order."""

    def __init__(self, kind: Literal["image", "video"]) -> None:
        self.kind = kind
        self.patches: list[Patches] = []

    def tap(self) -> Tap:
        return Tap(f"processor.{self.kind}s.{len(self.patches)}.")

    def add(self, patches: Patches, merge: int) -> int:
        self.patches.append(patches)
        t, h, w = patches.grid_thw
        return t * h * w // merge**2

    def joined(self, tap: Tap) -> tuple[Tensor | None, Tensor | None]:
        """pixel_values (N, C*T*P*P) and grids (pictures, 3), or None and None if there are no pictures."""
        if not self.patches:
            return None, None
        values = [patches.pixel_values for patches in self.patches]
        pixels = values[0] if len(values) == 1 else torch.cat(values)
        return pixels, tap(f"{self.kind}_grid_thw", torch.tensor([patches.grid_thw for patches in self.patches]))


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Put ``where`` in front of the errors raised inside the block."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _tensor(pixels: Any) -> Tensor:
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
