"""Taps read and replace tensors, and do nothing without a listener."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from port import Qwen3VL, listening
from port.tap import Tap
from tests.port.port_samples import ROWS, batch


def test_without_a_listener_the_same_object_comes_back() -> None:
    value = torch.ones(3)
    assert Tap("a.")("b", value) is value


def test_a_listener_gets_the_full_name_and_its_answer_is_used() -> None:
    seen = []

    def replace(name: str, value: Tensor) -> Tensor:
        seen.append(name)
        return value + 1

    with listening(replace):
        assert Tap("vision.blocks.3.")("norm1", torch.zeros(1)).item() == 1
    assert seen == ["vision.blocks.3.norm1"]


def _fail_while_listening(tap: Tap, value: Tensor) -> None:
    with listening(lambda _name, _value: torch.full((1,), 2.0)):
        assert tap("x", value).item() == 2
        raise RuntimeError("inside")


def test_listening_ends_with_its_block_also_when_that_fails() -> None:
    tap, value = Tap(""), torch.zeros(1)
    with listening(lambda _name, _value: torch.full((1,), 1.0)):
        with pytest.raises(RuntimeError, match="inside"):
            _fail_while_listening(tap, value)
        assert tap("x", value).item() == 1, "the outer listener is back"
    assert tap("x", value) is value


def test_reading_changes_nothing(model: Qwen3VL) -> None:
    inputs = batch([ROWS["mixed"]])
    quiet = model(inputs)
    names = []

    def read(name: str, value: Tensor) -> Tensor:
        names.append(name)
        return value

    with listening(read):
        heard = model(inputs)
    assert torch.equal(quiet, heard)
    assert len(names) > 100


@pytest.mark.parametrize("seam", ["vision.blocks.2.attn.out", "text.layers.1.deepstack", "text.rope_sin", "text.norm"])
def test_a_replaced_reading_is_what_the_model_goes_on_with(model: Qwen3VL, seam: str) -> None:
    inputs = batch([ROWS["mixed"]])

    def replace(name: str, value: Tensor) -> Tensor:
        return value * 0.5 if name == seam else value

    quiet = model(inputs)
    with listening(replace):
        changed = model(inputs)
    assert (quiet - changed).abs().max() > 1e-3


def test_a_replaced_input_reading_is_used_too(model: Qwen3VL) -> None:
    other = batch([ROWS["text"][::-1]])
    with listening(lambda name, value: other.input_ids if name == "input_ids" else value):
        assert torch.equal(model(batch([ROWS["text"]])), model(other))
