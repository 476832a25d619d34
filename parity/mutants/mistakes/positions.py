"""Mistakes in positions: the three axes of a prompt, the rope delta, and the positions of decode steps.

Shape legend
    B, S   batch, prompt tokens; position_ids (3, B, S), rope_delta (B, 1)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

import port.model
import port.mrope
from parity.mutants.base import Mutant, around, rounded
from port.cache import KVCache


@dataclass(frozen=True)
class Prompt:
    """What positions are made of; ``options`` are the keyword arguments of ``mrope_positions``."""

    ids: Tensor
    mask: Tensor
    options: dict[str, Any]

    def runs(self, row: int, *kinds: str) -> Iterator[slice]:
        """The tokens of each picture or frame of a row, in value order."""
        tokens = torch.tensor([self.options[f"{kind}_token_id"] for kind in kinds or ("image", "video")])
        visual = torch.isin(self.ids[row], tokens) & self.mask[row].bool()
        edges = torch.nn.functional.pad(visual.int(), (1, 1)).diff().nonzero().flatten().tolist()
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            yield slice(start, stop)


Change = Callable[[Tensor, Prompt], Tensor]


def position_ids_changed(change: Change) -> AbstractContextManager[None]:
    """``change`` gets a copy of position_ids (3, B, S) to work on."""

    def wrapper(original: Any, ids: Tensor, mask: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        positions, delta = original(ids, mask, **options)
        return change(positions.clone(), Prompt(ids, mask, options)), delta

    return around(port.model, "mrope_positions", wrapper)


def delta_changed(change: Callable[[Tensor, Tensor, Prompt], Tensor]) -> AbstractContextManager[None]:
    """``change(rope_delta, position_ids, prompt)`` makes the delta."""

    def wrapper(original: Any, ids: Tensor, mask: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        positions, delta = original(ids, mask, **options)
        return positions, change(delta, positions, Prompt(ids, mask, options))

    return around(port.model, "mrope_positions", wrapper)


def next_positions_changed(change: Callable[[Tensor, KVCache, int], Tensor]) -> AbstractContextManager[None]:
    """``change(positions, cache, tokens)`` makes the positions (3, B, S) of a decode step."""

    def wrapper(original: Any, cache: KVCache, tokens: int) -> Tensor:
        return change(original(cache, tokens), cache, tokens)

    return around(KVCache, "next_positions", wrapper)


def _from_unexpanded_index(positions: Tensor, prompt: Prompt) -> Tensor:
    for row in range(len(prompt.ids)):
        real, expanded = prompt.mask[row].cumsum(0), 0
        for run in prompt.runs(row):
            start = int(real[run.start]) - 1 - expanded
            if expanded:
                positions[:, row, run] += start - positions[0, row, run.start]
            expanded += run.stop - run.start - 1
    return positions


def _video_as_one_block(positions: Tensor, prompt: Prompt) -> Tensor:
    grids = prompt.options["video_grid_thw"]
    frames = iter(() if grids is None else [frame for t in grids[:, 0].tolist() for frame in range(t)])
    first: Tensor | None = None
    for row in range(len(prompt.ids)):
        for run in prompt.runs(row, "video"):
            frame = next(frames)
            if frame == 0 or first is None:
                first = positions[:, row, run].clone()
            positions[:, row, run] = first + torch.tensor([[frame], [0], [0]])
    return positions


def _absolute(positions: Tensor, prompt: Prompt) -> Tensor:
    for row in range(len(prompt.ids)):
        for run in prompt.runs(row):
            positions[:, row, run] -= positions[0, row, run.start].clone()
    return positions


def _each_frame_in_time(positions: Tensor, prompt: Prompt) -> Tensor:
    for row in range(len(prompt.ids)):
        for frame, run in enumerate(prompt.runs(row, "video")):
            positions[0, row, run] += frame
    return positions


def _padding_counted(positions: Tensor, prompt: Prompt) -> Tensor:
    before = prompt.mask.argmax(dim=1)  # padding on the left
    return positions + before.view(1, -1, 1)


def _raster_columns(original: Any, height: int, width: int) -> Tensor:
    """Rows and columns of a frame, column by column."""
    rows, cols = torch.arange(height), torch.arange(width)
    return torch.stack(
        [torch.zeros(height * width, dtype=torch.long), rows.repeat(width), cols.repeat_interleave(height)]
    )


def _later_rows_late(positions: Tensor, _prompt: Prompt) -> Tensor:
    positions[:, 1:] += 1
    return positions


def _time_follows_rows(original: Any, height: int, width: int) -> Tensor:
    offsets = original(height, width)
    offsets[0] = offsets[1]
    return offsets


def _text_after_height(original: Any, ids: Tensor, mask: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """The text after a picture goes on at its height, even where it is wider."""
    positions, delta = original(ids, mask, **options)
    prompt, positions = Prompt(ids, mask, options), positions.clone()
    for row in range(len(ids)):
        for run in prompt.runs(row):
            block = positions[:, row, run]
            surplus = int(block.max() - block[1].max())
            positions[:, row, run.stop :] -= surplus * mask[row, run.stop :]
    return positions, delta


def _delta_from_last_column(delta: Tensor, positions: Tensor, prompt: Prompt) -> Tensor:
    """From the last column, which is padding where rows are padded on the right."""
    return positions[:, :, -1].amax(dim=0).unsqueeze(1) + 1 - prompt.mask.sum(dim=1, keepdim=True)


def _fourth_step_late() -> AbstractContextManager[None]:
    steps: WeakKeyDictionary[KVCache, int] = WeakKeyDictionary()

    def change(positions: Tensor, cache: KVCache, _tokens: int) -> Tensor:
        steps[cache] = steps.get(cache, 0) + 1
        return positions + (steps[cache] >= 4)

    return next_positions_changed(change)


def _standing_still() -> AbstractContextManager[None]:
    kept: WeakKeyDictionary[KVCache, Tensor] = WeakKeyDictionary()

    def change(positions: Tensor, cache: KVCache, _tokens: int) -> Tensor:
        return kept.setdefault(cache, positions)

    return next_positions_changed(change)


def _length_and_delta(positions: Tensor, cache: KVCache, tokens: int) -> Tensor:
    return (cache.length + cache.rope_delta + torch.arange(tokens)).expand(3, -1, -1)


PICTURE, FORWARD = frozenset({"picture"}), frozenset({"forward"})
FRAMES, DELTA = frozenset({"frames"}), frozenset({"rope delta"})


def _prompt(id: str, title: str, plant: Any, needs: frozenset[str], **more: Any) -> Mutant:
    component = more.pop("component", "mrope-index")
    return Mutant(
        id=id, title=title, component=component, seam="text.position_ids", step="prefill", plant=plant, needs=needs,
        **more,
    )  # fmt: skip


def _decode(id: str, title: str, plant: Any, needs: frozenset[str], step: str = "decode 1", **more: Any) -> Mutant:
    return Mutant(
        id=id, title=title, component="kv-cache-decode", seam="text.position_ids", step=step, plant=plant, needs=needs,
        **more,
    )  # fmt: skip


def _delta(id: str, title: str, plant: Any, needs: frozenset[str], **more: Any) -> Mutant:
    return Mutant(
        id=id, title=title, component="mrope-index", seam="rope_delta", step="prefill", plant=plant, needs=needs,
        **more,
    )  # fmt: skip


MUTANTS = [
    _prompt(
        "mrope-second-image-from-unexpanded-index",
        "a second picture starts at its index among unexpanded tokens",
        lambda: position_ids_changed(_from_unexpanded_index),
        frozenset({"pictures"}),
        real=True,
        source="ollama, model.go 0b700485 (fixed 043e9900)",
    ),
    _prompt(
        "mrope-video-not-split-per-frame",
        "a video is one block of positions, not one per frame",
        lambda: position_ids_changed(_video_as_one_block),
        FRAMES,
        real=True,
        source="transformers #44474; mistral.rs 8010b6a05; mlx-vlm #2142",
    ),
    _prompt(
        "mrope-absolute-grid-positions",
        "picture tokens count from 0, not from where the picture starts",
        lambda: position_ids_changed(_absolute),
        PICTURE,
        real=True,
        source="1bit-MONSTER, #1798",
    ),
    _prompt(
        "cumsum-overflow-long-context",
        "positions are summed in a float that counts to 256",
        lambda: position_ids_changed(lambda positions, _prompt: rounded(positions, torch.bfloat16)),
        frozenset({"long"}),
        real=True,
        source="mistral.rs, ae2b71cd3",
    ),
    _prompt(
        "mrope-hw-swapped",
        "rows and columns of picture positions swapped",
        lambda: around(port.mrope, "frame_positions", lambda original, h, w: original(h, w)[[0, 2, 1]]),
        PICTURE,
    ),
    _prompt(
        "mrope-columns-first",
        "picture positions column by column",
        lambda: around(port.mrope, "frame_positions", _raster_columns),
        frozenset({"rows and columns"}),
    ),
    _prompt(
        "mrope-time-follows-rows",
        "the time axis of a picture counts its rows",
        lambda: around(port.mrope, "frame_positions", _time_follows_rows),
        frozenset({"rows and columns"}),
    ),
    _prompt(
        "mrope-text-after-height",
        "the text after a picture goes on at its height, even where it is wider",
        lambda: around(port.model, "mrope_positions", _text_after_height),
        frozenset({"landscape"}),
    ),
    _prompt(
        "mrope-frames-in-time",
        "every frame of a video also moves on the time axis (Qwen2.5-VL)",
        lambda: position_ids_changed(_each_frame_in_time),
        FRAMES,
        component="video",
    ),
    _prompt(
        "positions-count-left-padding",
        "the padding on the left is counted",
        lambda: position_ids_changed(_padding_counted),
        frozenset({"left"}),
        component="batch",
    ),
    _prompt(
        "positions-of-later-rows-late",
        "every row but the first is one position late",
        lambda: position_ids_changed(_later_rows_late),
        frozenset({"batch"}),
        component="batch",
    ),
    _delta(
        "mrope-delta-padded-length",
        "the rope delta is taken from the padded length",
        lambda: delta_changed(lambda delta, _positions, prompt: delta - (prompt.mask == 0).sum(1, keepdim=True)),
        frozenset({"batch"}),
        real=True,
        source="mistral.rs dd8d0c6f9 -> 326f1d612 (#2377); mlx-vlm -> 9a4b7cd9",
    ),
    _delta(
        "rope-delta-from-last-column",
        "the rope delta is taken from the last column, which may be padding",
        lambda: delta_changed(_delta_from_last_column),
        frozenset({"right"}),
    ),
    _delta(
        "rope-delta-of-row-0",
        "every row gets the rope delta of row 0",
        lambda: delta_changed(lambda delta, _positions, _prompt: delta[:1].expand(len(delta), -1)),
        frozenset({"batch", "picture in a later row"}),
    ),
    _delta(
        "rope-delta-off-by-one",
        "the rope delta is one too small",
        lambda: delta_changed(lambda delta, _positions, _prompt: delta - 1),
        FORWARD,
    ),
    _decode(
        "decode-without-rope-delta",
        "decode steps forget the rope delta",
        lambda: next_positions_changed(lambda positions, cache, _tokens: positions - cache.rope_delta),
        DELTA,
        real=True,
        source="mistral.rs 530463af1 -> dd8d0c6f9; mlx-vlm 7b622456 (#1527), #1619; kekzl/imp #1178",
    ),
    _decode(
        "delta-double-subtracts-left-pad",
        "the padding on the left is taken off twice",
        lambda: next_positions_changed(
            lambda positions, cache, _tokens: positions - (~cache.visible).sum(dim=1, keepdim=True)
        ),
        frozenset({"left"}),
        real=True,
        source="mlx-vlm, 410dcffd (#1055)",
    ),
    _decode(
        "rope-mask-indices-offset",
        "decode positions are offset by the cached length once more",
        lambda: next_positions_changed(lambda positions, cache, _tokens: positions + cache.length),
        FORWARD,
        real=True,
        source="mistral.rs, e1672b7e6 -> 6d845753e (#1708)",
    ),
    _decode(
        "padding-side-right-generation",
        "rows padded on the right go on after their padding",
        lambda: next_positions_changed(_length_and_delta),
        frozenset({"batch"}),
        real=True,
        source="QwenLM #1296; lmms-eval #889; transformers #36100",
    ),
    _decode(
        "decode-positions-stand-still",
        "every decode step has the position of the first",
        _standing_still,
        FORWARD,
        step="decode 2",
    ),
    _decode(
        "fourth-decode-step-late",
        "right for three decode steps, one position late from the fourth",
        _fourth_step_late,
        FORWARD,
        step="decode 4",
    ),
    _decode(
        "decode-time-axis-without-delta",
        "decode steps forget the rope delta on the time axis alone",
        lambda: next_positions_changed(
            lambda positions, cache, _tokens: torch.cat([positions[:1] - cache.rope_delta, positions[1:]])
        ),
        DELTA,
    ),
]
