"""Mistakes in what is kept: the KV cache, and anything that one request leaves to another.

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

import port.model
from parity.mutants.base import FLOAT32, Mutant, altered, around, rounded
from port.cache import KVCache
from port.model import Inputs, Qwen3VL

FORWARD, REQUESTS = frozenset({"forward"}), frozenset({"requests"})


def _update_changed(change: Callable[[KVCache, int, Tensor, Tensor], None]) -> AbstractContextManager[None]:
    """``change(cache, layer, keys, values)`` works on the cache after the newest (B, K, S, D) were stored."""

    def wrapper(original: Any, self: KVCache, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        original(self, layer, keys, values)
        change(self, layer, keys, values)
        return self.layer(layer)

    return around(KVCache, "update", wrapper)


def _keys_rounded(cache: KVCache, layer: int, keys: Tensor, _values: Tensor) -> None:
    cache._keys[layer, :, :, cache.length - keys.shape[2] : cache.length] = rounded(keys, torch.float16)


def _values_over_keys(cache: KVCache, layer: int, keys: Tensor, values: Tensor) -> None:
    cache._keys[layer, :, :, cache.length - keys.shape[2] : cache.length] = values


def _keys_over_values(cache: KVCache, layer: int, keys: Tensor, values: Tensor) -> None:
    cache._values[layer, :, :, cache.length - keys.shape[2] : cache.length] = keys


def _values_one_early(cache: KVCache, layer: int, keys: Tensor, values: Tensor) -> None:
    """A decode step's values also overwrite those of the token before."""
    if keys.shape[2] == 1:
        cache._values[layer, :, :, cache.length - 2] = values[:, :, 0]


def _newest_key_stale(cache: KVCache, layer: int, keys: Tensor, _values: Tensor) -> None:
    """A decode step's slot keeps the key of the token before."""
    if keys.shape[2] == 1:
        cache._keys[layer, :, :, cache.length - 1] = cache._keys[layer, :, :, cache.length - 2].clone()


def _first_slot_overwritten(cache: KVCache, layer: int, keys: Tensor, _values: Tensor) -> None:
    """From the third decode step on, new keys also go to row 0's oldest slot, as in a ring that is too small."""
    if keys.shape[2] == 1 and cache.length == cache.capacity - 1:
        oldest = int(cache.visible[0].int().argmax())
        cache._keys[layer, 0, :, oldest] = keys[0, :, 0]


def _chunk_values_lost(cache: KVCache, layer: int, keys: Tensor, values: Tensor) -> None:
    """A later chunk of a prefill leaves its first value out."""
    if keys.shape[2] > 1 and cache.length > keys.shape[2]:
        cache._values[layer, :, :, cache.length - keys.shape[2]] = 0


def _later_rows_shifted(cache: KVCache, layer: int, keys: Tensor, values: Tensor) -> None:
    """Rows but the first get the values of the row before."""
    start = cache.length - keys.shape[2]
    cache._values[layer, 1:, :, start : cache.length] = values[:-1]


@contextmanager
def _delta_on_the_model() -> Iterator[None]:
    """The rope delta is kept on the model: the last prefill's counts for every request."""
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


