"""Media and conversations in the form that the reference's processor takes. Needs neither torch nor transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

PartT = TypeVar("PartT")
PictureForm = Literal["path", "text", "bytes", "pillow", "array", "grey array"]
VideoForm = Literal["path", "text", "pictures", "array"]


@dataclass(frozen=True)
class VideoFrames:
    """A decoded video: frames (F, H, W, 3) uint8 and frames per second."""

    frames: np.ndarray
    fps: float


@dataclass(frozen=True)
class PicturePath:
    """A picture file that the reference decodes itself. It applies the EXIF orientation and converts to RGB.

    ``given``: in which form a port gets it.
    """

    path: Path
    given: PictureForm = "path"


@dataclass(frozen=True)
class VideoPath:
    """A video file that the reference decodes itself with PyAV. Only the sampled frames are decoded.

    The path may also be a folder of pictures, the frames of a video. Its frame rate is ``fps``, if there is one.
    ``given``: in which form a port gets it.
    """

    path: Path
    given: VideoForm = "path"
    fps: float | None = None


class Turn(str):
    """A whole turn of a conversation: a text, its role, and further fields of the message as JSON.

    Parts of a row that are no turns belong to turns of the user.
    """

    role: str
    extra: str

    def __new__(cls, role: str, text: str = "", extra: str = "{}") -> Turn:
        turn = super().__new__(cls, text)
        turn.role, turn.extra = role, extra
        return turn

    def __repr__(self) -> str:
        return f"Turn({self.role!r}, {str(self)!r}, {self.extra!r})"


@dataclass(frozen=True)
class Prompting:
    """How conversations become prompts.

    ``tools`` are JSON schemas of functions, ``variables`` are further variables of the chat template. With
    ``turn_tokens``, texts may hold the names of the tokens that start and end turns.
    """

    generation_prompt: bool = True
    tools: tuple[str, ...] = ()
    variables: tuple[tuple[str, Any], ...] = ()
    turn_tokens: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of Hugging Face's ``apply_chat_template``."""
        tools = {"tools": [json.loads(tool) for tool in self.tools]} if self.tools else {}
        return {"add_generation_prompt": self.generation_prompt, **tools, **dict(self.variables)}


ONE_TURN = Prompting()
"""A prompt for an answer, without tools and variables."""


def conversation(row: Iterable[PartT], content: Callable[[PartT], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the turns of a row. ``content`` gives a part of a user's turn as Hugging Face's processors take it."""
    turns: list[dict[str, Any]] = []
    open_turn = False  # whether the last turn is one of the user that takes further parts
    for part in row:
        if isinstance(part, Turn):
            extra = json.loads(part.extra)
            turns.append({"role": part.role, **({} if extra and not part else {"content": str(part)}), **extra})
        elif open_turn:
            turns[-1]["content"].append(content(part))
        else:
            turns.append({"role": "user", "content": [content(part)]})
        open_turn = not isinstance(part, Turn)
    return turns
