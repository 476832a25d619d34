"""The fast kernels compute what the plain ones compute, and step aside where they are not wanted."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from port import InputError, Inputs, Qwen3VL, listening
from port.kernels import PLAIN, FastKernels, Mask, kernels_of, use_kernels
from port.kernels import build as build_module
from port.kernels import fast as fast_module
from port.kernels.build import NoKernels, compiled
from port.kernels.fast import FEW_QUERIES, FEW_ROWS, fast_kernels
from port.kernels.native import Native, native, wrong_kernels
from tests.port.port_samples import ROWS, batch

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
needs_compiler = pytest.mark.skipif(not isinstance(native(), Native), reason=f"no compiled kernels: {native()}")
VARIANTS: dict[str, Callable[[], FastKernels]] = {
    "this machine": fast_kernels,
    "no compiler": lambda: FastKernels(None, widen=False),
    "no compiler, no bfloat16": lambda: FastKernels(None, widen=True),
}


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def _random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_products(variant: str, rows: int, dtype: torch.dtype) -> None:
    """Widths and columns that are no multiples of anything, and several weights at once."""
    kernels = VARIANTS[variant]()
    for width in (7, 64, 75):
        x, w, other = (
            _random(rows, width, dtype=dtype),
            _random(13, width, dtype=dtype),
            _random(2, width, dtype=dtype),
        )
        bias = _random(13, dtype=dtype)
        exact = [
            layer.double() for layer in PLAIN.linears(x.double(), (w.double(), bias.double()), (other.double(), None))
        ]
        found = kernels.linears(x.unsqueeze(0), (w, bias), (other, None))
        for part, right in zip(found, exact, strict=True):
            assert (part.dtype, part.shape) == (dtype, (1, *right.shape))
            assert error(part[0], right) < 4 * torch.finfo(dtype).eps
        assert torch.equal(kernels.linear(x, w, bias), found[0][0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("queries", [1, 3, FEW_QUERIES + 1, 12])
@pytest.mark.parametrize("padded", [False, True])
def test_attention(queries: int, dtype: torch.dtype, variant: str, padded: bool) -> None:
    """Grouped heads, cached keys in front, padding; the tensors are views of larger ones."""
    kernels = VARIANTS[variant]()
    q = _random(2, queries, 6, 16, dtype=dtype).transpose(1, 2)
    cached = _random(2, 2, 30, 16, dtype=dtype)
    k, v = cached.narrow(2, 0, 12), cached.flip(2).narrow(2, 5, 12)
    seen = torch.ones(queries, 12).tril(12 - queries).bool().expand(2, 1, queries, 12).clone()
    if padded:
        seen[1, :, :, :3] = False
        for query in range(queries):
            seen[1, :, query, 12 - queries + query] = True
    exact = PLAIN.attention(q.double(), k.double(), v.double(), Mask(seen))
    found = kernels.attention(q, k, v, Mask(seen))
    assert (found.dtype, found.shape) == (dtype, q.shape)
    assert error(found, exact) < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_norms_rotations_and_gates(variant: str, dtype: torch.dtype) -> None:
    kernels = VARIANTS[variant]()
    x, weight = _random(2, 3, 75, dtype=dtype), _random(75, dtype=dtype)
    exact = PLAIN.rms_norm(x.double(), weight.double(), 1e-6)
    assert error(kernels.rms_norm(x, weight, 1e-6), exact) < 4 * torch.finfo(dtype).eps
    big = 40 * x
    assert error(kernels.swiglu(big, x), PLAIN.swiglu(big.double(), x.double())) < 4 * torch.finfo(dtype).eps
    exact = PLAIN.gelu_tanh(big.double())
    assert error(kernels.gelu_tanh(big.clone()), exact) < 4 * torch.finfo(dtype).eps
    heads, angle = _random(2, 3, 4, 16, dtype=dtype), _random(2, 3, 1, 16, dtype=torch.float32)
    for angles in {dtype, torch.promote_types(dtype, torch.float32)}:
        cos, sin = angle.cos().to(angles), angle.sin().to(angles)
        exact = PLAIN.rotary(heads.double(), cos.double(), sin.double())
        assert error(kernels.rotary(heads, cos, sin), exact) < 4 * torch.finfo(dtype).eps
    qkv = _random(6, 3, 4, 16, dtype=dtype)
    cos, sin = angle.reshape(6, 1, 16).cos().to(dtype), angle.reshape(6, 1, 16).sin().to(dtype)  # (B*S, 1, D)
    q = qkv.unbind(1)[1]
    exact = PLAIN.rotary(q.double(), cos.double(), sin.double())
    assert error(kernels.rotary(q, cos, sin), exact) < 4 * torch.finfo(dtype).eps


def test_weights_are_widened_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last part is smaller than the others, and no part is larger than asked for."""
    monkeypatch.setattr(fast_module, "WIDENED_AT_ONCE", 4 * 64)
    widened: list[int] = []
    plain = F.linear

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        widened.append(weight.numel())
        return plain(x, weight, bias)

    kernels = FastKernels(None, widen=True)
    x, w, bias = (_random(*shape, dtype=torch.bfloat16) for shape in ((3, 40, 64), (13, 64), (13,)))
    exact = PLAIN.linear(x.double(), w.double(), bias.double())
    monkeypatch.setattr(F, "linear", linear)
    found = kernels.linear(x, w, bias)
    assert widened == [256, 256, 256, 64]
    assert error(found, exact) < 4 * torch.finfo(torch.bfloat16).eps


