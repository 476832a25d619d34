"""The exam: questions about held-out scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reference.world.questions import Question, questions
from reference.world.scenes import Scene, draw_scene

LONGEST_ANSWER = 20  # tokens


@dataclass(frozen=True)
class Item:
    """One question about a held-out scene. Items of the same scene have the same ``number``."""

    number: int
    scene: Scene
    question: Question

    @property
    def kind(self) -> str:
        """The kind of question, for example ``picture colour`` or ``clip direction``."""
        return f"{'clip' if self.scene.direction else 'picture'} {self.question.kind}"


def exam(*, pictures: int, clips: int, seed: int, asked: int = 4) -> list[Item]:
    """Return ``asked`` questions about each held-out picture and clip. The same seed gives the same items."""
    rng = np.random.default_rng(seed)
    items: list[Item] = []
    for number in range(pictures + clips):
        scene = draw_scene(rng, clip=number >= pictures, held_out=True)
        items += [Item(number, scene, question) for question in questions(scene, rng, asked)]
    return items


def by_kind(items: list[Item], right: list[bool]) -> dict[str, dict[str, float]]:
    """Return the number of questions and the share of right answers for each kind."""
    table: dict[str, list[bool]] = {}
    for item, good in zip(items, right, strict=True):
        table.setdefault(item.kind, []).append(good)
    return {
        kind: {"questions": len(found), "accuracy": round(sum(found) / len(found), 4)}
        for kind, found in sorted(table.items())
    }
