"""The exam: the same questions about held-out pictures and clips, asked of several engines."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from parity.cases.files import write_clip, write_gif
from parity.core.errors import ParityError
from parity.core.verdict import Verdict
from parity.engines.questions import AnsweringEngine, Question
from parity.engines.registry import JUDGED
from reference.media import PicturePath, VideoFrames, VideoPath
from reference.world.drawing import draw_clip, draw_picture
from reference.world.exam import LONGEST_ANSWER, Item, by_kind
from reference.world.scenes import CLIP_FPS

MediaFile = PicturePath | VideoPath
ClipForm = Literal["mp4", "gif"]
# The share of right answers that a model must reach.
WANTED = 0.95


@dataclass(frozen=True)
class Answers:
    """The answers of one engine, one for each question.

    An answer is None if the engine could not be asked; ``why`` gives the reason. ``engine`` is its name in the
    registry, ``title`` its name and version.
    """

    engine: str
    title: str
    answers: Sequence[str | None]
    why: str = ""

    def accuracy(self, items: Sequence[Item]) -> float | None:
        """Return the share of right answers among the questions that were asked; None without any."""
        right = self.right(items)
        return sum(right) / len(right) if right else None

    def asked(self, items: Sequence[Item]) -> list[Item]:
        return [item for item, answer in zip(items, self.answers, strict=True) if answer is not None]

    def right(self, items: Sequence[Item]) -> list[bool]:
        """Return whether each given answer is right."""
        return [
            answer == item.question.answer
            for item, answer in zip(items, self.answers, strict=True)
            if answer is not None
        ]

    def by_kind(self, items: Sequence[Item]) -> dict[str, Any]:
        return by_kind(self.asked(items), self.right(items))


class Exam:
    """The questions, with their media as files. Every engine decodes them itself. Use as a context manager."""

    def __init__(self, items: Sequence[Item], clips: ClipForm = "mp4") -> None:
        self.items = items
        self._spool = tempfile.TemporaryDirectory(prefix="parity-exam-")
        self.files = write_media(items, Path(self._spool.name), clips)

    def __enter__(self) -> Exam:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.cleanup()

    def ask(self, name: str, engine: AnsweringEngine, folder: Path) -> Answers:
        """Ask all questions about pictures, then all about clips. Those that the engine refuses count as not run."""
        answers: dict[int, str] = {}
        why = ""
        for kind, what in ((PicturePath, "pictures"), (VideoPath, "clips")):
            places = [place for place, file in enumerate(self.files) if isinstance(file, kind)]
            if not places:
                continue
            questions = [_question(self.items[place], self.files[place]) for place in places]
            try:
                found = engine.answer(folder, questions, max_new_tokens=LONGEST_ANSWER)
            except ParityError as error:
                why = f"{what}: {str(error).splitlines()[-1]}"
                continue
            answers |= {place: answer.text for place, answer in zip(places, found, strict=True)}
        return Answers(name, engine.title, [answers.get(place) for place in range(len(self.files))], why)


def write_media(items: Sequence[Item], folder: Path, clips: ClipForm = "mp4") -> list[MediaFile]:
    """Write each scene as ``<number>.png``, ``.mp4`` or ``.gif``. Returns one path for each item, in order."""
    made: dict[int, MediaFile] = {}
    for item in items:
        if item.number in made:
            continue
        if item.scene.direction is None:
            path = folder / f"{item.number}.png"
            draw_picture(item.scene).save(path)
            made[item.number] = PicturePath(path)
        else:
            video = VideoFrames(draw_clip(item.scene), CLIP_FPS)
            write = write_clip if clips == "mp4" else write_gif
            made[item.number] = VideoPath(write(video, folder / f"{item.number}.{clips}"))
    return [made[item.number] for item in items]


def exam_verdict(items: Sequence[Item], found: Sequence[Answers]) -> tuple[Verdict, str]:
    """Judge the port against the reference. Returns verdict and reason. Other engines are measured, but not judged."""
    judged = {answers.engine: answers for answers in found if answers.engine in JUDGED}
    if len(judged) < len(JUDGED) or any(None in answers.answers for answers in judged.values()):
        return Verdict.INCOMPLETE, "the reference and the port were not both asked"
    reference, port = (judged[name].answers for name in JUDGED)
    differing = sum(left != right for left, right in zip(reference, port, strict=True))
    if differing:
        return Verdict.DIVERGED, f"{differing} answers of the port differ from those of the reference"
    accuracy = min(answers.accuracy(items) or 0.0 for answers in judged.values())
    if accuracy < WANTED:
        return Verdict.DIVERGED, f"only {accuracy:.1%} of the answers are right, at least {WANTED:.0%} must be"
    return Verdict.PARITY, f"the reference and the port give the same answers, {accuracy:.1%} of them right"


def _question(item: Item, file: MediaFile) -> Question:
    picture = isinstance(file, PicturePath)
    return Question.about(item.question.text, [file.path] if picture else [], [] if picture else [file.path])
