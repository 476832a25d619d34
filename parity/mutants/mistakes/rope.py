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
from parity.mutants.base import BFLOAT16, FLOAT32, Mutant, altered, around, replaced, rounded
from port.text import TextModel

ANGLES = "text.rope_cos|text.rope_sin"  # a cosine hardly shows small angles
PICTURE, FORWARD = frozenset({"picture"}), frozenset({"forward"})


@contextmanager
def _sequential() -> Iterator[None]:
    """Angles of plain counting; the three-axis positions are made, and not used."""
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
    """``change(position_ids)`` makes the positions that the angles are made of."""
    return around(TextModel, "rotary", lambda original, self, ids, dtype: original(self, change(ids), dtype))


def _inv_freq_changed(change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    return around(port.text, "inverse_frequencies", lambda original, *args: change(original(*args)))


def _angles_in(dtype_of: Callable[[torch.dtype], torch.dtype]) -> AbstractContextManager[None]:
    """Positions times frequencies in ``dtype_of(model's dtype)``."""

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


def _time_alone_in_new_dialect(original: Any, section: Any) -> Any:
    """The sections are looked for under rope_scaling only, and without them one axis turns everything."""
    theta, sections = original(section)
    return (theta, (sum(sections), 0, 0)) if section.raw.get("rope_parameters") else (theta, sections)


def _repeated_pairs(original: Any, *args: Any) -> tuple[Tensor, Tensor]:
    """Each angle twice in a row, not the whole row of angles twice."""
    return tuple(x[..., : x.shape[-1] // 2].repeat_interleave(2, dim=-1) for x in original(*args))


def _mask_changed(change: Callable[[Tensor, Tensor, int], Tensor]) -> AbstractContextManager[None]:
    """``change(mask, visible, tokens)`` makes the mask (B, 1, S, T)."""

    def wrapper(original: Any, visible: Tensor, tokens: int) -> Tensor:
        return change(original(visible, tokens), visible, tokens)

    return around(port.model, "causal_mask", wrapper)


def _future_shown(mask: Tensor, _visible: Tensor, tokens: int) -> Tensor:
    return torch.ones_like(mask) if tokens > 1 else mask


def _next_shown(mask: Tensor, visible: Tensor, tokens: int) -> Tensor:
    """Every token sees the one after it."""
    total = visible.shape[1]
    query, key = torch.arange(total - tokens, total).unsqueeze(1), torch.arange(total)
    return mask | ((key == query + 1) & visible[:, None, :]).unsqueeze(1)


def _self_hidden(mask: Tensor, visible: Tensor, tokens: int) -> Tensor:
    """No token sees itself, but for the first one, which would see nothing."""
    total = visible.shape[1]
    query, key = torch.arange(total - tokens, total).unsqueeze(1), torch.arange(total)
    hidden = mask & (key != query)
    return torch.where(hidden.any(dim=-1, keepdim=True), hidden, mask)


def _padding_shown(mask: Tensor, visible: Tensor, tokens: int) -> Tensor:
    return port.text.causal_mask(torch.ones_like(visible), tokens)


def _padding_shown_in_decode(mask: Tensor, visible: Tensor, tokens: int) -> Tensor:
    return mask if tokens > 1 else _padding_shown(mask, visible, tokens)


def _padding_of_row_0(mask: Tensor, visible: Tensor, tokens: int) -> Tensor:
    return port.text.causal_mask(visible[:1].expand_as(visible), tokens)


def _window(mask: Tensor, visible: Tensor, tokens: int) -> Tensor:
    """No token sees further back than 16 tokens."""
    total = visible.shape[1]
    query, key = torch.arange(total - tokens, total).unsqueeze(1), torch.arange(total)
    return mask & (query - key < 16)


def _chunk_from_zero(mask: Tensor, visible: Tensor, tokens: int) -> Tensor:
    """A later chunk's queries are counted from 0: it sees none of the chunks before beyond its own length."""
    total = visible.shape[1]
    if tokens in (1, total):
        return mask
    query, key = torch.arange(tokens).unsqueeze(1), torch.arange(total)
    early = ((key <= query) & visible[:, None, :]).unsqueeze(1)
    return torch.where(early.any(dim=-1, keepdim=True), early, mask)


def _rope(id: str, title: str, plant: Any, needs: frozenset[str] = FORWARD, **more: Any) -> Mutant:
    seam, step = more.pop("seam", "text.rope_cos"), more.pop("step", "prefill")
    return Mutant(id=id, title=title, component="text-rope", seam=seam, step=step, plant=plant, needs=needs, **more)


def _mask(id: str, title: str, change: Any, needs: frozenset[str] = FORWARD, **more: Any) -> Mutant:
    step = more.pop("step", "prefill")
    return Mutant(
        id=id, title=title, component="mask", seam="text.causal_mask", step=step,
        plant=lambda: _mask_changed(change), needs=needs, **more,
    )  # fmt: skip


MUTANTS = [
    _rope(
        "text-rope-sequential-1d",
        "angles of plain counting; the three-axis positions are not used",
        _sequential,
        PICTURE,
        real=True,
        source="mistral.rs 530463af1 -> dd8d0c6f9; candle HEAD; mlx-lm #1768; Liger-Kernel #276",
    ),
    _rope(
        "text-mrope-contiguous-sections",
        "the three axes have blocks of frequencies, as in Qwen2-VL",
        lambda: replaced(port.text, "frequency_axes", _contiguous),
        PICTURE,
        real=True,
        source="MNN #4133; ollama < #12807; mlx-node #80",
    ),
    _rope(
        "mrope-section-key-missed",
        "the sections are looked for under rope_scaling only",
        lambda: around(port.config, "_rope", _time_alone_in_new_dialect),
        frozenset({"picture", "rope parameters"}),
        loads=True,
        real=True,
        source="kekzl/imp #1174; mlx-lm #1768; mobilint/mblt-model-zoo #93",
    ),
    _rope(
        "rope-freqs-in-bf16",
        "positions times frequencies in the model's dtype",
        lambda: _angles_in(lambda model: model),
        frozenset({"long"}),
        real=True,
        source="candle #3005; utensils/mold #964",
        dtypes=(BFLOAT16,),
        invisible="float32: the model's dtype is float32, nothing is rounded",
        seam=ANGLES,
    ),
    _rope(
        "rope-freqs-always-bf16",
        "positions times frequencies in bfloat16 in every model",
        lambda: _angles_in(lambda _model: torch.bfloat16),
        seam=ANGLES,
    ),
    _rope(
        "text-rope-theta-default",
        "theta is 10000, whatever the config says",
        lambda: around(
            port.text, "inverse_frequencies", lambda original, dim, _theta, dtype: original(dim, 10000.0, dtype)
        ),
    ),
    _rope(
        "text-mrope-hw-exchanged",
        "height turns the frequencies of width and width those of height",
        lambda: around(port.text, "frequency_axes", lambda original, s: torch.tensor([0, 2, 1])[original(s)]),
        PICTURE,
    ),
    _rope(
        "text-mrope-sections-one-short",
        "the last frequency of height and width turns with time",
        lambda: around(port.text, "frequency_axes", lambda original, s: original((s[0] + 2, s[1] - 1, s[2] - 1))),
        PICTURE,
        seam=ANGLES,
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of cosine and sine",
    ),
    _rope(
        "text-rope-table-too-short",
        "positions beyond 48 have the angles of position 48",
        lambda: _rotary_changed(lambda ids: ids.clamp(max=48)),
        frozenset({"48 positions"}),
        step="*",
    ),
    _rope(
        "text-rope-later-rows-of-row-0",
        "every row turns by the angles of row 0",
        lambda: _rotary_changed(lambda ids: ids[:, :1].expand_as(ids)),
        frozenset({"batch"}),
    ),
    _rope(
        "text-rope-repeated-pairs",
        "each angle stands twice in a row",
        lambda: around(port.text, "mrope_cos_sin", _repeated_pairs),
    ),
    _rope(
        "text-rope-sin-negated",
        "angles turn the other way",
        lambda: altered("text.rope_sin", torch.neg),
        seam="text.rope_sin",
    ),
    _rope(
        "text-rope-sin-in-bf16",
        "the sine is rounded to bfloat16 in every model",
        lambda: altered("text.rope_sin", lambda sin: rounded(sin, torch.bfloat16)),
        seam="text.rope_sin",
        dtypes=(FLOAT32,),
        invisible="bfloat16: it is bfloat16 there",
    ),
    _mask(
        "prefill-causal-mask-inverted-condition",
        "the prefill is not masked",
        _future_shown,
        real=True,
        source="candle HEAD 2a13b0f3f mod.rs:70",
    ),
    _mask("mask-shows-the-next-token", "every token sees the one after it", _next_shown),
    _mask("mask-hides-the-token-itself", "no token sees itself", _self_hidden),
    _mask("mask-shows-padding", "padding is seen", _padding_shown, frozenset({"batch"}), step="*"),
    _mask(
        "mask-shows-padding-in-decode",
        "padding is seen by decode steps",
        _padding_shown_in_decode,
        frozenset({"batch"}),
        step="decode 1",
    ),
    _mask("mask-of-row-0", "every row has the padding of row 0", _padding_of_row_0, frozenset({"batch"}), step="*"),
    _mask("mask-sliding-window", "no token sees further back than 16 tokens", _window),
    _mask(
        "mask-of-chunks-from-zero",
        "the queries of a later chunk are counted from 0",
        _chunk_from_zero,
        frozenset({"chunked"}),
    ),
]
