"""The same computations with what suits the machine: compiled kernels, and products in float32 where that is faster.

Shape legend: see ``plain``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from port.kernels.build import FLAGS, NoKernels
from port.kernels.native import DTYPES, Layer, Native, native
from port.kernels.plain import PLAIN, Mask, PlainKernels

# A product of so few rows reads each weight for little work; torch's libraries are slow there.
FEW_ROWS = 32
# So few queries are attended to one after the other.
FEW_QUERIES = 4
# So many weights are widened at once: 8 MiB in float32, which the product then finds in the processor's cache.
WIDENED_AT_ONCE = 1 << 21


class FastKernels(PlainKernels):
    """Chosen by what the machine has, never by timing, so that a run can be repeated.

    ``native``: compiled kernels, None where there are none. ``widen``: products and attention of bfloat16 are computed
    in float32 and rounded once, because the processor has no instructions for bfloat16 and torch would compute them
    number by number.

    On other devices, for other dtypes, where gradients are wanted, and where a torch dispatch mode watches or replaces
    operations, everything is computed as by ``PlainKernels``.
    """

    name = "fast"

    def __init__(self, native: Native | None, *, widen: bool, reason: str = "") -> None:
        self.native, self.widen, self.reason = native, widen, reason

    def describe(self) -> dict[str, str]:
        few = "torch" if self.native is None else f"compiled kernels up to {FEW_ROWS} rows, then torch"
        return {
            "kernels": self.name,
            "products": few,
            "bfloat16": "computed in float32" if self.widen else "torch",
            "compiled": f"no: {self.reason}" if self.native is None else f"yes, with {' '.join(FLAGS[1:3])}",
        }

    def counted(self, count: Callable[[str], None]) -> FastKernels:
        """The same kernels, which tell ``count`` the name of each compiled kernel that they run."""
        if self.native is None:
            return self

        def telling(name: str, function: Callable[..., None]) -> Callable[..., None]:
            def call(*arguments: Any) -> None:
                count(name)
                function(*arguments)

            return call

        functions = {key: telling(key[0], function) for key, function in self.native.functions.items()}
        return FastKernels(
            replace(self.native, functions=functions, rotary_wide=telling("rotary", self.native.rotary_wide)),
            widen=self.widen,
        )

    def _ours(self, x: Tensor, weight: Tensor) -> bool:
        """Whether these tensors are for the kernels here, and not for torch's."""
        return (
            x.is_cpu
            and x.dtype in DTYPES
            and weight.dtype == x.dtype
            and not (x.requires_grad or weight.requires_grad)
            and not (torch._C._len_torch_dispatch_stack() and _must_see_all())
        )

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.linears(x, (weight, bias))[0]

    def linears(self, x: Tensor, *layers: Layer) -> list[Tensor]:
        if not all(self._ours(x, weight) for weight, _ in layers):
            return super().linears(x, *layers)
        rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
        if self.native is not None and 0 < rows <= FEW_ROWS and all(weight.is_contiguous() for weight, _ in layers):
            return self.native.linears(x, layers, rows)
        if self.widen and x.dtype == torch.bfloat16:
            wide_x = x.float()
            return [_widened_linear(wide_x, *layer) for layer in layers]
        return super().linears(x, *layers)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if self.native is None or not self._ours(x, weight):
            return super().rms_norm(x, weight, eps)
        return self.native.rms_norm(x, weight, eps)

    def rotary(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if self.native is None or not self._ours(x, x) or not _rows_at_equal_distances(x, cos, sin):
            return super().rotary(x, cos, sin)
        return self.native.rotary(x, cos, sin)

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        if self.native is None or not self._ours(gate, up):
            return super().swiglu(gate, up)
        return self.native.swiglu(gate, up)

    def gelu_tanh(self, x: Tensor) -> Tensor:
        if not self._ours(x, x):
            return super().gelu_tanh(x)
        # In place: new memory for a large x costs as much time again.
        out: Tensor = torch.ops.aten.gelu_(x, approximate="tanh")
        return out

    def attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        if not self._ours(q, k) or v.dtype != q.dtype:
            return super().attention(q, k, v, mask)
        if self.native is not None and q.shape[2] <= FEW_QUERIES and _last_dim_dense(q, k, v):
            seen = mask.seen.contiguous()
            if seen.shape == (q.shape[0], 1, q.shape[2], k.shape[2]):
                return self.native.attention(q, k, v, seen)
        dtype, q, k, v = q.dtype, *self._widened(q, k, v)
        if mask.causal:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).to(dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.added(q.dtype), enable_gqa=True).to(dtype)

    def full_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self._ours(q, k):
            return super().full_attention(q, k, v)
        dtype, (q, k, v) = q.dtype, self._widened(q, k, v)
        return F.scaled_dot_product_attention(q, k, v).to(dtype)

    def _widened(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        if self.widen and tensors[0].dtype == torch.bfloat16:
            return tuple(tensor.float() for tensor in tensors)
        return tensors


def _widened_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., C) float32, weight (O, C), bias (O,) -> (..., O) of the weight's dtype, computed in float32."""
    out = x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=weight.dtype)
    columns = max(1, WIDENED_AT_ONCE // max(weight.shape[1], 1))
    for start in range(0, weight.shape[0], columns):
        part = slice(start, start + columns)
        out[..., part] = F.linear(x, weight[part].float(), None if bias is None else bias[part].float())
    return out


def _must_see_all() -> bool:
    """Whether the dispatch mode in force must see every operation. One that only counts may say that it need not."""
    return not getattr(_get_current_dispatch_mode(), "lets_compiled_kernels_run", False)


def _rows_at_equal_distances(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether x (..., H, D) can be read as rows of H * D numbers, with one row of cos and sin (..., 1, D) for each."""
    width = x.shape[-1]
    dtypes = cos.dtype == sin.dtype and (
        cos.dtype == x.dtype or (x.dtype == torch.bfloat16 and cos.dtype == torch.float32)
    )
    return (
        dtypes
        and width % 2 == 0
        and cos.shape == (*x.shape[:-2], 1, width)
        and cos.shape == sin.shape
        and cos.is_contiguous()
        and sin.is_contiguous()
        and (x.is_contiguous() or (x.ndim == 3 and x.stride()[1:] == (width, 1)))
    )


def _last_dim_dense(*tensors: Tensor) -> bool:
    return all(tensor.stride(-1) == 1 for tensor in tensors)


@cache
def fast_kernels() -> FastKernels:
    """The fast kernels of this machine. The first call may compile them."""
    found = native()
    reason = str(found) if isinstance(found, NoKernels) else ""
    return FastKernels(None if isinstance(found, NoKernels) else found, widen=not _knows_bfloat16(), reason=reason)


def _knows_bfloat16() -> bool:
    """Whether torch has fast products of bfloat16 on this processor."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if torch.backends.mkldnn.is_available() else False


__all__ = ["FEW_QUERIES", "FEW_ROWS", "PLAIN", "FastKernels", "fast_kernels"]
