"""Mistakes in the language model's rotary angles and in the causal mask.

Shape legend
    B, S, T, D   batch, new tokens, all tokens so far, head_dim
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

import port.config
import port.model
import port.text
from parity.mutants.arithmetic import rounded
from parity.mutants.base import (
    BATCH,
    BFLOAT16,
    FLOAT32,
    FORWARD,
    PICTURE,
    altered,
    around,
    family,
    replaced,
    result_changed,
)
from port.text import TextModel

ANGLES = "text.rope_cos|text.rope_sin"  # small angles hardly change the cosine


@contextmanager
def _sequential() -> Iterator[None]:
    """Angles of plain token positions; the three-axis positions are computed but not used."""
    offset = [0]

    def forward(
        original: Any, self: TextModel, embeds: Tensor, *args: Any, cache: Any = None, **options: Any
    ) -> Tensor:
        offset[0] = 0 if cache is None else cache.length - embeds.shape[1]
        return original(self, embeds, *args, cache=cache, **options)

    def rotary(original: Any, self: TextModel, position_ids: Tensor, dtype: torch.dtype) -> Any:
        counted = offset[0] + torch.arange(position_ids.shape[-1])
        return original(self, counted.expand_as(position_ids), dtype)

    with around(TextModel, "forward", forward), around(TextModel, "rotary", rotary):
        yield


def _rotary_changed(change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    """The angles are computed from ``change(position_ids)``."""
    return around(TextModel, "rotary", lambda original, self, ids, dtype: original(self, change(ids), dtype))


def _angles_in(dtype_of: Callable[[torch.dtype], torch.dtype]) -> AbstractContextManager[None]:
    """Positions are multiplied by frequencies in ``dtype_of(model's dtype)``."""

    def rotary(original: Any, self: TextModel, position_ids: Tensor, dtype: torch.dtype) -> Any:
        narrow = dtype_of(dtype)

        def cos_sin(_original: Any, ids: Tensor, inv_freq: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
            turning = ids[axes].movedim(0, -1).to(narrow)
            angles = (turning * inv_freq.to(narrow)).to(inv_freq.dtype)
            angles = torch.cat([angles, angles], dim=-1)
            return angles.cos(), angles.sin()

        with around(port.text, "mrope_cos_sin", cos_sin):
            return original(self, position_ids, dtype)

    return around(TextModel, "rotary", rotary)


def _contiguous(sections: tuple[int, int, int]) -> Tensor:
    return torch.arange(3).repeat_interleave(torch.tensor(sections))


def _turning(axes: Tensor) -> Tensor:
    """(D/2,) bool: the frequencies that turn if each axis has every third place, as far as its own section goes.

    Time then does not take the places that height and width leave at the end.
    """
    places, sections = torch.arange(len(axes)), torch.bincount(axes, minlength=3)
    return places < 3 * sections[places % 3]


def _time_alone_in_new_dialect(original: Any, section: Any) -> Any:
    """mrope_section is read from rope_scaling only; without it, time gets all frequencies."""
    theta, sections = original(section)
    return (theta, (sum(sections), 0, 0)) if section.raw.get("rope_parameters") else (theta, sections)


def _repeated_pairs(cos_sin: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Each angle is followed by its copy, instead of all angles by a copy of them all."""
    return tuple(x[..., : x.shape[-1] // 2].repeat_interleave(2, dim=-1) for x in cos_sin)


def _mask_changed(change: Callable[[Tensor, Tensor, int], Tensor]) -> AbstractContextManager[None]:
    """``change(mask, visible, tokens)`` is the causal mask (B, 1, S, T)."""

    def wrapper(original: Any, visible: Tensor, tokens: int) -> Tensor:
        return change(original(visible, tokens), visible, tokens)

    return around(port.model, "causal_mask", wrapper)


def _future_shown(mask: Tensor, _visible: Tensor, tokens: int) -> Tensor:
    return torch.ones_like(mask) if tokens > 1 else mask


def _next_shown(mask: Tensor, visible: Tensor, tokens: int) -> Tensor:
    query, key = _indices(visible, tokens)
    return mask | ((key == query + 1) & visible[:, None, :]).unsqueeze(1)


def _self_hidden(mask: Tensor, visible: Tensor, tokens: int) -> Tensor:
    query, key = _indices(visible, tokens)
    return _or_else(mask & (key != query), mask)


def _indices(visible: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Indices of the queries (S, 1) and of the keys (T,) among all tokens so far."""
    total = visible.shape[1]
    return torch.arange(total - tokens, total).unsqueeze(1), torch.arange(total)


def _or_else(changed: Tensor, mask: Tensor) -> Tensor:
    """The changed mask, but the right one for tokens that would attend to nothing."""
    return torch.where(changed.any(dim=-1, keepdim=True), changed, mask)


def _padding_shown(_mask: Tensor, visible: Tensor, tokens: int) -> Tensor:
    return port.text.causal_mask(torch.ones_like(visible), tokens)


def _padding_shown_in_decode(mask: Tensor, visible: Tensor, tokens: int) -> Tensor:
    return mask if tokens > 1 else _padding_shown(mask, visible, tokens)


def _padding_of_row_0(_mask: Tensor, visible: Tensor, tokens: int) -> Tensor:
    return port.text.causal_mask(visible[:1].expand_as(visible), tokens)


def _window(mask: Tensor, visible: Tensor, tokens: int) -> Tensor:
    query, key = _indices(visible, tokens)
    return mask & (query - key < 16)


def _chunk_from_zero(mask: Tensor, visible: Tensor, tokens: int) -> Tensor:
    """The queries of a later chunk are counted from 0, so they attend to the first tokens only."""
    total = visible.shape[1]
    if tokens in (1, total):
        return mask
    query, key = torch.arange(tokens).unsqueeze(1), torch.arange(total)
    return _or_else(((key <= query) & visible[:, None, :]).unsqueeze(1), mask)


rope = family(component="text-rope", seam="text.rope_cos", step="prefill", needs=FORWARD)
mask = family(component="mask", seam="text.causal_mask", step="prefill", needs=FORWARD)

MUTANTS = [
    rope(
        "text-rope-sequential-1d",
        "rotary uses plain token positions instead of the three axes",
        _sequential,
        needs=PICTURE,
        real=True,
        source="mistral.rs 530463af1 -> dd8d0c6f9; candle HEAD; mlx-lm #1768; Liger-Kernel #276",
    ),
    rope(
        "text-mrope-contiguous-sections",
        "each axis has one block of rotary frequencies, as in Qwen2-VL",
        lambda: replaced(port.text, "frequency_axes", _contiguous),
        needs=PICTURE,
        real=True,
        source="MNN #4133; ollama < #12807; mlx-node #80",
    ),
    rope(
        "mrope-section-key-missed",
        "mrope_section is read from rope_scaling only",
        lambda: around(port.config, "_rope", _time_alone_in_new_dialect),
        needs=frozenset({"picture", "rope parameters"}),
        loads=True,
        real=True,
        source="kekzl/imp #1174; mlx-lm #1768; mobilint/mblt-model-zoo #93",
    ),
    rope(
        "rope-freqs-in-bf16",
        "rotary angles are computed in the model's dtype",
        lambda: _angles_in(lambda model: model),
        seam=ANGLES,
        needs=frozenset({"long"}),
        real=True,
        source="candle #3005; utensils/mold #964",
        dtypes=(BFLOAT16,),
        invisible="float32: the model is float32, so nothing is rounded",
    ),
    rope(
        "rope-freqs-always-bf16",
        "rotary angles are always computed in bfloat16",
        lambda: _angles_in(lambda _model: torch.bfloat16),
        seam=ANGLES,
    ),
    rope(
        "text-rope-theta-default",
        "rotary theta is always 10000, whatever the config says",
        lambda: around(
            port.text, "inverse_frequencies", lambda original, dim, _theta, dtype: original(dim, 10000.0, dtype)
        ),
    ),
    rope(
        "text-mrope-hw-exchanged",
        "height and width use each other's rotary frequencies",
        lambda: result_changed(port.text, "frequency_axes", lambda axes: torch.tensor([0, 2, 1])[axes]),
        needs=PICTURE,
    ),
    rope(
        "text-mrope-sections-one-short",
        "time takes the last rotary frequency of height and of width",
        lambda: around(port.text, "frequency_axes", lambda original, s: original((s[0] + 2, s[1] - 1, s[2] - 1))),
        seam=ANGLES,
        needs=PICTURE,
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of cosine and sine",
    ),
    rope(
        "text-mrope-last-frequencies-still",
        "the last rotary frequencies, where height and width have no place left, do not turn",
        lambda: around(
            port.text,
            "mrope_cos_sin",
            lambda original, ids, inv_freq, axes: original(ids, inv_freq * _turning(axes), axes),
        ),
        seam=ANGLES,
        needs=frozenset({"forward", "places left to time"}),
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of cosine and sine",
        real=True,
        source="llama.cpp b11434, ggml_mrope_cache_init (is_imrope), found by its log-probabilities",
    ),
    rope(
        "text-rope-table-too-short",
        "positions beyond 48 use the angles of position 48",
        lambda: _rotary_changed(lambda ids: ids.clamp(max=48)),
        step="*",
        needs=frozenset({"48 positions"}),
    ),
    rope(
        "text-rope-later-rows-of-row-0",
        "every row uses the rotary angles of row 0",
        lambda: _rotary_changed(lambda ids: ids[:, :1].expand_as(ids)),
        needs=BATCH,
    ),
    rope(
        "text-rope-repeated-pairs",
        "rotary angles are laid out for pairs of neighbouring channels",
        lambda: result_changed(port.text, "mrope_cos_sin", _repeated_pairs),
    ),
    rope(
        "text-rope-sin-negated",
        "the rotary sine has the wrong sign",
        lambda: altered("text.rope_sin", torch.neg),
        seam="text.rope_sin",
    ),
    rope(
        "text-rope-sin-in-bf16",
        "the rotary sine is always rounded to bfloat16",
        lambda: altered("text.rope_sin", lambda sin: rounded(sin, torch.bfloat16)),
        seam="text.rope_sin",
        dtypes=(FLOAT32,),
        invisible="bfloat16: it is bfloat16 anyway",
    ),
    mask(
        "prefill-causal-mask-inverted-condition",
        "attention is not masked in the prefill",
        lambda: _mask_changed(_future_shown),
        real=True,
        source="candle HEAD 2a13b0f3f mod.rs:70",
    ),
    mask("mask-shows-the-next-token", "every token also attends to the next one", lambda: _mask_changed(_next_shown)),
    mask("mask-hides-the-token-itself", "tokens do not attend to themselves", lambda: _mask_changed(_self_hidden)),
    mask(
        "mask-shows-padding",
        "tokens attend to padding",
        lambda: _mask_changed(_padding_shown),
        step="*",
        needs=BATCH,
    ),
    mask(
        "mask-shows-padding-in-decode",
        "decode steps attend to padding",
        lambda: _mask_changed(_padding_shown_in_decode),
        step="decode 1",
        needs=BATCH,
    ),
    mask(
        "mask-of-row-0",
        "every row uses the padding of row 0",
        lambda: _mask_changed(_padding_of_row_0),
        step="*",
        needs=BATCH,
    ),
    mask("mask-sliding-window", "tokens attend to the last 16 tokens only", lambda: _mask_changed(_window)),
    mask(
        "mask-of-chunks-from-zero",
        "the mask of a later chunk counts its queries from 0",
        lambda: _mask_changed(_chunk_from_zero),
        needs=frozenset({"chunked"}),
    ),
]
