"""Mistakes in positions: the three axes of a prompt, the rope delta and the positions of decode steps.

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
from parity.mutants.arithmetic import rounded
from parity.mutants.base import BATCH, FORWARD, PICTURE, around, family, result_changed
from port.cache import KVCache


@dataclass(frozen=True)
class Prompt:
    """What positions are computed from. ``options`` are the keyword arguments of ``mrope_positions``."""

    ids: Tensor
    mask: Tensor
    options: dict[str, Any]

    def runs(self, row: int, *kinds: str) -> Iterator[slice]:
        """The tokens of each picture or frame of a row, in the order of the prompt."""
        tokens = torch.tensor([self.options[f"{kind}_token_id"] for kind in kinds or ("image", "video")])
        visual = torch.isin(self.ids[row], tokens) & self.mask[row].bool()
        edges = torch.nn.functional.pad(visual.int(), (1, 1)).diff().nonzero().flatten().tolist()
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            yield slice(start, stop)


def _prompt_changed(
    change: Callable[[Tensor, Tensor, Prompt], tuple[Tensor, Tensor]],
) -> AbstractContextManager[None]:
    """The model gets ``change(position_ids, rope_delta, prompt)`` as its position ids and rope delta."""

    def wrapper(original: Any, ids: Tensor, mask: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        positions, delta = original(ids, mask, **options)
        return change(positions, delta, Prompt(ids, mask, options))

    return around(port.model, "mrope_positions", wrapper)


def position_ids_changed(change: Callable[[Tensor, Prompt], Tensor]) -> AbstractContextManager[None]:
    """The model gets ``change(position_ids, prompt)``, which may change its copy of position_ids (3, B, S)."""
    return _prompt_changed(lambda positions, delta, prompt: (change(positions.clone(), prompt), delta))


def delta_changed(change: Callable[[Tensor, Tensor, Prompt], Tensor]) -> AbstractContextManager[None]:
    """The model gets ``change(rope_delta, position_ids, prompt)``."""
    return _prompt_changed(lambda positions, delta, prompt: (positions, change(delta, positions, prompt)))


def next_positions_changed(change: Callable[[Tensor, KVCache, int], Tensor]) -> AbstractContextManager[None]:
    """``change(positions, cache, tokens)`` are the positions (3, B, S) of a decode step."""

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


def _column_by_column(_original: Any, height: int, width: int) -> Tensor:
    rows, cols = torch.arange(height), torch.arange(width)
    return torch.stack(
        [torch.zeros(height * width, dtype=torch.long), rows.repeat(width), cols.repeat_interleave(height)]
    )


def _later_rows_late(positions: Tensor, _prompt: Prompt) -> Tensor:
    positions[:, 1:] += 1
    return positions


def _text_after_height(positions: Tensor, prompt: Prompt) -> Tensor:
    for row in range(len(prompt.ids)):
        for run in prompt.runs(row):
            block = positions[:, row, run]
            surplus = int(block.max() - block[1].max())
            positions[:, row, run.stop :] -= surplus * prompt.mask[row, run.stop :]
    return positions


def _delta_from_last_column(_delta: Tensor, positions: Tensor, prompt: Prompt) -> Tensor:
    """From the last column, which is padding in rows that are padded on the right."""
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


prompt = family(component="mrope-index", seam="text.position_ids", step="prefill")
rope_delta = family(component="mrope-index", seam="rope_delta", step="prefill")
decode = family(component="kv-cache-decode", seam="text.position_ids", step="decode 1")

MUTANTS = [
    prompt(
        "mrope-second-image-from-unexpanded-index",
        "a second picture is positioned by its index before placeholders are expanded",
        lambda: position_ids_changed(_from_unexpanded_index),
        needs=frozenset({"pictures"}),
        real=True,
        source="ollama, model.go 0b700485 (fixed 043e9900)",
    ),
    prompt(
        "mrope-video-not-split-per-frame",
        "a video gets one block of positions instead of one per frame",
        lambda: position_ids_changed(_video_as_one_block),
        needs=frozenset({"frames"}),
        real=True,
        source="transformers #44474; mistral.rs 8010b6a05; mlx-vlm #2142",
    ),
    prompt(
        "mrope-absolute-grid-positions",
        "positions of picture tokens start at 0 instead of where the picture starts",
        lambda: position_ids_changed(_absolute),
        needs=PICTURE,
        real=True,
        source="1bit-MONSTER, #1798",
    ),
    prompt(
        "cumsum-overflow-long-context",
        "positions are rounded to bfloat16, which is exact only up to 256",
        lambda: position_ids_changed(lambda positions, _prompt: rounded(positions, torch.bfloat16)),
        needs=frozenset({"long"}),
        real=True,
        source="mistral.rs, ae2b71cd3",
    ),
    prompt(
        "mrope-hw-swapped",
        "rows and columns are swapped in picture positions",
        lambda: result_changed(port.mrope, "frame_positions", lambda offsets: offsets[[0, 2, 1]]),
        needs=PICTURE,
    ),
    prompt(
        "mrope-columns-first",
        "picture positions run column by column",
        lambda: around(port.mrope, "frame_positions", _column_by_column),
        needs=frozenset({"rows and columns"}),
    ),
    prompt(
        "mrope-time-follows-rows",
        "the time axis of a picture counts its rows",
        lambda: result_changed(port.mrope, "frame_positions", lambda offsets: offsets[[1, 1, 2]]),
        needs=frozenset({"rows and columns"}),
    ),
    prompt(
        "mrope-text-after-height",
        "the text after a picture continues from its height, even if the picture is wider",
        lambda: position_ids_changed(_text_after_height),
        needs=frozenset({"landscape"}),
    ),
    prompt(
        "mrope-frames-in-time",
        "each frame of a video also advances the time axis, as in Qwen2.5-VL",
        lambda: position_ids_changed(_each_frame_in_time),
        component="video",
        needs=frozenset({"frames"}),
    ),
    prompt(
        "positions-count-left-padding",
        "positions count the padding on the left",
        lambda: position_ids_changed(_padding_counted),
        component="batch",
        needs=frozenset({"left"}),
    ),
    prompt(
        "positions-of-later-rows-late",
        "positions are one too high in every row but the first",
        lambda: position_ids_changed(_later_rows_late),
        component="batch",
        needs=BATCH,
    ),
    rope_delta(
        "mrope-delta-padded-length",
        "the rope delta is computed from the padded length",
        lambda: delta_changed(lambda delta, _positions, prompt: delta - (prompt.mask == 0).sum(1, keepdim=True)),
        needs=BATCH,
        real=True,
        source="mistral.rs dd8d0c6f9 -> 326f1d612 (#2377); mlx-vlm -> 9a4b7cd9",
    ),
    rope_delta(
        "rope-delta-from-last-column",
        "the rope delta is computed from the last column, which may be padding",
        lambda: delta_changed(_delta_from_last_column),
        needs=frozenset({"right"}),
    ),
    rope_delta(
        "rope-delta-of-row-0",
        "every row gets the rope delta of row 0",
        lambda: delta_changed(lambda delta, _positions, _prompt: delta[:1].expand(len(delta), -1)),
        needs=frozenset({"batch", "picture in a later row"}),
    ),
    rope_delta(
        "rope-delta-off-by-one",
        "the rope delta is one too small",
        lambda: delta_changed(lambda delta, _positions, _prompt: delta - 1),
        needs=FORWARD,
    ),
    decode(
        "decode-without-rope-delta",
        "decode steps ignore the rope delta",
        lambda: next_positions_changed(lambda positions, cache, _tokens: positions - cache.rope_delta),
        needs=frozenset({"rope delta"}),
        real=True,
        source="mistral.rs 530463af1 -> dd8d0c6f9; mlx-vlm 7b622456 (#1527), #1619; kekzl/imp #1178",
    ),
    decode(
        "delta-double-subtracts-left-pad",
        "the padding on the left is subtracted twice",
        lambda: next_positions_changed(
            lambda positions, cache, _tokens: positions - (~cache.visible).sum(dim=1, keepdim=True)
        ),
        needs=frozenset({"left"}),
        real=True,
        source="mlx-vlm, 410dcffd (#1055)",
    ),
    decode(
        "rope-mask-indices-offset",
        "the cached length is added twice to decode positions",
        lambda: next_positions_changed(lambda positions, cache, _tokens: positions + cache.length),
        needs=FORWARD,
        real=True,
        source="mistral.rs, e1672b7e6 -> 6d845753e (#1708)",
    ),
    decode(
        "padding-side-right-generation",
        "rows padded on the right continue after their padding",
        lambda: next_positions_changed(_length_and_delta),
        needs=BATCH,
        real=True,
        source="QwenLM #1296; lmms-eval #889; transformers #36100",
    ),
    decode(
        "decode-positions-stand-still",
        "every decode step has the position of the first",
        _standing_still,
        step="decode 2",
        needs=FORWARD,
    ),
    decode(
        "fourth-decode-step-late",
        "positions are one too high from the fourth decode step on",
        _fourth_step_late,
        step="decode 4",
        needs=FORWARD,
    ),
    decode(
        "decode-time-axis-without-delta",
        "decode steps ignore the rope delta on the time axis only",
        lambda: next_positions_changed(
            lambda positions, cache, _tokens: torch.cat([positions[:1] - cache.rope_delta, positions[1:]])
        ),
        needs=frozenset({"rope delta"}),
    ),
]
