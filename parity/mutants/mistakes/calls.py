"""Mistakes in the model's other calls, and bad input that is accepted."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

import port.config
import port.model
import port.picture
import port.processor
import port.prompt
import port.weights
from parity.mutants.base import around, family, replaced
from port.cache import KVCache
from port.json_fields import Fields
from port.model import Inputs, Qwen3VL
from port.text import TextModel


def _last_by(rule: Any) -> AbstractContextManager[None]:
    """``rule(mask)`` is the place of each row's last token."""
    return replaced(port.model, "last_real", rule)


def _without_cache(change: Any) -> AbstractContextManager[None]:
    """``change(original, *args, **options)`` runs the language model in the calls without a cache."""

    def forward(original: Any, self: TextModel, *args: Any, cache: Any = None, **options: Any) -> Tensor:
        if cache is not None:
            return original(self, *args, cache=cache, **options)
        return change(original, self, *args, **options)

    return around(TextModel, "forward", forward)


def _no_deepstack(original: Any, self: TextModel, *args: Any, deepstack: Any = None) -> Tensor:
    return original(self, *args)


def _no_padding_mask(original: Any, self: TextModel, embeds: Any, positions: Any, mask: Tensor, **rest: Any) -> Tensor:
    return original(self, embeds, positions, torch.ones_like(mask).tril(), **rest)


def _one_position(original: Any, self: KVCache, tokens: int) -> Tensor:
    return original(self, tokens)[..., :1].expand(-1, -1, tokens)


def _chunks_overlap(
    original: Any, self: Qwen3VL, inputs: Inputs, cache: KVCache, *, chunk: int | None = None
) -> Tensor:
    """In chunks, the last token is looked for one place too early."""
    if chunk is None:
        return original(self, inputs, cache)
    with replaced(port.model, "last_real", lambda mask: (_last(mask) - 1).clamp(min=0)):
        return original(self, inputs, cache, chunk=chunk)


_last = port.model.last_real


def _unchecked_inputs(original: Any, self: Qwen3VL, inputs: Inputs) -> None:
    """Pixels are not looked at."""
    with replaced(torch, "isfinite", torch.ones_like):
        original(self, inputs)


def _accepts_any(field: str) -> AbstractContextManager[None]:
    """A field that may have one value only may have any."""

    def require(original: Any, self: Fields, name: str, only: Any) -> None:
        if name != field:
            original(self, name, only)

    return around(Fields, "require", require)


calls = family(component="calls", step="other calls", stage="calls", needs=frozenset({"other calls"}))
accepted = family(component="refusals", step="refusals", stage="refusals", needs=frozenset({"bad input"}))

MUTANTS = [
    calls(
        "last-token-by-count",
        "the last token of a row is looked for at the number of its tokens",
        lambda: _last_by(lambda mask: mask.long().sum(dim=1) - 1),
        seam="prefill_last.logits",
        needs=frozenset({"other calls", "left"}),
    ),
    calls(
        "last-token-at-the-end",
        "the last token of a row is taken to be at the end",
        lambda: _last_by(lambda mask: torch.full((len(mask),), mask.shape[1] - 1)),
        seam="prefill_last.logits",
        needs=frozenset({"other calls", "right"}),
    ),
    calls(
        "last-token-of-chunk-early",
        "in chunks, the last token of a row is looked for one place early",
        lambda: around(Qwen3VL, "prefill_last", _chunks_overlap),
        seam="prefill_last.chunked",
    ),
    calls(
        "forward-without-deepstack",
        "without a cache, DeepStack features are not added",
        lambda: _without_cache(_no_deepstack),
        seam="forward.logits",
    ),
    calls(
        "forward-sees-padding",
        "without a cache, padding is attended to",
        lambda: _without_cache(_no_padding_mask),
        seam="forward.logits",
        needs=frozenset({"other calls", "left"}),
    ),
    calls(
        "several-tokens-at-one-position",
        "several tokens that are fed at once all have the position of the first",
        lambda: around(KVCache, "next_positions", _one_position),
        seam="decode.several",
    ),
    accepted(
        "nan-pixels-accepted",
        "pixels are not checked for NaN",
        lambda: around(Qwen3VL, "_check", _unchecked_inputs),
        seam="refused.tensors.NaN in pixels",
    ),
    accepted(
        "other-rope-accepted",
        "a rope of another type is taken for the default one",
        lambda: _accepts_any("rope_type"),
        seam="refused.config.another rope",
    ),
    accepted(
        "other-activation-accepted",
        "another activation in the config is ignored",
        lambda: _accepts_any("hidden_act"),
        seam="refused.config.another activation of the text",
    ),
    accepted(
        "other-kernel-accepted",
        "another kernel of the resize in the config is ignored",
        lambda: _accepts_any("resample"),
        seam="refused.settings.another kernel",
    ),
    accepted(
        "control-tokens-accepted",
        "texts may hold the names of control tokens",
        lambda: replaced(port.prompt, "_PLACEHOLDERS", ()),
        seam="refused.conversation.a vision token in a text",
    ),
    accepted(
        "nan-weights-accepted",
        "weights are not checked for NaN",
        lambda: replaced(port.weights, "all_finite", lambda *_: True),
        seam="refused.checkpoint.NaN in a tensor",
    ),
    accepted(
        "tied-head-not-compared",
        "a tied checkpoint may hold another head",
        lambda: replaced(port.weights, "_check_tied", lambda _checkpoint: None),
        seam="refused.tie.a tied head that differs",
        needs=frozenset({"bad ties"}),
        component="lm-head",
    ),
    accepted(
        "changed-files-accepted",
        "files that were changed while they are used are read on",
        lambda: replaced(Qwen3VL, "check_files", lambda _self: None),
        seam="refused.checkpoint.weights changed while in use",
    ),
]
