"""Kernels of other libraries: each part is right, and the port that uses them is a correct run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from parity.core.errors import ParityError
from parity.core.verdict import Verdict
from parity.engines.port import PortEngine
from parity.kernels.base import Kernels, computing_with
from parity.kernels.plain import PlainKernels
from parity.kernels.registry import KERNELS, make_kernels
from parity.runs.case_run import Result
from parity.runs.stages.stage import judge_stage
from port import load_model

# JAX has threads of its own, which do not go well with the processes that other tests start. It gets its own process.
IN_ITS_OWN_PROCESS = "jax"
_DEFAULT = " ".join(name for name in ("plain", *KERNELS) if name != IN_ITS_OWN_PROCESS)
EVERY = tuple(os.environ.get("TESTED_KERNELS", _DEFAULT).split())
# float32 sums of a few hundred numbers, in any order
CLOSE = 2e-6


def made(name: str) -> Kernels:
    return PlainKernels() if name == "plain" else make_kernels(name)


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def _parts(dtype: torch.dtype) -> dict[str, tuple[Any, tuple[Tensor, ...]]]:
    """Functions of a model, with their inputs: everything that sums."""
    torch.manual_seed(3)
    x, y = torch.randn(7, 96, dtype=dtype), torch.randn(96, 11, dtype=dtype)
    q, k, v = torch.randn(2, 6, 9, 16, dtype=dtype), *torch.randn(2, 2, 2, 300, 16, dtype=dtype)
    hidden = torch.rand(2, 1, 9, 300) < 0.3
    weight, bias = torch.rand(96, dtype=dtype), torch.rand(96, dtype=dtype)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden, enable_gqa=True)

    def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k[:, :, :9], v[:, :, :9], is_causal=True, enable_gqa=True)

    return {
        "mm": (torch.mm, (x, y)),
        "one row": (torch.mm, (x[:1], y)),
        "addmm": (lambda b, x, w: F.linear(x, w, b), (bias[:11], x, y.t().contiguous())),
        "bmm": (torch.bmm, (torch.randn(3, 5, 96, dtype=dtype), torch.randn(3, 96, 4, dtype=dtype))),
        "convolution": (F.conv3d, (torch.randn(5, 3, 2, 4, 4, dtype=dtype), torch.randn(8, 3, 2, 4, 4, dtype=dtype))),
        "softmax": (lambda x: torch.softmax(30 * x, dim=0), (x,)),
        "layer norm": (lambda x, w, b: F.layer_norm(x + 3, (96,), w, b, 1e-6), (x, weight, bias)),
        "mean": (lambda x: (x * x).mean(-1, keepdim=True), (x,)),
        "mean of one row": (lambda x: (x * x).mean(0), (x[:, :1],)),
        "attention": (attend, (q, k, v)),
        "causal attention": (causal, (q, k, v)),
        "silu": (F.silu, (4 * x,)),
        "cos": (torch.cos, (1000 * x,)),
        "sin": (torch.sin, (x,)),
        "rsqrt": (torch.rsqrt, (x.abs() + 0.1,)),
    }


@pytest.mark.parametrize("part", _parts(torch.float32))
@pytest.mark.parametrize("name", EVERY)
def test_every_part_is_right(name: str, part: str) -> None:
    function, inputs = _parts(torch.float32)[part]
    exact = function(*(tensor.double() for tensor in inputs))
    with torch.no_grad(), computing_with(made(name)):
        found = function(*inputs)
    assert (found.dtype, found.shape) == (torch.float32, exact.shape)
    assert error(found, exact) < CLOSE


@pytest.mark.parametrize("name", EVERY)
def test_bfloat16_is_widened_and_rounded_once(name: str) -> None:
    function, inputs = _parts(torch.bfloat16)["mm"]
    with torch.no_grad(), computing_with(made(name)):
        found = function(*inputs)
    exact = function(*(tensor.double() for tensor in inputs))
    assert found.dtype == torch.bfloat16
    assert error(found, exact) < 2**-9  # half an ulp at most


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_plain_order_is_that_of_a_loop(rows: int) -> None:
    torch.manual_seed(rows)
    left, right = torch.randn(rows, 333), torch.randn(333, 5)
    product, total = np.zeros((rows, 5), np.float32), np.zeros(rows, np.float32)
    for index in range(333):
        product += left.numpy()[:, index : index + 1] * right.numpy()[index]
        total += left.numpy()[:, index]
    found = PlainKernels().matmul(left.unsqueeze(0), right.unsqueeze(0)).squeeze(0)
    # A processor may add a product without rounding it first (FMA).
    assert error(found, torch.from_numpy(product).double()) < 1.2e-7
    assert (PlainKernels().sum_rows(left).numpy() == total).all()


def test_plain_order_is_less_accurate_than_blas_and_chunks_lie_between() -> None:
    """The floors need the widest correct order, and one that is bounded in cost."""
    torch.manual_seed(0)
    shares, values = torch.rand(1, 64, 3000), torch.randn(1, 3000, 32)
    exact = shares.double() @ values.double()
    plain, chunks = (error(PlainKernels(chunk).matmul(shares, values), exact) for chunk in (1, 8))
    assert plain > chunks > 0
    assert plain > 1.5 * error(shares @ values, exact)


def test_sums_that_are_not_replaced_are_an_error() -> None:
    with pytest.raises(ParityError, match=r"calls aten\.mv"), computing_with(PlainKernels()):
        torch.mv(torch.ones(2, 2), torch.ones(2))


def test_what_torch_does_not_take_apart_in_inference_mode_is_replaced_too() -> None:
    rows, weight = torch.randn(5, 96), torch.rand(96)
    with computing_with(PlainKernels()):
        expected = F.layer_norm(rows, (96,), weight)
        with torch.inference_mode():
            found = F.layer_norm(rows, (96,), weight)
    assert torch.equal(found, expected)


def test_other_convolutions_and_means_are_an_error() -> None:
    with computing_with(PlainKernels()):
        with pytest.raises(ParityError, match="only a kernel of the size of a patch"):
            F.conv3d(torch.ones(1, 1, 4, 4, 4), torch.ones(1, 1, 2, 2, 2))
        with pytest.raises(ParityError, match="only a mean over one axis"):
            torch.ones(2, 2).mean((0, 1))


def test_outside_the_block_torch_computes_again() -> None:
    x = torch.randn(4, 500)
    before = x @ x.t()
    with computing_with(make_kernels("loops")):
        inside = x @ x.t()
    assert not torch.equal(before, inside)
    assert torch.equal(before, x @ x.t())


@pytest.mark.parametrize("name", EVERY)
def test_the_port_with_other_kernels_is_a_correct_run(name: str, run_port: Any) -> None:
    folder, _, stage = run_port.prepared("batch-2-right")
    result = Result.of([judge_stage(stage, PortEngine(load_model(folder), kernels=made(name)))])
    assert result.judgement.verdict is Verdict.PARITY, result.judgement.reason
    torchs = run_port("batch-2-right").findings
    assert [f.figure for f in result.findings] != [f.figure for f in torchs]


class _Forgetful(PlainKernels):
    """Kernels that leave out one of many keys."""

    def attention(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        if key.shape[1] > 20:
            bias = torch.zeros(query.shape[0], query.shape[1], key.shape[1]) if bias is None else bias.clone()
            bias[:, :, 7] = -torch.inf
        return super().attention(query, key, value, bias, scale)


def test_wrong_kernels_are_not_a_correct_run(run_port: Any) -> None:
    folder, _, stage = run_port.prepared("batch-2-right")
    result = Result.of([judge_stage(stage, PortEngine(load_model(folder), kernels=_Forgetful()))])
    assert result.judgement.verdict is Verdict.DIVERGED
    assert "first divergence at vision.blocks.0.attn.context" in result.judgement.reason


@pytest.mark.slow
@pytest.mark.skipif(EVERY == (IN_ITS_OWN_PROCESS,), reason="this is that process")
def test_jax_passes_the_same_tests_in_a_process_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__, "-k", IN_ITS_OWN_PROCESS],
        env={**os.environ, "TESTED_KERNELS": IN_ITS_OWN_PROCESS},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) >= len(_parts(torch.float32)) + 2


def test_kernels_of_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "parity.kernels.loops", raising=False)
    with pytest.raises(ParityError, match=r"pip install 'qwen3vl-parity\[calibration\]'"):
        make_kernels("loops")
