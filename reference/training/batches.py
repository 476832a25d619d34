"""Training batches. Each row is a conversation with several questions about one picture or clip.

Shape legend
    B, S    rows, tokens of the longest row
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.video_utils import VideoMetadata

from reference.world.drawing import draw_clip, draw_picture, middle
from reference.world.questions import Question, questions
from reference.world.scenes import CLIP_FPS, CLIP_FRAMES, COLOURS, SHAPES, Scene, draw_scene

IGNORED = -100  # torch's ignore_index


@dataclass(frozen=True)
class Mixture:
    """The number of rows with a picture and with a clip in a batch, and the number of questions in each.

    A clip's prompt is longer than a picture's. With fewer questions about clips, the rows need little padding.
    """

    pictures: int
    clips: int
    picture_questions: int
    clip_questions: int

    def share(self, processes: int) -> Mixture:
        """Return the share of each process. Raises ValueError if the rows cannot be shared out evenly."""
        if self.pictures % processes or self.clips % processes:
            raise ValueError(f"{self.pictures} pictures and {self.clips} clips cannot be shared by {processes}")
        return replace(self, pictures=self.pictures // processes, clips=self.clips // processes)


def conversation(kind: str, asked: Sequence[Question]) -> list[dict[str, Any]]:
    """Return questions about one picture (``kind`` image) or clip (video) as turns. The first turn has the medium."""
    turns: list[dict[str, Any]] = []
    for number, question in enumerate(asked):
        text = {"type": "text", "text": question.text}
        content = [{"type": kind}, text] if number == 0 else [text]
        turns.append({"role": "user", "content": content})
        turns.append({"role": "assistant", "content": [{"type": "text", "text": question.answer}]})
    return turns


def training_batch(processor: Any, rng: np.random.Generator, mixture: Mixture) -> dict[str, Tensor]:
    """Draw a batch of scenes that are not held out. ``labels`` (B, S) are set at the answers."""
    images, videos, texts, scenes, asked = [], [], [], [], []
    for row in range(mixture.pictures + mixture.clips):
        clip = row >= mixture.pictures
        scene = draw_scene(rng, clip=clip, held_out=False)
        scenes.append(scene)
        if clip:
            videos.append(draw_clip(scene))
        else:
            images.append(draw_picture(scene))
        asked.append(questions(scene, rng, mixture.clip_questions if clip else mixture.picture_questions))
        turns = conversation("video" if clip else "image", asked[-1])
        texts.append(processor.apply_chat_template(turns, tokenize=False))
    media: dict[str, Any] = {}
    if images:
        media["images"] = images
    if videos:
        media |= {"videos": videos, "video_metadata": [clip_metadata(video) for video in videos]}
        media["do_sample_frames"] = False
    batch = processor(text=texts, padding=True, padding_side="right", return_tensors="pt", **media)
    labels = answer_labels(batch["input_ids"], processor.tokenizer)
    answer_early(labels, batch["input_ids"], asked, processor.tokenizer)
    places, said = what_is_seen(batch, scenes, processor)
    return {**batch, "labels": labels, "places": places, "said": said}


def what_is_seen(batch: Any, scenes: Sequence[Scene], processor: Any) -> tuple[Tensor, Tensor]:
    """Return which picture tokens show a thing, and four words about it: colour, shape, row, column.

    The places (K,) are indices into the merged patches of all pictures and then of all clips. The words (K, 4) are
    token ids.
    """
    words = {
        word: processor.tokenizer.encode(f" {word}")[0]
        for word in (*SHAPES, *COLOURS, "top", "bottom", "left", "right")
    }
    merge = processor.image_processor.merge_size
    grids = [grid for name in ("image_grid_thw", "video_grid_thw") if name in batch for grid in batch[name].tolist()]
    places, said, offset = [], [], 0
    for scene, (frames, height, width) in zip(scenes, grids, strict=True):
        rows, columns = height // merge, width // merge
        for frame in range(frames):
            for number, thing in enumerate(scene.things):
                # Halfway between the two frames of a temporal patch.
                moved = (2 * frame + 0.5) / (CLIP_FRAMES - 1) if scene.direction else 0.0
                x, y = middle(scene, number, moved)
                places.append(offset + (frame * rows + int(y * rows)) * columns + int(x * columns))
                where = "top" if y < 0.5 else "bottom", "left" if x < 0.5 else "right"
                said.append([words[word] for word in (thing.colour, thing.shape, *where)])
        offset += frames * rows * columns
    return torch.tensor(places), torch.tensor(said)


def answer_early(labels: Tensor, ids: Tensor, asked: Sequence[Sequence[Question]], tokenizer: Any) -> None:
    """Also set the answer's key words as labels at the end of the question, in place. Two words alternate.

    The labels begin at the word that is asked about and end where the assistant's turn begins. Generation does not
    use the model's output at these tokens. With them, the model learns one step at a time: first to look at the
    picture from the word that is asked about. The answer alone would have to teach two steps at once: to find that
    word, and then to look for what it names.
    """
    start = tokenizer.encode("<|im_start|>assistant\n")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for row, (values, questions_) in enumerate(zip(ids.tolist(), asked, strict=True)):
        for (first, _), question in zip(_answers(values, start, end), questions_, strict=True):
            if not question.key:
                continue
            said = [tokenizer.encode(f" {word}")[0] for word in question.key]
            last = first - len(start)  # <|im_start|>
            noun = tokenizer.encode(f" {question.about.split()[-1]}")[0] if question.about else end
            begin = last - values[last::-1].index(noun)
            for back, place in enumerate(range(last, begin - 1, -1)):
                labels[row, place + 1] = said[-1 - back % len(said)]


def clip_metadata(frames: np.ndarray) -> VideoMetadata:
    """Return metadata of a clip in which every frame is kept."""
    count, height, width = frames.shape[:3]
    metadata = VideoMetadata(count, fps=CLIP_FPS, width=width, height=height, duration=count / CLIP_FPS)
    metadata.frames_indices = list(range(count))
    return metadata


def answer_labels(ids: Tensor, tokenizer: Any) -> Tensor:
    """Return labels (B, S): the ids of each assistant turn and of the token that ends it, IGNORED elsewhere."""
    start = tokenizer.encode("<|im_start|>assistant\n")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    labels = torch.full_like(ids, IGNORED)
    for row, values in enumerate(ids.tolist()):
        for first, last in _answers(values, start, end):
            labels[row, first : last + 1] = ids[row, first : last + 1]
    return labels


def _answers(values: list[int], start: list[int], end: int) -> Iterator[tuple[int, int]]:
    for at in range(len(values) - len(start)):
        if values[at : at + len(start)] == start:
            first = at + len(start)
            yield first, values.index(end, first)
