"""Questions about pictures and videos, and the interface of engines that answer them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

_BATCH = 16


@dataclass(frozen=True)
class Question:
    """One user turn: pictures and videos, then the text."""

    prompt: str
    images: Sequence[Path] = ()
    videos: Sequence[Path] = ()

    def message(self) -> dict[str, Any]:
        """The question as a message for a processor."""
        media = [
            {"type": kind, kind: path}
            for kind, paths in (("image", self.images), ("video", self.videos))
            for path in paths
        ]
        return {"role": "user", "content": [*media, {"type": "text", "text": self.prompt}]}


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
