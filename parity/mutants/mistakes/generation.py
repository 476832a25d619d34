"""Mistakes around generation: what ``generation_config.json`` says, which logits count, when a row ends, the text.

Shape legend
    B, S, V   rows, prompt tokens, vocabulary
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import port.model as model
from parity.mutants.base import altered, around, family
from port.cache import KVCache
from port.generation_config import GenerationConfig
from port.json_fields import Fields
from port.model import Inputs, Qwen3VL
from port.tokenizer import Tokenizer, TokenStream

# ``port.generate`` is the function; this is its module.
_GENERATE = import_module("port.generate")
_TOKEN = "request *, token *"
_REQUEST = "request *"


def _read(change: Callable[[GenerationConfig, Fields], GenerationConfig]) -> AbstractContextManager[None]:
    """``change(config, fields)`` changes what was read from generation_config.json."""

    def wrapper(original: Any, cls: type[GenerationConfig], folder: Path) -> GenerationConfig:
        return change(original(cls, folder), Fields.read(Path(folder) / "generation_config.json"))

    return around(GenerationConfig, "from_folder", wrapper)


def _top_k_zero_is_default(config: GenerationConfig, _fields: Fields) -> GenerationConfig:
    return replace(config, top_k=config.top_k or 50)


def _top_k_not_by_default(config: GenerationConfig, fields: Fields) -> GenerationConfig:
    return config if fields.has("top_k") else replace(config, top_k=0)


def _samples_with_temperature(config: GenerationConfig, _fields: Fields) -> GenerationConfig:
    return replace(config, do_sample=config.do_sample or config.temperature != 1)


def _samples_by_default(config: GenerationConfig, fields: Fields) -> GenerationConfig:
    return config if fields.has("do_sample") else replace(config, do_sample=True)


def _first_end(config: GenerationConfig, _fields: Fields) -> GenerationConfig:
    return replace(config, eos_token_ids=config.eos_token_ids[:1])


def _padding_ends(config: GenerationConfig, fields: Fields) -> GenerationConfig:
    pad = fields.raw.get("pad_token_id")
    return config if pad is None else replace(config, eos_token_ids=(*config.eos_token_ids, pad))


def _penalty_default(config: GenerationConfig, fields: Fields) -> GenerationConfig:
    return config if fields.has("repetition_penalty") else replace(config, repetition_penalty=1.1)


def _most(change: Callable[[int | None, GenerationConfig], int | None]) -> AbstractContextManager[None]:
    """``change(max_new_tokens, config)`` changes the argument of ``generate``'s loop."""

    def wrapper(original: Any, model: Qwen3VL, inputs: Inputs, config: GenerationConfig, most: int, *rest: Any) -> Any:
        return original(model, inputs, config, change(most, config), *rest)

    return around(_GENERATE, "_steps", wrapper)


