"""Questions about pictures and videos, and the answers of an engine that gives tokens but no seams."""

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
        """As processors take it."""
        media = [
            {"type": kind, kind: path}
            for kind, paths in (("image", self.images), ("video", self.videos))
            for path in paths
        ]
        return {"role": "user", "content": [*media, {"type": "text", "text": self.prompt}]}


@dataclass(frozen=True)
class Token:
    """One generated token; ``top`` maps the likeliest token ids at its place to log-probabilities, where known."""

    token_id: int
    top: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What an engine generated greedily; ``prompt_tokens`` counts the tokens of its prompt."""

    tokens: Sequence[Token]
    text: str
    prompt_tokens: int

    @classmethod
    def of_tokens(cls, token_ids: Sequence[int], text: str, prompt_tokens: int) -> Answer:
        """An answer without log-probabilities."""
        return cls([Token(token_id) for token_id in token_ids], text, prompt_tokens)


class AnsweringEngine(Protocol):
    """An engine that answers questions greedily."""

    @property
    def title(self) -> str:
        """Its name and version."""
        ...

    def unavailable(self) -> str | None:
        """Why it cannot run here, with the way out; None where it can."""
        ...

    def reads_mp4(self) -> bool:
        """Whether it can read MP4 files here; otherwise it is given GIF files."""
        ...

    def answer(
        self, folder: Path, questions: Sequence[Question], *, max_new_tokens: int, ignore_end: bool = False
    ) -> list[Answer]:
        """One answer for each question, by the checkpoint in ``folder``. Raises ParityError where it fails.

        ``ignore_end``: an end token does not end the answer.
        """
        ...


def in_batches(questions: Sequence[Question], answer: Callable[[Sequence[Question]], list[Answer]]) -> list[Answer]:
    """All answers, a few questions at a time."""
    return [found for at in range(0, len(questions), _BATCH) for found in answer(questions[at : at + _BATCH])]
