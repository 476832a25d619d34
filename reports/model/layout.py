"""Where each part of the model stands in the drawing, and the arrows between them. Units are those of the SVG.

Three columns from left to right: the processor; the vision tower with its mergers; the decoder with the DeepStack adds.
Computation goes down each column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from reports.model.parts import Part

_TOP, _GAP, _HIGH, _LOW = 34, 9, 24, 19
_MANY = 12  # blocks from which boxes are low
# Left edge and width of the columns.
_PROCESSOR, _TOWER, _MERGERS, _DECODER, _CACHE = (2, 98), (124, 106), (244, 84), (348, 122), (476, 18)
WIDTH = 496
_TITLES = {"rope": "RoPE", "norm": "norm"}


@dataclass(frozen=True)
class Box:
    """A part at its place. A part that has no evidence is drawn without a link."""

    id: str
    title: str
    part: Part | None
    x: float
    y: float
    width: float
    height: float
    upright: bool = False

    @property
    def tone(self) -> str:
        return "none" if self.part is None else self.part.tone

    @property
    def figure(self) -> str:
        return "" if self.part is None else self.part.figure

    @property
    def starts(self) -> bool:
        return self.part is not None and self.part.starts

    @property
    def middle(self) -> float:
        return self.y + self.height / 2

    @property
    def right(self) -> float:
        return self.x + self.width


@dataclass(frozen=True)
class Drawing:
    """Boxes in the order of the computation, arrows as SVG paths, and column titles as (x, text)."""

    boxes: Sequence[Box]
    arrows: Sequence[str]
    deepstack: Sequence[str]
    titles: Sequence[tuple[float, str]]
    height: float


def draw(parts: Mapping[str, Part]) -> Drawing | None:
    """Arrange the parts. None if there is none that belongs to the model."""
    blocks, taps, layers = (_count(parts, name) for name in ("block", "tap", "layer"))
    if not parts:
        return None
    tower = _column(parts, _TOWER, ["patches", *_numbered("block", blocks), "merger"])
    adds = max(taps, _count(parts, "add"))
    names = ["embedding", "scatter", "rope"]
    for layer in range(layers):
        names += [f"layer-{layer}"] + [f"add-{layer}"] * (layer < adds)
    decoder = _column(parts, _DECODER, [*names, "norm", "logits", *_present(parts, "calls", "generation")])
    left = ["pictures", "videos", "prompt", "inputs", *_present(parts, "weights", "refusals", "other")]
    processor = _column(parts, _PROCESSOR, left)
    place = {box.id: box for box in (*processor, *tower, *decoder)}
    mergers = [_merger(parts, tap, taps, blocks, place) for tap in range(taps)]
    place |= {box.id: box for box in mergers}
    cache = _cache(parts, [box for box in decoder if box.id.startswith(("layer", "add"))])
    boxes = [*processor, *tower, *mergers, *decoder, *cache]
    height = max(box.y + box.height for box in boxes) + 4
    return Drawing(
        boxes,
        [*_down(tower), *_down(decoder), *_across(place)],
        [_tap_arrow(place[f"tap-{tap}"], place[f"add-{tap}"]) for tap in range(taps) if f"add-{tap}" in place],
        [(_PROCESSOR[0], "processor"), (_TOWER[0], "vision tower"), (_DECODER[0], "decoder")],
        height,
    )


def _count(parts: Mapping[str, Part], name: str) -> int:
    indexes = [int(part.partition("-")[2]) for part in parts if part.startswith(f"{name}-")]
    return max(indexes, default=-1) + 1


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}-{index}" for index in range(count)]


def _present(parts: Mapping[str, Part], *names: str) -> list[str]:
    return [name for name in names if name in parts]


def _column(parts: Mapping[str, Part], place: tuple[int, int], names: Sequence[str]) -> list[Box]:
    high = _LOW if len(names) > _MANY else _HIGH
    gap = _GAP - 4 if len(names) > _MANY else _GAP
    x, width = place
    return [
        Box(name, _title(name), parts.get(name), x, _TOP + index * (high + gap), width, high)
        for index, name in enumerate(names)
    ]


def _title(name: str) -> str:
    word, _, index = name.partition("-")
    if word == "add":
        return f"+ tap {index}"
    return _TITLES.get(name, f"{word} {index}".strip())


def _merger(parts: Mapping[str, Part], tap: int, taps: int, blocks: int, place: Mapping[str, Box]) -> Box:
    """A DeepStack merger beside the tower. The blocks that it follows are not in a report: they are drawn evenly."""
    after = place.get(f"block-{min(max((tap + 1) * blocks // (taps + 1) - 1, 0), max(blocks - 1, 0))}")
    x, width = _MERGERS
    y = after.y + after.height / 2 + 3 if after is not None else _TOP + tap * (_HIGH + _GAP)
    return Box(f"tap-{tap}", f"tap {tap}", parts.get(f"tap-{tap}"), x, y, width, _HIGH)


def _cache(parts: Mapping[str, Part], layers: Sequence[Box]) -> list[Box]:
    if "cache" not in parts or not layers:
        return []
    x, width = _CACHE
    first, last = layers[0], layers[-1]
    height = last.y + last.height - first.y
    return [Box("cache", "KV cache", parts["cache"], x, first.y, width, height, upright=True)]


def _down(column: Sequence[Box]) -> Iterator[str]:
    for above, below in pairwise(column):
        x = above.x + above.width / 2
        yield f"M{x:g} {above.y + above.height:g}V{below.y - 1:g}"


def _across(place: Mapping[str, Box]) -> Iterator[str]:
    """From pixels to patches, from ids to the embedding (over the tower), from the merger to the scatter."""
    patches, embedding, scatter, merger = (place[name] for name in ("patches", "embedding", "scatter", "merger"))
    start = place["pictures"]
    yield f"M{start.right:g} {start.middle:g}H{patches.x - 1:g}"
    turn = patches.x - 9
    prompt = place["prompt"]
    over = _TOP - 8
    yield (
        f"M{prompt.right:g} {prompt.middle:g}H{turn:g}V{over:g}H{embedding.x + embedding.width / 2:g}"
        f"V{embedding.y - 1:g}"
    )
    gutter = embedding.x - 14
    yield f"M{merger.right:g} {merger.middle:g}H{gutter:g}V{scatter.middle:g}H{scatter.x - 1:g}"


def _tap_arrow(tap: Box, add: Box) -> str:
    """A curve from a DeepStack merger to the add that it feeds."""
    bend = (tap.right + add.x) / 2
    return f"M{tap.right:g} {tap.middle:g}C{bend:g} {tap.middle:g} {bend:g} {add.middle:g} {add.x - 1:g} {add.middle:g}"