def _last(change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    """``change(mask)`` says which token (B,) of each row is the last one."""
    return around(model, "last_real", lambda _original, mask: change(mask))


def _wrong_row(original: Any, self: Qwen3VL, inputs: Inputs, cache: KVCache, **more: Any) -> Tensor:
    return original(self, inputs, cache, **more).roll(1, dims=0)


def _chunk_start(original: Any, self: Qwen3VL, inputs: Inputs, cache: KVCache, **more: Any) -> Tensor:
    """The last chunk's logits are those of its last column, also where a row ends before it."""
    logits = self.prefill(inputs, cache, **more)  # (B, S, V)
    return logits[:, -1]


def _ended(change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    return altered("generation.ended", change)


def _ends_with_any(ended: Tensor) -> Tensor:
    return ended.any().expand_as(ended).clone()


def _all_or_none(ended: Tensor) -> Tensor:
    return ended.all().expand_as(ended).clone()


def _decoded(change: Callable[..., str]) -> AbstractContextManager[None]:
    """``change(original, tokenizer, ids, **options)`` decodes tokens."""
    return around(Tokenizer, "decode", change)


def _with_special(original: Any, self: Tokenizer, ids: Any, **_options: Any) -> str:
    return original(self, ids, skip_special_tokens=False)


def _stripped(original: Any, self: Tokenizer, ids: Any, **options: Any) -> str:
    return original(self, ids, **options).strip()


def _token_by_token(original: Any, self: Tokenizer, ids: Any, **options: Any) -> str:
    return "".join(original(self, [token], **options) for token in ids)


def _pushed(change: Callable[..., str]) -> AbstractContextManager[None]:
    return around(TokenStream, "push", change)


def _half_characters(original: Any, self: TokenStream, token: int) -> str:
    return self._tokenizer.decode([token], skip_special_tokens=True)


def _first_space_lost(original: Any, self: TokenStream, token: int) -> str:
    first = not getattr(self, "_begun", False)
    self._begun = True  # type: ignore[attr-defined]
    piece: str = original(self, token)
    return piece.lstrip() if first else piece


_SHARED: dict[int, Any] = {}


def _streams_shared(original: Any, self: Tokenizer, **options: Any) -> TokenStream:
    """All rows use one stream, as if it were kept on the tokenizer."""
    return _SHARED.setdefault(id(self), original(self, **options))


def _end_forgotten(_original: Any, _self: TokenStream) -> str:
    return ""


_settings = family(
    component="generation-config", stage="generation", step=_REQUEST, seam="generation.settings", needs=frozenset()
)
_eos = family(component="generation-config", stage="generation", step=_REQUEST, seam="generation.eos_token_ids")
_logits = family(component="generate", stage="generation", step=_TOKEN, seam="generation.logits")
_stop = family(component="generate", stage="generation", step=_TOKEN, seam="generation.ended")
_text = family(
    component="generated-text",
    stage="generation",
    step=_REQUEST,
    seam="generation.text.{}|generation.stream.{}",
    needs=frozenset({"text"}),
)

MUTANTS = (
    _settings(
        "top-k-zero-is-default",
        "top_k 0 in the file becomes the default of 50",
        lambda: _read(_top_k_zero_is_default),
        needs=frozenset({"drawing", "no top_k"}),
    ),
    _settings(
        "top-k-not-by-default",
        "without top_k in the file all tokens are kept, not 50",
        lambda: _read(_top_k_not_by_default),
        needs=frozenset({"drawing", "default top_k"}),
    ),
    _settings(
        "temperature-means-drawing",
        "a temperature other than 1 turns drawing on, although do_sample is off",
        lambda: _read(_samples_with_temperature),
        needs=frozenset({"idle settings"}),
    ),
    _settings(
        "drawing-by-default",
        "without do_sample in the file tokens are drawn",
        lambda: _read(_samples_by_default),
        needs=frozenset({"default do_sample"}),
    ),
    _settings(
        "penalty-by-default",
        "without repetition_penalty in the file it is 1.1",
        lambda: _read(_penalty_default),
        needs=frozenset({"default penalty"}),
    ),
    _eos(
        "first-end-token-only",
        "of several end tokens only the first is used",
        lambda: _read(_first_end),
        needs=frozenset({"several end tokens"}),
    ),
    _eos(
        "padding-token-ends",
        "the padding token is an end token too",
        lambda: _read(_padding_ends),
        needs=frozenset({"padding token"}),
    ),
    _logits(
        "last-column-of-padded-rows",
        "the logits of the last column are used, although a row is padded there",
        lambda: around(Qwen3VL, "prefill_last", _chunk_start),
        needs=frozenset({"right"}),
    ),
    _logits(
        "last-token-from-the-mask-sum",
        "the last token is found by counting tokens, which fails with padding on the left",
        lambda: _last(lambda mask: mask.sum(dim=1) - 1),
        needs=frozenset({"left"}),
    ),
    _logits(
        "last-token-one-early",
        "the logits before the last token are used",
        lambda: _last(lambda mask: mask.shape[1] - 2 - mask.flip(1).long().argmax(dim=1)),
        needs=frozenset({"request"}),
    ),
    _logits(
        "first-logits-of-next-row",
        "the first logits of a row are those of the row before",
        lambda: around(Qwen3VL, "prefill_last", _wrong_row),
        needs=frozenset({"several rows"}),
    ),
    _stop(
        "end-stops-all-rows",
        "a row that ends stops all rows",
        lambda: _ended(_ends_with_any),
        needs=frozenset({"mixed ends"}),
    ),
    _stop(
        "ended-row-goes-on",
        "a row that ends goes on until all rows end",
        lambda: _ended(_all_or_none),
        needs=frozenset({"mixed ends"}),
    ),
    _stop(
        "one-token-too-many",
        "max_new_tokens allows one token more",
        lambda: _most(lambda most, _config: (most or 0) + 1),
        needs=frozenset({"stopped by length"}),
    ),
    _stop(
        "one-token-too-few",
        "max_new_tokens allows one token less",
        lambda: _most(lambda most, _config: max(1, (most or 0) - 1)),
        needs=frozenset({"stopped by length", "several tokens"}),
    ),
    _stop(
        "config-length-wins",
        "max_new_tokens of the file wins over the argument",
        lambda: _most(lambda most, config: config.max_new_tokens or most),
        needs=frozenset({"two lengths"}),
    ),
    _stop(
        "end-tokens-ignored",
        "end tokens are ignored, and every row goes on to max_new_tokens",
        lambda: _ended(torch.zeros_like),
        needs=frozenset({"request"}),
    ),
    _text(
        "special-tokens-shown",
        "special tokens are shown in the text",
        lambda: _decoded(_with_special),
        needs=frozenset({"special tokens"}),
    ),
    _text(
        "text-stripped",
        "spaces at both ends of the text are lost",
        lambda: _decoded(_stripped),
        needs=frozenset({"outer spaces"}),
    ),
    _text(
        "text-token-by-token",
        "tokens are decoded one by one, so that characters of several tokens are lost",
        lambda: _decoded(_token_by_token),
        needs=frozenset({"split characters"}),
    ),
    _text(
        "stream-of-half-characters",
        "the stream gives the text of each token, also where a character is not complete",
        lambda: _pushed(_half_characters),
        seam="generation.stream.{}",
        needs=frozenset({"split characters"}),
    ),
    _text(
        "stream-loses-first-space",
        "the stream loses the space before its first word",
        lambda: _pushed(_first_space_lost),
        seam="generation.stream.{}",
        needs=frozenset({"first space"}),
    ),
    _text(
        "streams-shared",
        "all rows share one stream",
        lambda: around(Tokenizer, "stream", _streams_shared),
        seam="generation.stream.{}",
        needs=frozenset({"split characters", "several rows"}),
    ),
    _text(
        "stream-end-forgotten",
        "the stream never gives what it holds back at its end",
        lambda: around(TokenStream, "end", _end_forgotten),
        seam="generation.stream.{}",
        needs=frozenset({"incomplete end"}),
    ),
)
