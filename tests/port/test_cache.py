"""The causal mask and the KV cache. Legend: B, S, T = batch, new tokens, all tokens so far."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from port import InputError, Qwen3VLConfig
from port.cache import KVCache
from port.text import causal_mask
from tests.port.port_samples import raw_config

CONFIG = Qwen3VLConfig.from_dict(raw_config()).text


@settings(max_examples=80, deadline=None)
@given(
    visible=st.integers(1, 8).flatmap(
        lambda total: st.lists(st.lists(st.booleans(), min_size=total, max_size=total), min_size=1, max_size=3)
    ),
    data=st.data(),
)
def test_the_mask_lets_each_token_see_real_tokens_up_to_itself(visible: list[list[bool]], data: st.DataObject) -> None:
    total = len(visible[0])
    tokens = data.draw(st.integers(1, total))
    mask = causal_mask(torch.tensor(visible), tokens)
    assert mask.shape == (len(visible), 1, tokens, total)
    assert mask.dtype == torch.bool
    for row, real in enumerate(visible):
        for query in range(tokens):
            at = total - tokens + query
            expected = [key == at or (key < at and real[key]) for key in range(total)]
            assert mask[row, 0, query].tolist() == expected


def test_padding_is_unseen_on_either_side_and_sees_itself() -> None:
    left, right = [False, True, True], [True, True, False]
    mask = causal_mask(torch.tensor([left, right]), 3)[:, 0].int().tolist()
    assert mask == [[[1, 0, 0], [0, 1, 0], [0, 1, 1]], [[1, 0, 0], [1, 1, 0], [1, 1, 1]]]


def _cache(batch: int = 2, capacity: int = 5) -> KVCache:
    return KVCache(CONFIG, batch, capacity, dtype=torch.float64, device=torch.device("cpu"))


def _part(batch: int, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, batch, 2, tokens, 16, generator=generator, dtype=torch.float64)
    return keys, values


def test_every_layer_gets_back_all_that_was_stored_in_it() -> None:
    cache = _cache()
    stored: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {layer: [] for layer in range(5)}
    for step, tokens in enumerate((2, 1, 2)):
        cache.extend(torch.ones(2, tokens))
        for layer in range(5):
            stored[layer].append(_part(2, tokens, seed=10 * step + layer))
            keys, values = cache.update(layer, *stored[layer][-1])
            assert torch.equal(keys, torch.cat([part[0] for part in stored[layer]], dim=2))
            assert torch.equal(values, torch.cat([part[1] for part in stored[layer]], dim=2))
    assert cache.length == cache.capacity == 5
    assert all(torch.equal(cache.layer(i)[0], torch.cat([p[0] for p in stored[i]], dim=2)) for i in range(5))


def test_only_the_capacity_is_taken_and_more_is_refused_with_all_numbers() -> None:
    cache = _cache(capacity=3)
    cache.extend(torch.ones(2, 2))
    with pytest.raises(InputError, match="2 rows of 3 tokens, of which 2 are used; 2 rows of 2 more"):
        cache.extend(torch.ones(2, 2))
    assert cache.length == 2, "a refused extension changes nothing"
    cache.extend(torch.ones(2, 1))
    assert cache.length == 3
    with pytest.raises(InputError, match="larger capacity"):
        cache.extend(torch.ones(2, 1))


def test_another_batch_size_is_refused() -> None:
    with pytest.raises(InputError, match="2 rows of 5 tokens"):
        _cache().extend(torch.ones(3, 1))


def test_next_positions_count_real_tokens_and_add_each_rows_own_delta() -> None:
    cache = _cache(batch=3, capacity=8)
    cache.extend(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]))
    cache.rope_delta = torch.tensor([[0], [-2], [5]])
    assert cache.visible.int().tolist() == [[0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]
    positions = cache.next_positions(2)
    assert positions.shape == (3, 3, 2)
    assert [positions[axis].tolist() for axis in range(3)] == [[[2, 3], [1, 2], [9, 10]]] * 3
    cache.extend(torch.ones(3, 2))
    assert cache.next_positions(1)[0].tolist() == [[4], [3], [11]]
