"""Generation compared with full forwards without a cache, in float64. Legend: B, S, V = rows, tokens, vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from port import GenerationConfig, InputError, Inputs, Qwen3VL, Step, generate, generate_all, listening
from port.model import last_real
from port.sampling import adjusted, choose, mark_seen, row_generators
from tests.port import port_samples
from tests.port.port_samples import ROWS, batch

GREEDY = GenerationConfig()
SAMPLED = GenerationConfig(do_sample=True, temperature=1.5, top_k=40, top_p=0.95, repetition_penalty=1.1)
NAMES = list(ROWS)
MIXED = [ROWS[name] for name in NAMES]
NEW = 10
Side = Literal["left", "right"]


def _slow(model: Qwen3VL, row: Sequence[Any], config: GenerationConfig, generator: torch.Generator) -> list[int]:
    """The same by one whole forward pass for each token: no batch, no padding, no cache."""
    prompt = batch([row])
    found: list[int] = []
    for _ in range(NEW):
        ids = torch.cat([prompt.input_ids, torch.tensor([found], dtype=torch.long)], dim=1)
        logits = model(replace(prompt, input_ids=ids, attention_mask=torch.ones_like(ids)))[:, -1]
        seen = mark_seen(torch.zeros_like(logits, dtype=torch.bool), ids)
        found.append(int(choose(adjusted(logits, config, seen), config, [generator])))
    return found


@pytest.fixture(scope="module")
def slow(model: Qwen3VL) -> dict[str, list[list[int]]]:
    """What every row of MIXED should give, alone."""
    return {
        name: [
            _slow(model, row, config, generator)
            for row, generator in zip(MIXED, row_generators(len(MIXED), 0), strict=True)
        ]
        for name, config in (("greedy", GREEDY), ("sampled", SAMPLED))
    }


def test_the_samples_can_tell_rows_tokens_and_ways_apart(slow: dict[str, list[list[int]]]) -> None:
    assert len({tuple(row) for rows in slow.values() for row in rows}) == 2 * len(MIXED)
    assert all(len(set(row)) > 3 for rows in slow.values() for row in rows)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("chunk", [None, 1, 5, 1000])
@pytest.mark.parametrize(("name", "config"), [("greedy", GREEDY), ("sampled", SAMPLED)])
def test_a_padded_batch_gives_what_each_row_gives_alone(
    model: Qwen3VL, slow: dict[str, list[list[int]]], side: Side, chunk: int | None, name: str, config: GenerationConfig
) -> None:
    inputs = batch(MIXED, side=side, extra=2)
    assert generate_all(model, inputs, config, max_new_tokens=NEW, chunk=chunk) == slow[name]


def test_a_rows_sample_does_not_depend_on_its_neighbours(model: Qwen3VL, slow: dict[str, list[list[int]]]) -> None:
    for rows in (1, 2, 3):
        assert generate_all(model, batch(MIXED[:rows]), SAMPLED, max_new_tokens=NEW) == slow["sampled"][:rows]
    swapped = [*MIXED[:2], MIXED[3], MIXED[2]]
    found = generate_all(model, batch(swapped), SAMPLED, max_new_tokens=NEW)
    assert found[:2] == slow["sampled"][:2]
    assert found[2:] != slow["sampled"][2:], "the generator belongs to the place"


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_penalty_does_not_take_padding_for_something_said(model: Qwen3VL, side: Side) -> None:
    config = GenerationConfig(repetition_penalty=5.0)
    (alone,) = generate_all(model, batch(MIXED[:1]), config, max_new_tokens=NEW)
    padded = batch(MIXED[:1], side=side, pad_id=alone[0], extra=3)
    assert generate_all(model, padded, config, max_new_tokens=NEW) == [alone]


def test_the_seed_decides(model: Qwen3VL) -> None:
    inputs = batch(MIXED)
    first = generate_all(model, inputs, SAMPLED, max_new_tokens=NEW, seed=3)
    assert first == generate_all(model, inputs, SAMPLED, max_new_tokens=NEW, seed=3)
    assert first != generate_all(model, inputs, SAMPLED, max_new_tokens=NEW, seed=4)


def test_a_tied_model_generates_too(tied_model: Qwen3VL) -> None:
    wanted = [_slow(tied_model, row, GREEDY, torch.Generator()) for row in MIXED[:2]]
    assert generate_all(tied_model, batch(MIXED[:2], side="right"), GREEDY, max_new_tokens=NEW) == wanted


# Rows that end


def _steps(model: Qwen3VL, inputs: Inputs, ends: Sequence[int], most: int = NEW) -> list[Step]:
    config = GenerationConfig(eos_token_ids=tuple(ends))
    return list(generate(model, inputs, config, max_new_tokens=most))


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_end_at_different_times_and_do_not_disturb_the_others(
    model: Qwen3VL, slow: dict[str, list[list[int]]], side: Side
) -> None:
    greedy = slow["greedy"]
    ends = [greedy[0][1], greedy[1][4]]
    lengths = [next((at + 1 for at, token in enumerate(row) if token in ends), NEW) for row in greedy]
    assert len(set(lengths)) >= 3, "early, late and never"
    steps = _steps(model, batch(MIXED, side=side), ends)
    assert len(steps) == NEW
    for row, length in enumerate(lengths):
        given = [step.tokens[row] for step in steps]
        assert given == [*greedy[row][:length], *[None] * (NEW - length)]


def test_the_loop_stops_when_the_last_row_has_ended(model: Qwen3VL, slow: dict[str, list[list[int]]]) -> None:
    ends = [row[at] for row, at in zip(slow["greedy"], (0, 2, 4, 3), strict=True)]
    lengths = [next(at + 1 for at, token in enumerate(row) if token in ends) for row in slow["greedy"]]
    calls = _Calls(model)
    with calls:
        steps = _steps(model, batch(MIXED), ends)
    assert len(steps) == max(lengths) < NEW
    assert calls.decodes == max(lengths) - 1, "no pass whose logits nobody reads"


@pytest.mark.parametrize("most", [1, 2, NEW])
def test_the_number_of_tokens_ends_it(model: Qwen3VL, slow: dict[str, list[list[int]]], most: int) -> None:
    calls = _Calls(model)
    with calls:
        steps = _steps(model, batch(MIXED), [], most)
    assert [list(row) for row in zip(*(step.tokens for step in steps), strict=True)] == [
        row[:most] for row in slow["greedy"]
    ]
    assert calls.decodes == most - 1


def test_the_number_of_tokens_may_be_the_configs(model: Qwen3VL) -> None:
    config = GenerationConfig(max_new_tokens=3)
    inputs = batch(MIXED[:1])
    assert len(generate_all(model, inputs, config)[0]) == 3
    assert len(generate_all(model, inputs, config, max_new_tokens=2)[0]) == 2


# Cost


class _Calls:
    """Counts the model's decodes and keeps the shapes of its caches, inside the ``with`` block."""

    def __init__(self, model: Qwen3VL) -> None:
        self.model, self.decodes, self.caches = model, 0, list[tuple[int, int]]()

    def __enter__(self) -> None:
        decode, new_cache = self.model.decode, self.model.new_cache

        def counted(*arguments: Any) -> Tensor:
            self.decodes += 1
            return decode(*arguments)

        def noted(batch: int, capacity: int) -> Any:
            self.caches.append((batch, capacity))
            return new_cache(batch, capacity)

        self.model.decode, self.model.new_cache = counted, noted  # type: ignore[method-assign, assignment]

    def __exit__(self, *_: object) -> None:
        del self.model.decode, self.model.new_cache


