"""Whether a model sees: the same questions about held-out pictures and clips, asked of several engines."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from parity.core.errors import ParityError
from parity.qwen3vl import mistralrs
from parity.qwen3vl.files import write_clip, write_gif
from port import GenerationConfig, Processor, Qwen3VL, generate_all
from reference.model import ReferenceModel
from reference.processor import PicturePath, ReferenceProcessor, VideoFrames, VideoPath
from reference.training.evaluate import LONGEST_ANSWER
from reference.world.drawing import draw_clip, draw_picture
from reference.world.exam import Item, by_kind
from reference.world.scenes import CLIP_FPS

File = PicturePath | VideoPath
ClipForm = Literal["mp4", "gif"]
_BATCH = 16


@dataclass(frozen=True)
class Answers:
    """One engine's answers, one for each question; None where it could not be asked, ``why`` says why."""

    engine: str
    answers: Sequence[str | None]
    why: str = ""

    def summary(self, items: Sequence[Item]) -> dict[str, Any]:
        """Accuracy over what was asked, how many were not, and both by kind."""
        asked = [(item, answer) for item, answer in zip(items, self.answers, strict=True) if answer is not None]
        right = [answer == item.question.answer for item, answer in asked]
        return {
            "engine": self.engine,
            "asked": len(asked),
            "not_run": len(items) - len(asked),
            "why_not_run": self.why,
            "right": sum(right),
            "accuracy": sum(right) / len(right) if right else None,
            "by_kind": by_kind([item for item, _ in asked], right),
        }


class Exam:
    """The questions with their media as files, which every engine decodes itself. Use as a context manager."""

    def __init__(self, items: Sequence[Item], clips: ClipForm = "mp4") -> None:
        self.items = items
        self._spool = tempfile.TemporaryDirectory(prefix="parity-sight-")
        self.files = write_media(items, Path(self._spool.name), clips)

    def __enter__(self) -> Exam:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.cleanup()


def write_media(items: Sequence[Item], folder: Path, clips: ClipForm = "mp4") -> list[File]:
    """Each scene as ``<number>.png``, ``.mp4`` or ``.gif``; one path for each item, in order."""
    made: dict[int, File] = {}
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


def ask_reference(exam: Exam, model: ReferenceModel, processor: ReferenceProcessor, ends: Sequence[int]) -> Answers:
    """transformers: its processor, its ``generate``."""
    tokenizer = processor.processor.tokenizer

    def batch(items: Sequence[Item], files: Sequence[File]) -> list[str]:
        rows = [[file, item.question.text] for item, file in zip(items, files, strict=True)]
        inputs = processor.prepare(rows, padding_side="left")
        tokens = model.generate(inputs, max_new_tokens=LONGEST_ANSWER, eos_token_ids=ends)
        return [tokenizer.decode(row, skip_special_tokens=True) for row in tokens]

    return Answers(f"transformers {model.version}", _in_batches(exam, batch))


def ask_port(exam: Exam, model: Qwen3VL, processor: Processor, config: GenerationConfig) -> Answers:
    """The port: its processor, its generation."""

    def batch(items: Sequence[Item], files: Sequence[File]) -> list[str]:
        inputs = processor([conversation(item, file) for item, file in zip(items, files, strict=True)])
        tokens = generate_all(model, inputs, config, max_new_tokens=LONGEST_ANSWER)
        return [processor.decode(row) for row in tokens]

    return Answers("port", _in_batches(exam, batch))


def ask_mistralrs(exam: Exam, folder: Path) -> Answers:
    """mistral.rs: pictures and clips; what it refuses counts as not run."""
    answers: dict[int, str] = {}
    why = ""
    version = "not installed"
    for kind in (PicturePath, VideoPath):
        places = [place for place, file in enumerate(exam.files) if isinstance(file, kind)]
        requests = [_request(exam.items[place], exam.files[place]) for place in places]
        if not requests:
            continue
        try:
            found = mistralrs.generate_all(folder, requests, steps=LONGEST_ANSWER)
        except ParityError as error:
            what = "pictures" if kind is PicturePath else "clips"
            why = f"{what}: {str(error).splitlines()[-1]}"
            continue
        version = found[0].version
        answers |= {place: answer.text for place, answer in zip(places, found, strict=True)}
    return Answers(f"mistral.rs {version}", [answers.get(place) for place in range(len(exam.files))], why)


def conversation(item: Item, file: File) -> list[dict[str, Any]]:
    """One question with its medium, as the port's processor takes it."""
    kind = "image" if isinstance(file, PicturePath) else "video"
    return [
        {"role": "user", "content": [{"type": kind, kind: file.path}, {"type": "text", "text": item.question.text}]}
    ]


def _request(item: Item, file: File) -> mistralrs.Request:
    picture = isinstance(file, PicturePath)
    return mistralrs.Request(item.question.text, [file.path] if picture else [], [] if picture else [file.path])


def _in_batches(exam: Exam, batch: Callable[[Sequence[Item], Sequence[File]], list[str]]) -> list[str]:
    answers: list[str] = []
    for start in range(0, len(exam.items), _BATCH):
        part = slice(start, start + _BATCH)
        answers += batch(exam.items[part], exam.files[part])
    return answers
