"""Sampling compared with transformers' own logits processors. Legend: B, V = rows, vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from port import GenerationConfig, InputError
from port.sampling import (
    adjusted,
    choose,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    mark_seen,
    penalise_repetition,
    row_generators,
)

NOTHING = torch.zeros(1, 0, dtype=torch.long)
INF = math.inf
# Few values, so that ties are common; -inf as an earlier processor leaves it, never in a whole row.
_VALUES = st.sampled_from([-INF, -3.0, -1.5, -0.0, 0.0, 0.25, 1.5, 1.5000001, 4.0, 30.0])


@st.composite
def logits_rows(draw: st.DrawFn) -> Tensor:
    """(B, V) float32, a finite number in every row; half of the time with ties, else without."""
    rows, width = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    values = draw(st.sampled_from([_VALUES, st.floats(-20, 20, width=32)]))
    grid = [draw(st.lists(values, min_size=width, max_size=width)) for _ in range(rows)]
    for row in grid:
        if all(value == -INF for value in row):
            row[draw(st.integers(0, width - 1))] = 0.5
    return torch.tensor(grid, dtype=torch.float32)


def _same(found: Tensor, wanted: Tensor) -> None:
    assert found.dtype == wanted.dtype == torch.float32
    assert torch.equal(found, wanted), f"{found.tolist()}\n{wanted.tolist()}"


@settings(max_examples=300, deadline=None)
@given(logits=logits_rows(), k=st.integers(1, 14))
@example(logits=torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]]), k=2)
@example(logits=torch.tensor([[-INF, 2.0, -INF, 1.0]]), k=3)
def test_top_k_is_that_of_transformers(logits: Tensor, k: int) -> None:
    _same(keep_top_k(logits, k), TopKLogitsWarper(k)(NOTHING, logits))


@settings(max_examples=300, deadline=None)
@given(logits=logits_rows(), p=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5, 0.8, 1 - 1e-7])))
@example(logits=torch.zeros(1, 4), p=0.5)
@example(logits=torch.tensor([[5.0, 5.0, -INF, 5.0]]), p=0.0)
def test_top_p_is_that_of_transformers(logits: Tensor, p: float) -> None:
    _same(keep_top_p(logits, p), TopPLogitsWarper(p)(NOTHING, logits))


@settings(max_examples=300, deadline=None)
@given(logits=logits_rows(), p=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.05])))
@example(logits=torch.tensor([[1.0, 1.0, 0.0]]), p=1.0)
def test_min_p_is_that_of_transformers(logits: Tensor, p: float) -> None:
    _same(keep_min_p(logits, p), MinPLogitsWarper(p)(NOTHING, logits))


@settings(max_examples=200, deadline=None)
@given(logits=logits_rows(), penalty=st.floats(0.1, 10), data=st.data())
def test_the_repetition_penalty_is_that_of_transformers(logits: Tensor, penalty: float, data: st.DataObject) -> None:
    rows, width = logits.shape
    ids = data.draw(st.lists(st.lists(st.integers(0, width - 1), min_size=3, max_size=3), min_size=rows, max_size=rows))
    tokens = torch.tensor(ids)
    seen = mark_seen(torch.zeros_like(logits, dtype=torch.bool), tokens)
    _same(penalise_repetition(logits, seen, penalty), RepetitionPenaltyLogitsProcessor(penalty)(tokens, logits))


def test_padding_is_not_seen_unless_the_row_has_the_same_token() -> None:
    nothing = torch.zeros(3, 6, dtype=torch.bool)
    tokens = torch.tensor([[5, 5, 1, 2], [1, 2, 5, 5], [5, 5, 5, 1]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]])
    seen = mark_seen(nothing, tokens, mask)
    assert [row.nonzero().flatten().tolist() for row in seen] == [[1, 2], [1, 2], [1, 5]]
    assert not nothing.any(), "the argument is not written to"
    more = mark_seen(seen, torch.tensor([[0], [1], [3]]))
    assert [row.nonzero().flatten().tolist() for row in more] == [[0, 1, 2], [1, 2], [1, 3, 5]]


@settings(max_examples=300, deadline=None)
@given(
    logits=logits_rows(),
    temperature=st.floats(0.05, 4),
    k=st.integers(0, 8),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    penalty=st.floats(0.3, 3),
    data=st.data(),
)
def test_all_together_in_the_order_of_transformers(
    logits: Tensor, temperature: float, k: int, top_p: float, min_p: float, penalty: float, data: st.DataObject
) -> None:
    tokens = torch.tensor([[data.draw(st.integers(0, logits.shape[1] - 1))] for _ in logits])
    config = GenerationConfig(
        do_sample=True, temperature=temperature, top_k=k, top_p=top_p, min_p=min_p, repetition_penalty=penalty
    )
    theirs = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature)])
    if k:
        theirs.append(TopKLogitsWarper(k))
    theirs += [TopPLogitsWarper(top_p), MinPLogitsWarper(min_p)] if top_p < 1 else [MinPLogitsWarper(min_p)]
    seen = mark_seen(torch.zeros_like(logits, dtype=torch.bool), tokens)
    _same(adjusted(logits, config, seen), theirs(tokens, logits))


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.5}, {"top_k": 1}, {"top_p": 0.1}, {"min_p": 0.9}],
    ids=lambda change: next(iter(change)),
)
def test_greedy_takes_no_notice_of_what_is_for_sampling(change: dict[str, float]) -> None:
    logits = torch.tensor([[0.0, 2.0, 1.5]])
    assert torch.equal(adjusted(logits, GenerationConfig(**change)), logits)  # type: ignore[arg-type]
    assert not torch.equal(adjusted(logits, GenerationConfig(do_sample=True, **change)), logits)  # type: ignore[arg-type]


def test_the_penalty_holds_for_greedy_too_and_needs_to_know_the_tokens() -> None:
    logits, config = torch.tensor([[2.0, 1.9]]), GenerationConfig(repetition_penalty=1.5)
    seen = torch.tensor([[True, False]])
    assert choose(adjusted(logits, config, seen), config, row_generators(1, 0)).tolist() == [1]
    with pytest.raises(InputError, match=r"repetition_penalty is 1\.5"):
        adjusted(logits, config)


def test_low_precision_is_widened_first() -> None:
    config = GenerationConfig(do_sample=True, temperature=0.7)
    logits = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    assert torch.equal(adjusted(logits, config), logits.float() / 0.7)


SAMPLED = GenerationConfig(do_sample=True)


@pytest.mark.parametrize("seed", [0, 1, 7, 2**40])
def test_a_row_alone_draws_what_transformers_draws_after_the_same_seed(seed: int) -> None:
    generator = torch.Generator().manual_seed(99)
    rows = torch.randn(50, 1, 300, generator=generator)
    own = row_generators(1, seed)
    found = [int(choose(logits, SAMPLED, own)) for logits in rows]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wanted = [int(torch.multinomial(logits.softmax(dim=-1), num_samples=1)) for logits in rows]
    assert found == wanted
    assert len(set(found)) > 10


def _draws(logits: Tensor, seed: int, count: int) -> list[list[int]]:
    generators = row_generators(len(logits), seed)
    return [choose(logits, SAMPLED, generators).tolist() for _ in range(count)]


def test_a_seed_decides_and_rows_do_not_disturb_each_other() -> None:
    logits = torch.randn(4, 40, generator=torch.Generator().manual_seed(3))
    found = _draws(logits, 5, 20)
    assert found == _draws(logits, 5, 20)
    assert found != _draws(logits, 6, 20)
    other = logits.clone()
    other[2:] = other[2:].flip(1)
    assert [row[:2] for row in _draws(other, 5, 20)] == [row[:2] for row in found], "rows 0 and 1 as before"
    assert [row[:2] for row in _draws(logits[:2], 5, 20)] == [row[:2] for row in found], "and without rows 2 and 3"


def test_equal_rows_of_one_batch_draw_differently_and_unlike_the_next_seed() -> None:
    logits = torch.zeros(3, 50)
    by_row = list(zip(*_draws(logits, 0, 20), strict=True))
    after = list(zip(*_draws(logits, 1, 20), strict=True))
    assert len({*by_row, *after}) == 6


def _chi_square(counts: list[int], probabilities: list[float]) -> float:
    total = sum(counts)
    return sum((count - total * p) ** 2 / (total * p) for count, p in zip(counts, probabilities, strict=True))


@pytest.mark.parametrize(
    ("config", "keep"),
    [
        (SAMPLED, lambda _: True),
        (GenerationConfig(do_sample=True, temperature=2.0), lambda _: True),
        (GenerationConfig(do_sample=True, top_k=4), lambda place: place < 4),
        (GenerationConfig(do_sample=True, temperature=0.8, top_p=0.75), lambda place: place < 3),
    ],
    ids=["plain", "temperature", "top-k", "top-p"],
)
def test_frequencies_follow_the_probabilities(config: GenerationConfig, keep: Callable[[int], bool]) -> None:
    # Probabilities 8/24, 6/24, 4/24, 3/24, 2/24, 1/24: what is kept is worked out by hand.
    weights = [8, 6, 4, 3, 2, 1]
    logits = torch.tensor([weights], dtype=torch.float64).log().float()
    sharpened = [weight ** (1 / config.temperature) if keep(at) else 0.0 for at, weight in enumerate(weights)]
    probabilities = [value / sum(sharpened) for value in sharpened]
    ready = adjusted(logits, config)
    generators = row_generators(1, 12)
    counts = [0] * len(weights)
    for _ in range(6000):
        counts[int(choose(ready, config, generators))] += 1
    kept = [at for at, p in enumerate(probabilities) if p]
    assert sum(counts[at] for at in kept) == 6000, counts
    # 99.9 % of correct samplers stay below: 20.5 at five degrees of freedom, less at fewer.
    assert _chi_square([counts[at] for at in kept], [probabilities[at] for at in kept]) < 20.5, counts
