"""The check for NaN and Inf agrees with torch on every kind of number, and reads every number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from port.finite import _BLOCK_BYTES, all_finite
from port.kernels import KERNELS, FastKernels, made_kernels
from port.kernels.native import INFINITY, wrong_kernels

Check = Callable[[Tensor], bool]

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(params=KERNELS)
def finite(request: pytest.FixtureRequest) -> Check:
    """The check with each kind of kernels."""
    kernels = made_kernels(request.param)
    return lambda tensor: all_finite(tensor, kernels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_number_is_judged_as_torch_does(dtype: torch.dtype, finite: Check) -> None:
    numbers = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    found = torch.tensor([finite(number) for number in numbers.split(1)])
    assert torch.equal(found, torch.isfinite(numbers))


@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_at_the_ends_of_their_range(dtype: torch.dtype, finite: Check) -> None:
    limits = torch.finfo(dtype)
    numbers = [limits.max, limits.min, limits.tiny, -limits.tiny, limits.tiny / 2, 0.0, -0.0]
    ends = torch.tensor(numbers, dtype=torch.float64).to(dtype)
    assert torch.isfinite(ends).all()
    assert finite(ends)
    beyond = torch.nextafter(torch.tensor(limits.max, dtype=dtype), torch.tensor(torch.inf, dtype=dtype))
    assert not finite(torch.stack([*ends, beyond]))
    assert not finite(torch.stack([*ends, -beyond]))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_number_is_found_wherever_it_stands(dtype: torch.dtype, bad: float, finite: Check) -> None:
    step = _BLOCK_BYTES // torch.empty(0, dtype=dtype).element_size()
    numbers = torch.full((2 * step + 3,), -1.5, dtype=dtype)
    assert finite(numbers)
    for at in (0, 1, step - 1, step, 2 * step - 1, 2 * step, 2 * step + 2):
        numbers[at] = bad
        assert not finite(numbers), at
        numbers[at] = -1.5


def test_any_shape_and_dtype(finite: Check) -> None:
    assert finite(torch.tensor(1.0))
    assert not finite(torch.tensor(torch.nan))
    assert finite(torch.empty(0, 3))
    assert not finite(torch.full((2, 3, 4), torch.nan, dtype=torch.bfloat16))
    assert finite(torch.tensor([-1, 0, 1]))
    assert not finite(torch.tensor([complex(torch.inf, 0)]))


def test_floats_that_are_not_at_multiples_of_their_size(finite: Check) -> None:
    numbers = torch.zeros(4 * 9 + 1, dtype=torch.uint8)
    misplaced = torch.frombuffer(numbers.numpy()[1:], dtype=torch.float32)
    assert misplaced.data_ptr() % 4
    assert finite(misplaced)
    misplaced[7] = torch.inf
    assert not finite(misplaced)


def test_compiled_kernels_that_miss_infinity_are_found() -> None:
    fast = made_kernels("fast")
    if not isinstance(fast, FastKernels) or fast.native is None:
        pytest.skip("no compiled kernels")
    assert wrong_kernels(fast.native) == []
    blind = replace(fast.native, finite=dict.fromkeys((2, 4, 8), lambda *_: 1))
    assert wrong_kernels(blind) == [f"finite of {dtype}" for dtype in INFINITY]
