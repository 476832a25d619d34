"""The check for NaN and Inf agrees with torch on every kind of number, and reads every number."""

from __future__ import annotations

import pytest
import torch

from port.finite import _BLOCK_BYTES, all_finite

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_number_is_judged_as_torch_does(dtype: torch.dtype) -> None:
    numbers = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    found = torch.tensor([all_finite(number) for number in numbers.split(1)])
    assert torch.equal(found, torch.isfinite(numbers))


@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_at_the_ends_of_their_range(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    numbers = [limits.max, limits.min, limits.tiny, -limits.tiny, limits.tiny / 2, 0.0, -0.0]
    ends = torch.tensor(numbers, dtype=torch.float64).to(dtype)
    assert torch.isfinite(ends).all()
    assert all_finite(ends)
    beyond = torch.nextafter(torch.tensor(limits.max, dtype=dtype), torch.tensor(torch.inf, dtype=dtype))
    assert not all_finite(torch.stack([*ends, beyond]))
    assert not all_finite(torch.stack([*ends, -beyond]))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_number_is_found_wherever_it_stands(dtype: torch.dtype, bad: float) -> None:
    step = _BLOCK_BYTES // torch.empty(0, dtype=dtype).element_size()
    numbers = torch.full((2 * step + 3,), -1.5, dtype=dtype)
    assert all_finite(numbers)
    for at in (0, 1, step - 1, step, 2 * step - 1, 2 * step, 2 * step + 2):
        numbers[at] = bad
        assert not all_finite(numbers), at
        numbers[at] = -1.5


def test_any_shape_and_dtype() -> None:
    assert all_finite(torch.tensor(1.0))
    assert not all_finite(torch.tensor(torch.nan))
    assert all_finite(torch.empty(0, 3))
    assert not all_finite(torch.full((2, 3, 4), torch.nan, dtype=torch.bfloat16))
    assert all_finite(torch.tensor([-1, 0, 1]))
    assert not all_finite(torch.tensor([complex(torch.inf, 0)]))
