"""Asks the reference the questions of an exam, greedily."""

from __future__ import annotations

from collections.abc import Sequence

from reference.media import VideoFrames
from reference.model import ReferenceModel
from reference.processor import Part, ReferenceProcessor
from reference.world.drawing import draw_clip, draw_picture
from reference.world.exam import LONGEST_ANSWER, Item
from reference.world.scenes import CLIP_FPS, Scene

_BATCH = 32


def medium(scene: Scene) -> Part:
    """Draw the scene as a picture, or as a video if something moves."""
    return VideoFrames(draw_clip(scene), CLIP_FPS) if scene.direction else draw_picture(scene)


def reference_answers(model: ReferenceModel, processor: ReferenceProcessor, items: Sequence[Item]) -> list[str]:
    """Answer each question. Every question is a conversation of its own."""
    tokenizer = processor.processor.tokenizer
    ends = [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    answers: list[str] = []
    for start in range(0, len(items), _BATCH):
        part = items[start : start + _BATCH]
        inputs = processor.prepare([[medium(item.scene), item.question.text] for item in part], padding_side="left")
        rows = model.generate(inputs, max_new_tokens=LONGEST_ANSWER, eos_token_ids=ends)
        answers += [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    return answers
