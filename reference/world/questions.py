"""Questions about a scene, each with one right answer in words.

Answers begin with a short word, so that the key words have a space before them, as in the questions. To Qwen's
tokenizer, a word with a space and one without are two different tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from reference.world.scenes import COLOURS, CORNERS, DIRECTIONS, SHAPES, Scene

NUMBERS = ("zero", "one", "two", "three")
KEY_WORDS = frozenset((*SHAPES, *COLOURS, *NUMBERS, *DIRECTIONS, "top", "bottom"))
KINDS = ("list", "shape", "colour", "count", "where", "direction", "mover")
PHRASINGS = {
    "list": ("What is there?", "What do you see?"),
    "shape": ("What shape is the {} object?", "Which shape is {}?"),
    "colour": ("What colour is the {}?", "Which colour has the {}?"),
    "count": ("How many {} are there?", "Count the {}."),
    "where": ("Where is the {}?", "Say where the {} is."),
    "direction": ("Which way does the {} move?", "Where does the {} go?"),
    "mover": ("What moves?", "Which object moves?"),
}


@dataclass(frozen=True)
class Question:
    """One question. ``kind`` is one of KINDS; ``about`` names what is asked about, empty for the whole scene."""

    kind: str
    text: str
    answer: str
    about: str

    @property
    def key(self) -> tuple[str, ...]:
        """The one or two key words of the answer, for example ("top", "left"). The answer to "list" has none."""
        return () if self.kind == "list" else tuple(word for word in self.answer.split() if word in KEY_WORDS)


def questions(scene: Scene, rng: np.random.Generator, count: int) -> list[Question]:
    """Return up to ``count`` different questions. The kinds take turns in random order."""
    by_kind: dict[str, list[tuple[str, str]]] = {}
    for kind, about, answer in _all(scene):
        by_kind.setdefault(kind, []).append((about, answer))
    chosen: list[Question] = []
    kinds = list(by_kind)
    while len(chosen) < count and any(by_kind.values()):
        rng.shuffle(kinds)
        for kind in kinds:
            if by_kind[kind] and len(chosen) < count:
                about, answer = by_kind[kind].pop(rng.integers(len(by_kind[kind])))
                chosen.append(_asked(kind, about, answer, rng))
    return chosen


def _asked(kind: str, about: str, answer: str, rng: np.random.Generator) -> Question:
    phrasing = PHRASINGS[kind][rng.integers(len(PHRASINGS[kind]))]
    return Question(kind, phrasing.format(about), answer, about)


def listed(scene: Scene) -> str:
    """List the things with their places in reading order. A moving thing comes first."""
    still = scene.things[1:] if scene.direction else scene.things
    standing = sorted(still, key=lambda thing: CORNERS.index(thing.place))
    moving = [f"a {scene.things[0].name} goes {scene.direction}"] if scene.direction else []
    return ", ".join([*moving, *(f"a {thing.name} {thing.place}" for thing in standing)])


def there_are(count: int) -> str:
    return f"there are {NUMBERS[count]}"


def _all(scene: Scene) -> Iterator[tuple[str, str, str]]:
    """Yield every question before it is phrased: its kind, what it is about, the answer."""
    things = scene.things
    shapes, colours = Counter(t.shape for t in things), Counter(t.colour for t in things)
    names = Counter(t.name for t in things)
    yield "list", "", listed(scene)
    yield "count", "objects", there_are(len(things))
    if scene.direction is not None:
        mover = things[0]
        yield "mover", "", f"the {mover.name}"
        yield "direction", mover.name, f"it goes {scene.direction}"
        if shapes[mover.shape] == 1:
            yield "direction", mover.shape, f"it goes {scene.direction}"
    for number, thing in enumerate(things):
        if colours[thing.colour] == 1:
            yield "shape", thing.colour, f"a {thing.shape}"
        if shapes[thing.shape] == 1:
            yield "colour", thing.shape, f"it is {thing.colour}"
        if names[thing.name] == 1 and not (scene.direction and number == 0):
            yield "where", thing.name, f"at the {thing.place}"
            if shapes[thing.shape] == 1:
                yield "where", thing.shape, f"at the {thing.place}"
    for shape in SHAPES:
        yield "count", plural(shape), there_are(shapes[shape])
    for colour in COLOURS:
        yield "count", f"{colour} objects", there_are(colours[colour])


def plural(shape: str) -> str:
    """Return the plural: circles, crosses."""
    return shape + ("es" if shape.endswith("s") else "s")


def vocabulary_corpus() -> list[str]:
    """Return sentences with every word of the world. A tokenizer trained on them has one token for each word."""
    about = [*SHAPES, *map(plural, SHAPES), *COLOURS, "object", "objects"]
    pairs = [f"{colour} {thing}" for colour in COLOURS for thing in (*SHAPES, "objects")]
    lines = [text.format(what) for texts in PHRASINGS.values() for text in texts for what in (*about, *pairs)]
    answers = [*map(there_are, range(len(NUMBERS))), *(f"at the {place}" for place in CORNERS)]
    answers += [f"it goes {way}" for way in DIRECTIONS] + [f"it is {colour}" for colour in COLOURS]
    answers += [f"the {pair}" for pair in pairs] + [f"a {shape}" for shape in SHAPES]
    lists = [f"a {pair} {place}, a {pair} goes {way}" for pair in pairs for place in CORNERS for way in DIRECTIONS]
    frame = ["user", "assistant", "system", "<0.2 seconds>", " seconds>", "1.5 seconds"]
    return lines + lists + [*answers, *frame] * 40