@contextmanager
def _stale_positions() -> Iterator[None]:
    """The position ids of the first prompt are used again for the prompts after it, as far as they go."""
    first: list[Tensor] = []

    def wrapper(original: Any, ids: Tensor, mask: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        positions, delta = original(ids, mask, **options)
        if not first:
            first.append(positions.clone())
        tokens = min(first[0].shape[-1], positions.shape[-1])
        positions[:, :1, :tokens] = first[0][:, :1, :tokens]
        return positions, delta

    with around(port.model, "mrope_positions", wrapper):
        yield


@contextmanager
def _features_by_ids() -> Iterator[None]:
    """Picture features are kept by token ids: other pixels in the same prompt get the features of the first."""
    kept: dict[bytes, Any] = {}
    ids: list[bytes] = [b""]

    def embed(original: Any, self: Qwen3VL, inputs: Inputs) -> Any:
        ids[0] = inputs.input_ids.numpy().tobytes()
        return original(self, inputs)

    def patch_embed(value: Tensor) -> Tensor:
        return kept.setdefault(ids[0] + bytes(str(value.shape), "ascii"), value)

    with around(Qwen3VL, "embed", embed), altered("vision.patch_embed", patch_embed):
        yield


@contextmanager
def _shared_storage() -> Iterator[None]:
    """All caches lie in the same memory: a request overwrites the keys of another."""
    memory: dict[tuple[int, ...], Tensor] = {}

    def wrapper(original: Any, self: KVCache, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        layers, batch, heads, capacity, width = self._keys.shape
        shape = (layers, batch, heads, 2048, width)
        if shape not in memory:
            memory[shape] = torch.zeros(shape, dtype=self._keys.dtype)
        self._keys = memory[shape][:, :, :, :capacity]

    with around(KVCache, "__init__", wrapper):
        yield


@contextmanager
def _tower_state_kept() -> Iterator[None]:
    """The segment boundaries of the first tower pass are used for every other one that has as many patches."""
    kept: dict[int, Tensor] = {}

    def boundaries(value: Tensor) -> Tensor:
        return kept.setdefault(int(value[-1]), value)

    with altered("vision.cu_seqlens", boundaries):
        yield


def _visible_forgotten(original: Any, self: KVCache, mask: Tensor) -> None:
    """A decode step forgets which of the cached tokens were padding."""
    original(self, mask)
    if mask.shape[1] == 1:
        self._visible[:, : self.length] = True


def _cache(id: str, title: str, seam: str, plant: Any, needs: frozenset[str] = FORWARD, **more: Any) -> Mutant:
    step = more.pop("step", "prefill")
    return Mutant(
        id=id, title=title, component="kv-cache", seam="text.layers.{}.attn." + seam, step=step, plant=plant,
        needs=needs, **more,
    )  # fmt: skip


def _requests(id: str, title: str, seam: str, step: str, plant: Any, **more: Any) -> Mutant:
    return Mutant(
        id=id, title=title, component="kv-cache-decode", seam=seam, step=step, plant=plant, needs=REQUESTS, **more
    )


MUTANTS = [
    _cache(
        "cache-keys-in-f16",
        "keys are kept in float16 (mistral.rs on the CPU, unless MISTRALRS_CPU_KV_F32=1)",
        "k_cache",
        lambda: _update_changed(_keys_rounded),
        source="mistral.rs 0.9.5, made up from its default",
        dtypes=(FLOAT32,),
        invisible="bfloat16: float16 holds nearly every key exactly, within the floor",
    ),
    _cache(
        "cache-values-over-keys", "values are stored as keys", "k_cache", lambda: _update_changed(_values_over_keys)
    ),
    _cache(
        "cache-keys-over-values", "keys are stored as values", "v_cache", lambda: _update_changed(_keys_over_values)
    ),
    _cache(
        "cache-newest-key-stale",
        "a decode step's slot keeps the key of the token before",
        "k_cache",
        lambda: _update_changed(_newest_key_stale),
        step="decode 1",
    ),
    _cache(
        "cache-values-one-early",
        "a decode step's values also overwrite those of the token before",
        "v_cache",
        lambda: _update_changed(_values_one_early),
        step="decode 1",
    ),
    _cache(
        "cache-ring-too-small",
        "the last slot but one also overwrites the oldest key",
        "k_cache",
        lambda: _update_changed(_first_slot_overwritten),
        step="decode 3",
    ),
    _cache(
        "cache-chunk-loses-a-value",
        "a later chunk of a prefill leaves its first value out",
        "v_cache",
        lambda: _update_changed(_chunk_values_lost),
        frozenset({"chunked"}),
    ),
    _cache(
        "cache-rows-shifted",
        "rows but the first get the values of the row before",
        "v_cache",
        lambda: _update_changed(_later_rows_shifted),
        frozenset({"batch"}),
    ),
    Mutant(
        id="cache-forgets-padding",
        title="a decode step forgets which cached tokens were padding",
        component="kv-cache",
        seam="text.causal_mask",
        step="decode 1",
        plant=lambda: around(KVCache, "extend", _visible_forgotten),
        needs=frozenset({"batch"}),
    ),
    _requests(
        "position-ids-stale-on-new-image",
        "the position ids of the first prompt are used again",
        "text.position_ids",
        "prefill",
        _stale_positions,
        real=True,
        source="mlx-vlm, e5592281 (#756), 509699e8 (#761)",
    ),
    _requests(
        "prefix-cache-ignores-pixels",
        "picture features are kept by token ids, whatever the pixels",
        "vision.patch_embed",
        "prefill, images",
        _features_by_ids,
        real=True,
        source="SGLang, #5455",
    ),
    _requests(
        "rope-delta-kept-on-the-model",
        "the rope delta of the last prefill counts for every request",
        "text.position_ids",
        "decode 1",
        _delta_on_the_model,
    ),
    _requests(
        "cache-memory-shared",
        "the caches of all requests lie in the same memory",
        "text.layers.{}.attn.k_cache",
        "decode 1",
        _shared_storage,
    ),
    _requests(
        "segment-boundaries-kept",
        "segment boundaries are kept by the number of patches",
        "vision.cu_seqlens",
        "prefill, images",
        _tower_state_kept,
    ),
]
