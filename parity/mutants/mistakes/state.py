"""Mistakes in stored state: in the KV cache, and in anything that one request leaves to another.

Shape legend
    B, S, T   batch, new tokens, cached tokens
    K, D      kv heads, head_dim
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from parity.mutants.arithmetic import rounded
from parity.mutants.base import BATCH, FLOAT32, FORWARD, altered, around, family
from parity.mutants.mistakes.positions import Prompt, position_ids_changed
from port.cache import KVCache
from port.model import Inputs, Qwen3VL


def _update_changed(change: Callable[[KVCache, int, Tensor, Tensor], None]) -> AbstractContextManager[None]:
    """``change(cache, layer, keys, values)`` changes the cache after new keys and values (B, K, S, D) are stored."""

    def wrapper(original: Any, self: KVCache, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        original(self, layer, keys, values)
        change(self, layer, keys, values)
        return self.layer(layer)

    return around(KVCache, "update", wrapper)


def _newest(stored: Tensor, cache: KVCache, layer: int, tokens: int) -> Tensor:
    """A view of the newest stored keys or values of a layer (B, K, S, D)."""
    return stored[layer, :, :, cache.length - tokens : cache.length]


def _keys_rounded(cache: KVCache, layer: int, keys: Tensor, _values: Tensor) -> None:
    _newest(cache._keys, cache, layer, keys.shape[2]).copy_(rounded(keys, torch.float16))


def _values_over_keys(cache: KVCache, layer: int, _keys: Tensor, values: Tensor) -> None:
    _newest(cache._keys, cache, layer, values.shape[2]).copy_(values)


def _keys_over_values(cache: KVCache, layer: int, keys: Tensor, _values: Tensor) -> None:
    _newest(cache._values, cache, layer, keys.shape[2]).copy_(keys)


def _values_one_early(cache: KVCache, layer: int, keys: Tensor, values: Tensor) -> None:
    """A decode step's values also overwrite those of the token before."""
    if keys.shape[2] == 1:
        cache._values[layer, :, :, cache.length - 2] = values[:, :, 0]


def _newest_key_stale(cache: KVCache, layer: int, keys: Tensor, _values: Tensor) -> None:
    """A decode step caches the key of the token before."""
    if keys.shape[2] == 1:
        cache._keys[layer, :, :, cache.length - 1] = cache._keys[layer, :, :, cache.length - 2].clone()


def _first_slot_overwritten(cache: KVCache, layer: int, keys: Tensor, _values: Tensor) -> None:
    """The key of the second to last slot also goes to row 0's oldest slot, as in a ring that is too small."""
    if keys.shape[2] == 1 and cache.length == cache.capacity - 1:
        oldest = int(cache.visible[0].int().argmax())
        cache._keys[layer, 0, :, oldest] = keys[0, :, 0]


def _chunk_values_lost(cache: KVCache, layer: int, keys: Tensor, values: Tensor) -> None:
    """A later chunk of a prefill loses its first value."""
    if keys.shape[2] > 1 and cache.length > keys.shape[2]:
        cache._values[layer, :, :, cache.length - keys.shape[2]] = 0


def _later_rows_shifted(cache: KVCache, layer: int, keys: Tensor, values: Tensor) -> None:
    """Every row but the first gets the values of the row before."""
    _newest(cache._values, cache, layer, keys.shape[2])[1:] = values[:-1]


@contextmanager
def _delta_on_the_model() -> Iterator[None]:
    """The rope delta is stored on the model, so that of the latest prefill is used for every request."""
    latest: list[Tensor] = []

    def prefill(original: Any, self: Qwen3VL, inputs: Inputs, cache: KVCache, **options: Any) -> Tensor:
        logits = original(self, inputs, cache, **options)
        latest[:] = [cache.rope_delta]
        return logits

    def next_positions(original: Any, cache: KVCache, tokens: int) -> Tensor:
        own, cache.rope_delta = cache.rope_delta, latest[0][: cache.batch]
        try:
            return original(cache, tokens)
        finally:
            cache.rope_delta = own

    with around(Qwen3VL, "prefill", prefill), around(KVCache, "next_positions", next_positions):
        yield


def _stale_positions() -> AbstractContextManager[None]:
    """Later prompts start with the position ids of the first prompt."""
    first: list[Tensor] = []

    def change(positions: Tensor, _prompt: Prompt) -> Tensor:
        if not first:
            first.append(positions.clone())
        tokens = min(first[0].shape[-1], positions.shape[-1])
        positions[:, :1, :tokens] = first[0][:, :1, :tokens]
        return positions

    return position_ids_changed(change)


