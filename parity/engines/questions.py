"""Questions about pictures and videos, and the interface of engines that answer them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from reference.media import PicturePath, VideoPath

Part = str | PicturePath | VideoPath
_BATCH = 16


@dataclass(frozen=True)
class Question:
    """One user turn: texts, pictures and videos in the order of ``parts``."""

    parts: Sequence[Part]

    @classmethod
    def about(cls, text: str, images: Sequence[Path] = (), videos: Sequence[Path] = ()) -> Question:
        """Make a question of pictures, videos, and then the text."""
        return cls([*map(PicturePath, images), *map(VideoPath, videos), text])

    @property
    def images(self) -> list[Path]:
        return [part.path for part in self.parts if isinstance(part, PicturePath)]

    @property
    def videos(self) -> list[Path]:
        return [part.path for part in self.parts if isinstance(part, VideoPath)]

    def content(self, medium: Callable[[str, Path], Any]) -> list[dict[str, Any]]:
        """Return the parts as messages hold them. ``medium(kind, path)`` is what stands for an image or a video."""
        return [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else medium("image" if isinstance(part, PicturePath) else "video", part.path)
            for part in self.parts
        ]

    def message(self) -> dict[str, Any]:
        """The question as a message for a processor."""
        return {"role": "user", "content": self.content(lambda kind, path: {"type": kind, kind: path})}


@dataclass(frozen=True)
class Token:
    """One generated token. ``top`` maps the likeliest token ids at its place to log-probabilities, if known."""

    token_id: int
    top: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """The greedy answer of an engine. ``prompt_tokens`` is the number of tokens in its prompt."""

    tokens: Sequence[Token]
    text: str
    prompt_tokens: int

    @classmethod
    def of_tokens(cls, token_ids: Sequence[int], text: str, prompt_tokens: int) -> Answer:
        """Make an answer without log-probabilities."""
        return cls([Token(token_id) for token_id in token_ids], text, prompt_tokens)


class AnsweringEngine(Protocol):
    """An engine that answers questions greedily."""

    @property
    def title(self) -> str:
        """Its name and version."""
        ...

    def unavailable(self) -> str | None:
        """Return why it cannot run here and what to do, or None if it can."""
        ...

    def reads_mp4(self) -> bool:
        """Return whether it can read MP4 files here. Otherwise it gets GIF files."""
        ...

    def answer(
        self, folder: Path, questions: Sequence[Question], *, max_new_tokens: int, ignore_end: bool = False
    ) -> list[Answer]:
        """Answer each question with the checkpoint in ``folder``. Raises ParityError if it fails.

        With ``ignore_end``, an end token does not end the answer.
        """
        ...


def in_batches(questions: Sequence[Question], answer: Callable[[Sequence[Question]], list[Answer]]) -> list[Answer]:
    """Return all answers, asking a few questions at a time."""
    return [found for at in range(0, len(questions), _BATCH) for found in answer(questions[at : at + _BATCH])]
