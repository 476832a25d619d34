"""Random scenes from a seed: which shapes and colours there are, where they are, and what moves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 175, 60),
    "blue": (45, 80, 230),
    "yellow": (240, 215, 40),
}
CORNERS = ("top left", "top right", "bottom left", "bottom right")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MOST_OBJECTS = 3
# Width and height in pixels. Some are multiples of a merged patch (32), others must be resized.
PICTURE_SIZES = ((64, 64), (96, 64), (64, 96), (60, 70), (80, 56), (50, 50))
CLIP_SIZES = ((64, 64), (96, 64), (64, 96))
CLIP_FRAMES, CLIP_FPS = 4, 2.0
_INSET = 0.25  # distance of a corner's middle from the edges, as a share of the side
_HELD_OUT_SHARE = 10  # one scene in this many is never used in training


@dataclass(frozen=True)
class Thing:
    """One object. ``x`` and ``y`` of its middle are fractions of width and height.

    ``size`` is its radius as a fraction of the shorter side. ``place`` is its corner, or the corner where it starts.
    """

    shape: str
    colour: str
    place: str
    x: float
    y: float
    size: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.shape, self.colour, self.place


@dataclass(frozen=True)
class Scene:
    """A picture, or a clip if ``direction`` is set; then the first thing moves. ``noise_seed``: for the background."""

    width: int
    height: int
    things: tuple[Thing, ...]
    noise_seed: int
    direction: str | None = None

    @property
    def held_out(self) -> bool:
        """Whether training must not use this scene. It depends on the things and their places, not on sizes or noise.

        Scenes with a single thing are never held out. There are few of them, and a model that never saw some would
        learn that they do not occur.
        """
        if len(self.things) == 1:
            return False
        text = repr((sorted(thing.identity for thing in self.things), self.direction))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % _HELD_OUT_SHARE == 0


def draw_scene(rng: np.random.Generator, *, clip: bool, held_out: bool) -> Scene:
    """Draw a random scene that is held out, or one that is not."""
    while True:
        scene = _clip(rng) if clip else _picture(rng)
        if scene.held_out == held_out:
            return scene


def _picture(rng: np.random.Generator) -> Scene:
    width, height = PICTURE_SIZES[rng.integers(len(PICTURE_SIZES))]
    corners = rng.permutation(len(CORNERS))[: rng.integers(1, MOST_OBJECTS + 1)]
    things = tuple(_thing(rng, CORNERS[corner]) for corner in corners)
    return Scene(width, height, things, int(rng.integers(2**31)))


def _clip(rng: np.random.Generator) -> Scene:
    """Draw a clip. One thing moves to the next corner; another may stand on the other side and has another name."""
    width, height = CLIP_SIZES[rng.integers(len(CLIP_SIZES))]
    direction = tuple(DIRECTIONS)[rng.integers(len(DIRECTIONS))]
    starts = [corner for corner in CORNERS if goes_to(corner, direction) in CORNERS]
    start = starts[rng.integers(len(starts))]
    mover = _thing(rng, start)
    free = [corner for corner in CORNERS if corner not in (start, goes_to(start, direction))]
    others = [_thing(rng, corner) for corner in free[: rng.integers(0, 2)]]
    others = [thing for thing in others if thing.name != mover.name]
    return Scene(width, height, (mover, *others), int(rng.integers(2**31)), direction)


def goes_to(corner: str, direction: str) -> str:
    """Return the corner in this direction, or an empty text if there is none."""
    row, column = corner.split()
    if direction in ("left", "right"):
        return f"{row} {direction}" if column != direction else ""
    end = "top" if direction == "up" else "bottom"
    return f"{end} {column}" if row != end else ""


def _thing(rng: np.random.Generator, place: str) -> Thing:
    x = _INSET if place.endswith("left") else 1 - _INSET
    y = _INSET if place.startswith("top") else 1 - _INSET
    return Thing(
        SHAPES[rng.integers(len(SHAPES))],
        tuple(COLOURS)[rng.integers(len(COLOURS))],
        place,
        x=x + float(rng.uniform(-0.03, 0.03)),
        y=y + float(rng.uniform(-0.03, 0.03)),
        size=float(rng.uniform(0.16, 0.21)),
    )