def test_tokens_come_one_at_a_time(model: Qwen3VL) -> None:
    calls = _Calls(model)
    with calls:
        stream = generate(model, batch(MIXED), GREEDY, max_new_tokens=NEW)
        assert calls.caches == [], "nothing before the first is asked for"
        for count, _ in enumerate(stream):
            assert calls.decodes == count


def test_one_cache_and_no_longer_than_needed(model: Qwen3VL) -> None:
    inputs = batch(MIXED)
    calls = _Calls(model)
    with calls:
        generate_all(model, inputs, GREEDY, max_new_tokens=NEW)
    assert calls.caches == [(len(MIXED), inputs.input_ids.shape[1] + NEW - 1)]


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_prefill_makes_logits_of_the_last_real_token_only(model: Qwen3VL, side: Side, chunk: int | None) -> None:
    inputs = batch(MIXED, side=side, extra=1)
    shapes = []

    def note(name: str, value: Tensor) -> Tensor:
        if name == "logits":
            shapes.append(tuple(value.shape))
        return value

    with listening(note), torch.no_grad():
        last = model.prefill_last(inputs, model.new_cache(4, 200), chunk=chunk)
    assert shapes == [(4, 1, model.config.text.vocab_size)]
    everything = model.prefill(inputs, model.new_cache(4, 200), chunk=chunk)
    for row, logits in enumerate(last):
        torch.testing.assert_close(logits, port_samples.real(everything, inputs, row)[-1], rtol=0, atol=1e-11)


