"""Training batches: pictures and clips with several questions each, as one conversation a row.

Shape legend
    B, S    rows, tokens of the longest row
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    """What a batch is made of. A row has ``asked`` questions about at most ``most`` objects."""

    pictures: int
    clips: int
    asked: int
    most: int


def conversation(kind: str, asked: Sequence[Question]) -> list[dict[str, Any]]:
    """All questions about one picture (``kind`` image) or clip (video) as turns; the medium is in the first."""
    turns: list[dict[str, Any]] = []
    for number, question in enumerate(asked):
        text = {"type": "text", "text": question.text}
        content = [{"type": kind}, text] if number == 0 else [text]
        turns.append({"role": "user", "content": content})
        turns.append({"role": "assistant", "content": [{"type": "text", "text": question.answer}]})
    return turns


def training_batch(processor: Any, rng: np.random.Generator, mixture: Mixture) -> dict[str, Tensor]:
    """One batch of the training side of the split, with ``labels`` (B, S) at the answers."""
    images, videos, texts, scenes = [], [], [], []
    for row in range(mixture.pictures + mixture.clips):
        clip = row >= mixture.pictures
        scene = draw_scene(rng, clip=clip, held_out=False, most=mixture.most)
        scenes.append(scene)
        if clip:
            videos.append(draw_clip(scene))
        else:
            images.append(draw_picture(scene))
        turns = conversation("video" if clip else "image", questions(scene, rng, mixture.asked))
        texts.append(processor.apply_chat_template(turns, tokenize=False))
    media: dict[str, Any] = {}
    if images:
        media["images"] = images
    if videos:
        media |= {"videos": videos, "video_metadata": [clip_metadata(video) for video in videos]}
        media["do_sample_frames"] = False
    batch = processor(text=texts, padding=True, padding_side="right", return_tensors="pt", **media)
    labels = answer_labels(batch["input_ids"], processor.tokenizer)
    name_what_is_seen(labels, batch, scenes, processor, rng)
    return {**batch, "labels": labels}


def name_what_is_seen(
    labels: Tensor, batch: Any, scenes: Sequence[Scene], processor: Any, rng: np.random.Generator
) -> None:
    """Put words at picture tokens, in place: after a token that shows a thing comes its colour, shape, row or column.

    Of the four one is drawn. It teaches what each part of a picture shows before any question has to find it, and in
    the words that questions use. Nothing is asked of the background.
    """
    words = {
        word: processor.tokenizer.encode(f" {word}")[0]
        for word in (*SHAPES, *COLOURS, "top", "bottom", "left", "right")
    }
    merge = processor.image_processor.merge_size
    grids = iter(batch["image_grid_thw"].tolist() if "image_grid_thw" in batch else [])
    video_grids = iter(batch["video_grid_thw"].tolist() if "video_grid_thw" in batch else [])
    for row, scene in enumerate(scenes):
        clip = scene.direction is not None
        pad = processor.video_token_id if clip else processor.image_token_id
        frames, height, width = next(video_grids if clip else grids)
        rows, columns = height // merge, width // merge
        tokens = (batch["input_ids"][row] == pad).nonzero().flatten().view(frames, rows, columns)
        for frame in range(frames):
            for number, thing in enumerate(scene.things):
                # Halfway between the two frames of a temporal patch.
                moved = (2 * frame + 0.5) / (CLIP_FRAMES - 1) if clip else 0.0
                x, y = middle(scene, number, moved)
                place = int(tokens[frame, int(y * rows), int(x * columns)])
                said = (thing.colour, thing.shape, "top" if y < 0.5 else "bottom", "left" if x < 0.5 else "right")
                labels[row, place + 1] = words[said[rng.integers(4)]]


def clip_metadata(frames: np.ndarray) -> VideoMetadata:
    """Metadata of a clip of the world, every frame kept."""
    count, height, width = frames.shape[:3]
    metadata = VideoMetadata(count, fps=CLIP_FPS, width=width, height=height, duration=count / CLIP_FPS)
    metadata.frames_indices = list(range(count))
    return metadata


def answer_labels(ids: Tensor, tokenizer: Any) -> Tensor:
    """(B, S): the ids of each assistant turn and of the token that ends it, IGNORED elsewhere."""
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