def test_gelu_needs_no_new_memory() -> None:
    x = torch.randn(2, 64)
    assert fast_kernels().gelu_tanh(x).data_ptr() == x.data_ptr()


def test_gelu_leaves_its_input_alone_where_gradients_are_wanted() -> None:
    x = torch.randn(2, 64, requires_grad=True)
    given = x.detach().clone()
    fast_kernels().gelu_tanh(x).sum().backward()
    assert torch.equal(x, given)
    assert x.grad is not None


@needs_compiler
@pytest.mark.parametrize("name", ["linears", "rms_norm", "swiglu", "attention", "rotary"])
def test_kernels_that_compute_something_else_are_not_used(name: str) -> None:
    """Each is replaced by one that computes nothing, so its results are what the memory held."""
    good = native()
    assert isinstance(good, Native)
    assert wrong_kernels(good) == []

    class Broken(Native):
        pass

    def zero(*_arguments: Any) -> None:
        return None

    bad = Broken(
        {key: zero if key[0] == name else value for key, value in good.functions.items()}, good.rotary_wide, good.finite
    )
    assert {wrong.split(" of ")[0] for wrong in wrong_kernels(bad)} == {name}


@needs_compiler
def test_nan_stays_nan() -> None:
    kernels = fast_kernels()
    x, w = torch.ones(1, 64), torch.ones(4, 64)
    x[0, 5] = torch.nan
    assert kernels.linear(x, w).isnan().all()
    assert kernels.linear(x.bfloat16(), w.bfloat16()).isnan().all()
    assert kernels.rms_norm(x, w[0], 1e-6).isnan().all()
    assert kernels.swiglu(x, w[:1])[0, 5].isnan()
    q = torch.ones(1, 1, 1, 64)
    keys = q.expand(1, 1, 3, 64).clone()
    keys[0, 0, 1, 0] = torch.nan
    assert kernels.attention(q, keys, torch.ones(1, 1, 3, 64), Mask(torch.ones(1, 1, 1, 3).bool())).isnan().all()


@needs_compiler
def test_a_hidden_key_is_not_read() -> None:
    kernels = fast_kernels()
    q, keys = torch.ones(1, 1, 1, 16), torch.ones(1, 1, 3, 16)
    seen = torch.tensor([True, False, True]).view(1, 1, 1, 3)
    broken = keys.clone()
    broken[:, :, 1] = torch.nan
    assert torch.equal(kernels.attention(q, broken, broken, Mask(seen)), torch.ones(1, 1, 1, 16))


