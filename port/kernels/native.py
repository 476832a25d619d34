"""The compiled kernels as functions of tensors. They are for the CPU, without gradients, and check nothing.

Shape legend: see ``plain``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from port.kernels.build import NoKernels, compiled
from port.kernels.plain import PLAIN, Mask

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float64: "float64"}
# The bits of infinity: those of the exponent. A float is NaN or Inf if it has them all.
INFINITY = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00, torch.float32: 0x7F800000, torch.float64: 0x7FF << 52}
_POINTER, _LONG, _INT, _DOUBLE = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_double
_ARGUMENTS: dict[str, list[Any]] = {
    "linears": [_POINTER] * 2 + [_INT] + [_LONG] * 2 + [_INT],
    "rms_norm": [_POINTER] * 3 + [_LONG] * 2 + [_DOUBLE, _INT],
    "rotary": [_POINTER] * 4 + [_LONG] * 4 + [_INT],
    "swiglu": [_POINTER] * 3 + [_LONG, _INT],
    "attention": [_POINTER] * 6 + [_INT],
}


Layer = tuple[Tensor, Tensor | None]  # weight (O, C) and bias (O,)


class _Product(ctypes.Structure):
    _fields_ = [("w", _POINTER), ("bias", _POINTER), ("y", _POINTER), ("columns", _LONG)]


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, _LONG) for name in ("batch", "queries", "heads", "kv_heads", "keys", "width")),
        *((f"q_{name}", _LONG) for name in ("batch", "token", "head")),
        *((f"k_{name}", _LONG) for name in ("batch", "head", "token")),
        *((f"v_{name}", _LONG) for name in ("batch", "head", "token")),
        ("scale", _DOUBLE),
    ]


@dataclass(frozen=True, eq=False)
class Native:
    """The functions of the library, by name and dtype."""

    functions: dict[tuple[str, torch.dtype], Callable[..., None]]
    rotary_wide: Callable[..., None]  # bfloat16 with angles in float32
    finite: Mapping[int, Callable[..., int]]  # by the bytes of a number

    def all_finite(self, tensor: Tensor) -> bool:
        """Whether a contiguous tensor of a dtype in ``INFINITY`` holds neither NaN nor Inf. Uses one thread."""
        function = self.finite[tensor.element_size()]
        return bool(function(tensor.data_ptr(), tensor.numel(), INFINITY[tensor.dtype]))

    def linears(self, x: Tensor, layers: Sequence[Layer], rows: int) -> list[Tensor]:
        """x (..., C) of ``rows`` rows times at most three weights (O, C), each with a bias (O,) or None: (..., O)."""
        x = x.contiguous()
        lead = x.shape[:-1]
        outs = [x.new_empty((*lead, weight.shape[0])) for weight, _ in layers]
        products = (_Product * len(layers))()
        for product, (weight, bias), out in zip(products, layers, outs, strict=True):
            product.w, product.y, product.columns = weight.data_ptr(), out.data_ptr(), out.shape[-1]
            product.bias = None if bias is None else bias.data_ptr()
        self.functions["linears", x.dtype](
            x.data_ptr(), ctypes.addressof(products), len(layers), rows, x.shape[-1], torch.get_num_threads()
        )
        return outs

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        width = x.shape[-1]
        out = torch.empty_like(x)
        self.functions["rms_norm", x.dtype](
            x.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            x.numel() // width,
            width,
            eps,
            torch.get_num_threads(),
        )
        return out

    def rotary(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (..., H, D) with its rows at equal distances, cos and sin (..., 1, D), contiguous."""
        heads, width = x.shape[-2:]
        out = torch.empty(x.shape, dtype=x.dtype)
        function = self.functions["rotary", x.dtype] if cos.dtype == x.dtype else self.rotary_wide
        function(
            x.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            out.data_ptr(),
            x.numel() // (heads * width),
            heads,
            width,
            heads * width if x.is_contiguous() else x.stride(-3),
            torch.get_num_threads(),
        )
        return out

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        self.functions["swiglu", gate.dtype](
            gate.data_ptr(), up.data_ptr(), out.data_ptr(), gate.numel(), torch.get_num_threads()
        )
        return out

    def attention(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        """q (B, H, S, D), k and v (B, K, T, D), seen (B, 1, S, T) bool, contiguous -> (B, H, S, D)."""
        batch, heads, queries, width = q.shape
        out = torch.empty(batch, queries, heads, width, dtype=q.dtype)
        q_batch, q_head, q_token, _ = q.stride()
        shape = _Shape(
            batch, queries, heads, k.shape[1], k.shape[2], width,
            q_batch, q_token, q_head, *k.stride()[:3], *v.stride()[:3], width**-0.5,
        )  # fmt: skip
        self.functions["attention", q.dtype](
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            seen.data_ptr(),
            out.data_ptr(),
            ctypes.addressof(shape),
            torch.get_num_threads(),
        )
        return out.transpose(1, 2)


@cache
def native() -> Native | NoKernels:
    """The compiled kernels, or the reason why there are none. Compiles them on first use."""
    try:
        library = ctypes.CDLL(str(compiled()))
        functions = {
            (name, dtype): _function(library, f"{name}_{word}", arguments)
            for name, arguments in _ARGUMENTS.items()
            for dtype, word in DTYPES.items()
        }
        finite = {size: _finite(library, f"finite_{8 * size}") for size in (2, 4, 8)}
        made = Native(functions, _function(library, "rotary_bfloat16_float32", _ARGUMENTS["rotary"]), finite)
    except NoKernels as reason:
        return reason
    except (OSError, AttributeError) as error:
        return NoKernels(f"the library cannot be loaded: {error}")
    wrong = wrong_kernels(made)
    return NoKernels(f"{', '.join(wrong)} gave wrong numbers; is the compiler sound?") if wrong else made


def _function(library: ctypes.CDLL, name: str, arguments: list[Any]) -> Callable[..., None]:
    function: Callable[..., None] = getattr(library, name)
    function.argtypes, function.restype = arguments, None  # type: ignore[attr-defined]
    return function


def _finite(library: ctypes.CDLL, name: str) -> Callable[..., int]:
    function: Callable[..., int] = getattr(library, name)
    function.argtypes, function.restype = [_POINTER, _LONG, _LONG], _INT  # type: ignore[attr-defined]
    return function


def wrong_kernels(made: Native) -> list[str]:
    """The kernels that differ from torch in float64 by more than rounding, on small tensors. Takes a few ms."""
    made_with = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=made_with, dtype=torch.float64)

    x, w, b, scale = random(5, 75), random(7, 75), random(7), random(75)
    heads, angles = random(5, 3, 16), random(5, 1, 16)
    q, k, v = random(2, 4, 3, 16), random(2, 2, 9, 16), random(2, 2, 9, 16)
    mask = Mask((random(2, 1, 3, 9) > 0) | torch.ones(3, 9).tril().bool())
    wrong = []
    with torch.no_grad():
        for dtype, word in DTYPES.items():
            tolerance = 8 * torch.finfo(dtype).eps
            calls: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Any, ...]]] = {
                "linears": (
                    lambda x, w, b: torch.cat(made.linears(x, [(w, b), (w[2:], None)], 5), dim=1),
                    lambda x, w, b: torch.cat([PLAIN.linear(x, w, b), PLAIN.linear(x, w[2:])], dim=1),
                    (x, w, b),
                ),
                "rms_norm": (
                    lambda x, w: made.rms_norm(x, w, 1e-6),
                    lambda x, w: PLAIN.rms_norm(x, w, 1e-6),
                    (x, scale),
                ),
                "rotary": (made.rotary, PLAIN.rotary, (heads, angles.cos(), angles.sin())),
                "swiglu": (made.swiglu, PLAIN.swiglu, (x, x.flip(0))),
                "attention": (
                    lambda q, k, v: made.attention(q, k, v, mask.seen),
                    lambda q, k, v: PLAIN.attention(q, k, v, mask),
                    (q, k, v),
                ),
            }
            for name, (fast, plain, inputs) in calls.items():
                given = [tensor.to(dtype) for tensor in inputs]
                found, exact = fast(*given).double(), plain(*(tensor.double() for tensor in given))
                if not bool((found - exact).norm() <= tolerance * exact.norm()):
                    wrong.append(f"{name} of {word}")
        wrong += [f"finite of {dtype}" for dtype in INFINITY if not _finds_infinity(made, dtype)]
    return wrong


def _finds_infinity(made: Native, dtype: torch.dtype) -> bool:
    limits = torch.finfo(dtype)
    sound = torch.tensor([limits.max, limits.min, limits.tiny, 0.0, -0.0], dtype=dtype).repeat(15)[:71]
    bad = ((0, torch.inf), (70, -torch.inf), (36, torch.nan))
    wrong = [sound.index_fill(0, torch.tensor([place]), number) for place, number in bad]
    return made.all_finite(sound) and not any(map(made.all_finite, wrong))