@contextmanager
def _features_by_ids() -> Iterator[None]:
    """Picture features are cached by token ids, so other pixels in the same prompt get the features of the first."""
    kept: dict[bytes, Any] = {}
    ids: list[bytes] = [b""]

    def embed(original: Any, self: Qwen3VL, inputs: Inputs) -> Any:
        ids[0] = inputs.input_ids.numpy().tobytes()
        return original(self, inputs)

    def patch_embed(value: Tensor) -> Tensor:
        return kept.setdefault(ids[0] + bytes(str(value.shape), "ascii"), value)

    with around(Qwen3VL, "embed", embed), altered("vision.patch_embed", patch_embed):
        yield


def _shared_storage() -> AbstractContextManager[None]:
    """All caches share the same memory, so a request overwrites the keys of another."""
    memory: dict[tuple[int, ...], Tensor] = {}

    def wrapper(original: Any, self: KVCache, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        layers, batch, heads, capacity, width = self._keys.shape
        shape = (layers, batch, heads, 2048, width)
        if shape not in memory:
            memory[shape] = torch.zeros(shape, dtype=self._keys.dtype)
        self._keys = memory[shape][:, :, :, :capacity]

    return around(KVCache, "__init__", wrapper)


def _segments_kept() -> AbstractContextManager[None]:
    """Segment boundaries are cached by the number of patches."""
    kept: dict[int, Tensor] = {}
    return altered("vision.cu_seqlens", lambda value: kept.setdefault(int(value[-1]), value))


def _visible_forgotten(original: Any, self: KVCache, mask: Tensor) -> None:
    """A decode step forgets which of the cached tokens were padding."""
    original(self, mask)
    if mask.shape[1] == 1:
        self._visible[:, : self.length] = True


keys = family(component="kv-cache", seam="text.layers.{}.attn.k_cache", step="prefill", needs=FORWARD)
values = family(component="kv-cache", seam="text.layers.{}.attn.v_cache", step="prefill", needs=FORWARD)
requests = family(component="kv-cache-decode", needs=frozenset({"requests"}))

MUTANTS = [
    keys(
        "cache-keys-in-f16",
        "keys are cached in float16, as in mistral.rs on the CPU without MISTRALRS_CPU_KV_F32=1",
        lambda: _update_changed(_keys_rounded),
        source="mistral.rs 0.9.5, made up from its default",
        dtypes=(FLOAT32,),
        invisible="bfloat16: float16 holds nearly every key exactly, so within the floor",
    ),
    keys("cache-values-over-keys", "values overwrite the cached keys", lambda: _update_changed(_values_over_keys)),
    values("cache-keys-over-values", "keys overwrite the cached values", lambda: _update_changed(_keys_over_values)),
    keys(
        "cache-newest-key-stale",
        "a decode step caches the key of the token before",
        lambda: _update_changed(_newest_key_stale),
        step="decode 1",
    ),
    values(
        "cache-values-one-early",
        "a decode step also overwrites the values of the token before",
        lambda: _update_changed(_values_one_early),
        step="decode 1",
    ),
    keys(
        "cache-ring-too-small",
        "the second to last slot also overwrites the oldest key",
        lambda: _update_changed(_first_slot_overwritten),
        step="decode 3",
    ),
    values(
        "cache-chunk-loses-a-value",
        "a later chunk of a prefill loses its first value",
        lambda: _update_changed(_chunk_values_lost),
        needs=frozenset({"chunked"}),
    ),
    values(
        "cache-rows-shifted",
        "every row but the first gets the cached values of the row before",
        lambda: _update_changed(_later_rows_shifted),
        needs=BATCH,
    ),
    keys(
        "cache-forgets-padding",
        "a decode step forgets which cached tokens were padding",
        lambda: around(KVCache, "extend", _visible_forgotten),
        seam="text.causal_mask",
        step="decode 1",
        needs=BATCH,
    ),
    requests(
        "position-ids-stale-on-new-image",
        "the position ids of the first prompt are used for later prompts",
        _stale_positions,
        seam="text.position_ids",
        step="prefill",
        real=True,
        source="mlx-vlm, e5592281 (#756), 509699e8 (#761)",
    ),
    requests(
        "prefix-cache-ignores-pixels",
        "picture features are cached by token ids, whatever the pixels",
        _features_by_ids,
        seam="vision.patch_embed",
        step="prefill, images",
        real=True,
        source="SGLang, #5455",
    ),
    requests(
        "rope-delta-kept-on-the-model",
        "the rope delta of the latest prefill is used for every request",
        _delta_on_the_model,
        seam="text.position_ids",
        step="decode 1",
    ),
    requests(
        "cache-memory-shared",
        "the caches of all requests share the same memory",
        _shared_storage,
        seam="text.layers.{}.attn.k_cache",
        step="decode 1",
    ),
    requests(
        "segment-boundaries-kept",
        "attention segments are cached by the number of patches",
        _segments_kept,
        seam="vision.cu_seqlens",
        step="prefill, images",
    ),
]
