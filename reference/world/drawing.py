"""Draws scenes with PIL: antialiased shapes on a noisy, tinted background."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from reference.world.scenes import CLIP_FRAMES, COLOURS, DIRECTIONS, Scene

_FINER = 2  # factor by which shapes are drawn larger, before they are scaled down
_NOISE = 4.0  # standard deviation, in 8-bit steps
_TRAVEL = 0.5  # distance that a thing moves in a clip, as a share of the picture's side


def draw_picture(scene: Scene) -> Image.Image:
    """Draw the scene as an RGB picture."""
    return _frame(scene, _background(scene), moved=0.0)


def draw_clip(scene: Scene) -> np.ndarray:
    """Draw frames (CLIP_FRAMES, H, W, 3) uint8. The first thing moves at constant speed, the others stand still."""
    background = _background(scene)
    steps = np.linspace(0, 1, CLIP_FRAMES)
    return np.stack([np.asarray(_frame(scene, background, moved=float(step))) for step in steps])


def middle(scene: Scene, index: int, moved: float) -> tuple[float, float]:
    """Return the middle of a thing as fractions of width and height. ``moved`` (0 to 1) is how far the clip has run."""
    thing = scene.things[index]
    if index or scene.direction is None:
        return thing.x, thing.y
    right, down = DIRECTIONS[scene.direction]
    return thing.x + right * moved * _TRAVEL, thing.y + down * moved * _TRAVEL


def _background(scene: Scene) -> np.ndarray:
    """Return pixels (H, W, 3) float: dark grey, slightly tinted, with noise."""
    rng = np.random.default_rng(scene.noise_seed)
    tint = rng.uniform(15, 55) + rng.uniform(-10, 10, 3)
    return tint + rng.normal(0, _NOISE, (scene.height, scene.width, 3))


def _frame(scene: Scene, background: np.ndarray, *, moved: float) -> Image.Image:
    large = (scene.width * _FINER, scene.height * _FINER)
    paint, cover = Image.new("RGB", large), Image.new("L", large)
    on_paint, on_cover = ImageDraw.Draw(paint), ImageDraw.Draw(cover)
    for index, thing in enumerate(scene.things):
        x, y = middle(scene, index, moved)
        x, y = x * scene.width, y * scene.height
        radius = thing.size * min(scene.width, scene.height)
        points = (x * _FINER, y * _FINER, radius * _FINER)
        _draw(on_paint, thing.shape, points, COLOURS[thing.colour])
        _draw(on_cover, thing.shape, points, 255)
    size = (scene.width, scene.height)
    paint, cover = paint.resize(size, Image.Resampling.BOX), cover.resize(size, Image.Resampling.BOX)
    share = np.asarray(cover, dtype=np.float32)[..., None] / 255
    # The paint is already scaled by the share at the edges: the resize averaged it with black.
    pixels = background * (1 - share) + np.asarray(paint, dtype=np.float32)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _draw(
    draw: ImageDraw.ImageDraw, shape: str, place: tuple[float, float, float], fill: tuple[int, int, int] | int
) -> None:
    x, y, r = place
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "square":
        s = 0.88 * r
        draw.rectangle((x - s, y - s, x + s, y + s), fill=fill)
    elif shape == "triangle":
        draw.polygon([(x, y - r), (x - r, y + 0.8 * r), (x + r, y + 0.8 * r)], fill=fill)
    elif shape == "cross":
        t = 0.34 * r
        draw.rectangle((x - r, y - t, x + r, y + t), fill=fill)
        draw.rectangle((x - t, y - r, x + t, y + r), fill=fill)
    else:
        raise ValueError(f"there is no shape {shape!r}")