class _Watching(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_under_a_dispatch_mode_torch_computes() -> None:
    """Whoever watches or replaces operations must see all of them."""
    kernels, x, w = fast_kernels(), torch.randn(2, 64), torch.randn(4, 64)
    with torch.no_grad(), _Watching() as watching:
        kernels.linear(x, w)
        kernels.swiglu(x, x)
        kernels.rms_norm(x, w[0], 1e-6)
    assert {"mm", "silu", "mean"} <= set(watching.names)


def test_where_gradients_are_wanted_torch_computes() -> None:
    x, w = torch.randn(2, 64, requires_grad=True), torch.randn(4, 64)
    fast_kernels().linear(x, w).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, w.sum(0).expand(2, 64))


@pytest.mark.parametrize("row", ["text", "mixed"])
def test_the_whole_model_is_the_same(model: Qwen3VL, row: str) -> None:
    """In float64, with a cache and a decode step."""
    inputs = batch([ROWS[row]])
    fast = copy.deepcopy(model)
    use_kernels(fast, "fast")
    assert (kernels_of(model), kernels_of(fast)) == (PLAIN, fast_kernels())
    with torch.no_grad():
        both = [_run(each, inputs) for each in (model, fast)]
    assert (both[0] - both[1]).abs().max() < 1e-10 * both[0].abs().max()


def _run(model: Qwen3VL, inputs: Inputs) -> Tensor:
    cache = model.new_cache(1, inputs.input_ids.shape[1] + 1)
    return torch.cat([model.prefill(inputs, cache), model.decode(torch.tensor([[5]]), cache)], dim=1)


def test_listening_does_not_change_the_path(model: Qwen3VL) -> None:
    """The path that is fast is the path that is judged: bit for bit the same with a listener."""
    inputs = batch([ROWS["mixed"]])
    fast = copy.deepcopy(model)
    use_kernels(fast, "fast")
    with torch.no_grad():
        quiet = _run(fast, inputs)
        with listening(lambda _name, value: value):
            heard = _run(fast, inputs)
    assert torch.equal(quiet, heard)


def test_unknown_kernels_are_refused(model: Qwen3VL) -> None:
    with pytest.raises(InputError, match="'slow'; they must be one of fast, plain"):
        use_kernels(model, "slow")


# -- compiling ---------------------------------------------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(build_module.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path / "kernels"


@needs_compiler
def test_the_library_is_compiled_once_and_only_loaded_if_it_is_the_users_own(own_cache: Path) -> None:
    library = compiled()
    assert (library.parent, library.stat().st_mode & 0o777) == (own_cache, 0o500)
    made = library.stat().st_mtime_ns
    assert compiled() == library
    assert library.stat().st_mtime_ns == made
    assert list(own_cache.iterdir()) == [library], "nothing else is left"
    library.chmod(0o722)
    with pytest.raises(NoKernels, match=r"could have been written by others .*mode 722"):
        compiled()
    library.unlink()
    library.symlink_to("/bin/true")
    with pytest.raises(NoKernels, match="could have been written by others"):
        compiled()
    library.unlink()
    own_cache.chmod(0o777)
    with pytest.raises(NoKernels, match="could have been written by others"):
        compiled()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "no C\\+\\+ compiler was found \\(broken-compiler\\)"),
        ("exit 1", "does not run"),
        ('[ "$1" = --version ] && echo broken 1 || { echo "no such flag" >&2; exit 3; }', "ended with 3: no such flag"),
    ],
)
def test_without_a_compiler_that_works_the_reason_is_told(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, message: str
) -> None:
    if script is not None:
        compiler = tmp_path / "broken-compiler"
        compiler.write_text(f"#!/bin/sh\n{script}\n")
        compiler.chmod(0o700)
    monkeypatch.setenv(build_module.COMPILER_VARIABLE, "broken-compiler")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(NoKernels, match=message):
        compiled()
    reason = native.__wrapped__()  # without the cache
    assert isinstance(reason, NoKernels)
    described = FastKernels(None, widen=False, reason=str(reason)).describe()
    assert described["compiled"].startswith("no: ")
    assert not own_cache.exists() or list(own_cache.iterdir()) == []


@needs_compiler
def test_a_library_that_cannot_be_loaded_is_a_reason_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.so"
    other.write_bytes(b"no library")
    monkeypatch.setattr("port.kernels.native.compiled", lambda: other)
    assert "cannot be loaded" in str(native.__wrapped__())