def test_the_last_real_token_of_masks_of_all_kinds() -> None:
    masks = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    assert last_real(masks).tolist() == [3, 3, 1, 2, 0, 3]


# Taps


def test_a_listener_hears_every_step_and_can_change_the_token(model: Qwen3VL) -> None:
    heard: list[str] = []

    def listen(name: str, value: Tensor) -> Tensor:
        heard.append(name)
        if name == "logits":
            value = value.clone()
            value[..., 42] = 1e6
        return value

    with listening(listen):
        assert generate_all(model, batch(MIXED[:2]), GREEDY, max_new_tokens=3) == [[42] * 3] * 2
    assert heard.count("logits") == heard.count("text.layers.0.attn.k_cache") == heard.count("input_ids") == 3


# What is refused


def test_the_number_of_tokens_must_be_given_and_positive(model: Qwen3VL) -> None:
    inputs = batch(MIXED[:1])
    with pytest.raises(InputError, match="max_new_tokens is given neither here nor in the config"):
        generate(model, inputs, GREEDY)
    with pytest.raises(InputError, match="max_new_tokens is 0; it must be at least 1"):
        generate(model, inputs, GREEDY, max_new_tokens=0)


def test_inputs_that_do_not_fit_are_named(model: Qwen3VL) -> None:
    inputs = batch(MIXED[:1])
    with pytest.raises(InputError, match=r"input_ids \(9,\) must be \(batch, tokens\)"):
        generate(model, Inputs(inputs.input_ids[0], inputs.attention_mask[0]), GREEDY, max_new_tokens=1)
    with pytest.raises(InputError, match="rows \\[0\\] of attention_mask are all padding"):
        generate_all(model, Inputs(inputs.input_ids, torch.zeros_like(inputs.attention_mask)), GREEDY, max_new_tokens=1)
    with pytest.raises(InputError, match="chunk is 0"):
        generate_all(model, inputs, GREEDY, max_new_tokens=1, chunk=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_logits_that_are_no_numbers_stop_it(model: Qwen3VL, bad: float, config: GenerationConfig) -> None:
    def spoil(name: str, value: Tensor) -> Tensor:
        if name == "logits":
            value = value.clone()
            value[1, 0, 5] = bad
        return value

    steps = generate(model, batch(MIXED), config, max_new_tokens=NEW)
    next(steps)
    with listening(spoil), pytest.raises(InputError, match=r"new token 2 hold NaN or Inf in rows \[1\]"):
        next(steps)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield
