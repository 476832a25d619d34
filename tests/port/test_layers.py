"""Conv3dNoBias, RMSNorm and rotation compared with their formulas.

Legend: O, C = channels out and in; T, P, Q = kernel; D, H, W = volume.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from port import InputError
from port.layers import Conv3dNoBias, RMSNorm, apply_rotary, rotate_half, wide

BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def _conv(weight: Tensor) -> Conv3dNoBias:
    """The layer with a checkpoint's 5-D tensor."""
    out, channels, *kernel = weight.shape
    layer = Conv3dNoBias(channels, out, kernel_size=(kernel[0], kernel[1], kernel[2]))
    layer.matrix = nn.Parameter(weight.reshape(out, -1).clone(), requires_grad=False)
    return layer


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 6)),
    times=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    rest=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    count=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_conv3d_no_bias_is_torch_conv3d(
    kernel: tuple[int, int, int],
    channels: tuple[int, int],
    times: tuple[int, int, int],
    rest: tuple[int, int, int],
    count: int,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = [k * n + min(r, k - 1) for k, n, r in zip(kernel, times, rest, strict=True)]
    weight = torch.randn(channels[1], channels[0], *kernel, generator=generator, dtype=torch.float64)
    x = torch.randn(count, channels[0], *size, generator=generator, dtype=torch.float64)
    theirs = nn.Conv3d(channels[0], channels[1], kernel, stride=kernel, bias=False, dtype=torch.float64)
    theirs.weight = nn.Parameter(weight)
    ours = _conv(weight)(x)
    expected = theirs(x)
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() < 1e-12


def test_conv3d_no_bias_has_no_bias_and_one_parameter() -> None:
    layer = Conv3dNoBias(3, 5, kernel_size=(2, 4, 4))
    assert [(name, tuple(p.shape)) for name, p in layer.named_parameters()] == [("matrix", (5, 3 * 2 * 4 * 4))]
    assert not _conv(torch.ones(5, 3, 2, 4, 4))(torch.zeros(1, 3, 2, 4, 4)).any()


@pytest.mark.parametrize("dtype", list(BITS))
def test_weight_gives_the_checkpoint_tensor_back_bit_for_bit(dtype: torch.dtype) -> None:
    weight = torch.randn(6, 3, 2, 5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight[0, 0, 0, 0] = torch.tensor([0.0, -0.0, float("inf"), float("nan")], dtype=dtype)
    back = _conv(weight).weight()
    assert back.shape == weight.shape
    assert back.dtype == dtype
    assert torch.equal(back.contiguous().view(BITS[dtype]), weight.view(BITS[dtype]))


def test_weight_is_a_view_not_a_copy() -> None:
    layer = _conv(torch.randn(4, 3, 2, 4, 4))
    assert layer.weight().untyped_storage().data_ptr() == layer.matrix.untyped_storage().data_ptr()
    layer.weight()[1, 2, 1, 3, 0] = 7.0
    assert layer.matrix[1, ((2 * 2 + 1) * 4 + 3) * 4 + 0] == 7.0


@pytest.mark.parametrize("shape", [(1, 2, 2, 4, 4), (1, 4, 2, 4, 4), (1, 3, 1, 4, 4), (1, 3, 2, 3, 4), (1, 3, 2, 4, 3)])
def test_conv3d_no_bias_refuses_wrong_channels_and_too_small_volumes(shape: tuple[int, ...]) -> None:
    layer = _conv(torch.randn(4, 3, 2, 4, 4))
    assert layer(torch.randn(1, 3, 2, 4, 4)).shape == (1, 4, 1, 1, 1)
    with pytest.raises(InputError) as caught:
        layer(torch.randn(shape))
    assert str(shape) in str(caught.value)
    assert "needs 3 channels" in str(caught.value)


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(1, 40), eps=st.sampled_from([1e-6, 1e-5, 1e-1]), scale=st.sampled_from([1e-3, 1.0, 1e3]),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_rms_norm_is_its_formula_in_float64(size: int, eps: float, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 2, size, generator=generator, dtype=torch.float64) * scale
    norm = RMSNorm(size, eps)
    norm.weight = nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64))
    expected = torch.empty_like(x)
    for i in range(3):
        for j in range(2):
            mean_square = sum(value**2 for value in x[i, j].tolist()) / size
            expected[i, j] = x[i, j] / (mean_square + eps) ** 0.5 * norm.weight
    result = norm(x)
    assert result.dtype == torch.float64
    # A float32 island would leave 1e-7.
    assert torch.allclose(result, expected, rtol=1e-13, atol=0)


def test_rms_norm_of_half_precision_is_computed_in_float32_and_rounded_before_the_weight() -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    norm = RMSNorm(64, 1e-6)
    norm.weight = nn.Parameter(torch.randn(64, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16))
    single = x.float()
    normed = (single * torch.rsqrt(single.pow(2).mean(-1, keepdim=True) + 1e-6)).to(torch.bfloat16)
    result = norm(x)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, norm.weight * normed)


def test_wide_is_float32_or_wider() -> None:
    assert [wide(d) for d in (torch.bfloat16, torch.float16, torch.float32, torch.float64)] == [
        torch.float32,
        torch.float32,
        torch.float32,
        torch.float64,
    ]


def test_rotate_half_negates_the_second_half_and_puts_it_first() -> None:
    assert rotate_half(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])).tolist() == [[-4, -5, -6, 1, 2, 3]]
    x = torch.randn(3, 8)
    assert torch.equal(rotate_half(rotate_half(x)), -x)


def test_rotation_is_a_complex_product_of_pairs_half_a_head_apart() -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    angle = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    both = torch.cat([angle, angle], dim=-1)
    turned = torch.complex(x[:, :6], x[:, 6:]) * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat([turned.real, turned.imag], dim=-1)
    assert torch.allclose(apply_rotary(x, both.cos(), both.sin()), expected, rtol=0, atol=1e-14)


def test_the_two_gelus_differ_by_more_than_the_tests_tolerate() -> None:
    # Why a tanh in the mergers, or none in the blocks, cannot hide: they part by 4.7e-4 near 2.2.
    x = torch.linspace(-4, 4, 801, dtype=torch.float64)
    assert (F.gelu(x) - F.gelu(x, approximate="tanh")).abs().max() > 4e-4
