"""Runs a model with other kernels: a torch dispatch mode replaces every operation that sums.

A correct port may add in any sensible order, and torch's kernels are only one of them. With other kernels, the
reference and the port become correct runs of other libraries; no file of theirs is edited. Matrix products,
convolutions, attention, softmax, norms and means are replaced, and the functions that libraries approximate in ways
of their own (exp, cos, ...).

Shape legend
    L         batch of products: heads, or batch rows times heads
    M, K, N   rows, summed numbers, columns of a product
    R         rows
    B, H, S, T, D   batch, heads, queries, keys, head dim
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from parity.core.errors import ParityError


class Kernels(ABC):
    """The sums of a model, computed by one library.

    All tensors are contiguous, on the CPU unless ``only_cpu`` is False, and float32 (or float64, in a float64 model):
    numbers of bfloat16 and float16 are widened before, and results are rounded after. ``functions`` are the library's
    own versions of torch's functions of one number.
    """

    name: ClassVar[str]
    only_cpu: ClassVar[bool] = True
    functions: ClassVar[dict[str, Callable[[Tensor], Tensor]]] = {}

    @abstractmethod
    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        """(L, M, K) @ (L, K, N) -> (L, M, N)."""

    @abstractmethod
    def sum_rows(self, rows: Tensor) -> Tensor:
        """(R, K) -> (R,)."""

    def exp(self, values: Tensor) -> Tensor:
        return self.functions.get("exp", torch.exp)(values)

    def softmax(self, rows: Tensor) -> Tensor:
        """(R, K) -> (R, K)."""
        powers = self.exp(rows - rows.amax(dim=-1, keepdim=True))
        return powers / self.sum_rows(powers).unsqueeze(-1)

    def layer_norm(self, rows: Tensor, eps: float) -> Tensor:
        """(R, K) -> (R, K), without weight and bias."""
        centred = rows - (self.sum_rows(rows) / rows.shape[1]).unsqueeze(-1)
        variance = self.sum_rows(centred * centred).unsqueeze(-1) / rows.shape[1]  # (R, 1)
        return centred / torch.sqrt(variance + eps)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        """(L, S, D), (L, T, D), (L, T, D), bias (L, S, T) -> (L, S, D)."""
        scores = self.matmul(query, key.transpose(1, 2).contiguous()) * scale
        if bias is not None:
            scores = scores + bias
        shares = self.softmax(scores.reshape(-1, scores.shape[-1]))  # (L, S, T) -> (L*S, T)
        return self.matmul(shares.reshape(scores.shape), value)


@contextmanager
def computing_with(kernels: Kernels) -> Iterator[None]:
    """Replace torch's kernels inside the block. Gradients are not supported.

    Raises ParityError at an operation that sums and that is not replaced: its sums would still be torch's.
    """
    with _Replacing(kernels):
        yield


# Parts of the names of torch's operations that sum. One that is not replaced is an error.
_SUMMING = ("attention", "conv", "linear", "norm", "matmul", "mm", "softmax", "einsum", "mv", "dot", "addr")


class _Replacing(TorchDispatchMode):
    def __init__(self, kernels: Kernels) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kernels = kernels

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name: str = func.overloadpacket.__name__
        tensor = args[0] if args and isinstance(args[0], Tensor) else None
        if tensor is not None and tensor.dtype.is_floating_point:
            if self._kernels.only_cpu and not tensor.is_cpu and (name in _REPLACED or _sums(name)):
                raise ParityError(
                    f"the kernels {self._kernels.name!r} are for the CPU, and {func} is called on {tensor.device}; run "
                    "with --device cpu, or without these kernels"
                )
            if name in _REPLACED:
                return _REPLACED[name](self._kernels, *args, **(kwargs or {}))
            if name in self._kernels.functions and len(args) == 1 and not kwargs:
                return self._kernels.functions[name](_wide(tensor)).to(tensor.dtype).reshape(tensor.shape)
            if _sums(name):
                with self:  # in inference mode, torch does not take such operations apart before
                    parts = func.decompose(*args, **(kwargs or {}))
                if parts is not NotImplemented:
                    return parts
                raise ParityError(
                    f"the model calls {func}, which sums in torch's own order; replace it in parity/kernels/base.py"
                )
        return func(*args, **(kwargs or {}))


def _sums(name: str) -> bool:
    return any(word in name for word in _SUMMING)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)).contiguous()


def _bmm(kernels: Kernels, left: Tensor, right: Tensor) -> Tensor:
    return kernels.matmul(_wide(left), _wide(right)).to(left.dtype)


def _product(kernels: Kernels, left: Tensor, right: Tensor) -> Tensor:
    """(M, K) @ (K, N) -> (M, N), wide."""
    return kernels.matmul(_wide(left).unsqueeze(0), _wide(right).unsqueeze(0)).squeeze(0)


def _mm(kernels: Kernels, left: Tensor, right: Tensor) -> Tensor:
    return _product(kernels, left, right).to(left.dtype)


def _addmm(kernels: Kernels, bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return (_product(kernels, left, right) * alpha + beta * bias).to(left.dtype)


def _linear(kernels: Kernels, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., C) times (O, C) -> (..., O). Most devices take it apart before; mps does not."""
    total = _product(kernels, input.reshape(-1, input.shape[-1]), weight.t())  # (..., C) -> (R, C)
    if bias is not None:
        total = total + bias
    return total.to(input.dtype).reshape(*input.shape[:-1], -1)  # (R, O) -> (..., O)


def _convolution(
    kernels: Kernels,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """A convolution whose kernel covers its whole input (N, C, T, P, P), as that of the patch embedding."""
    if tuple(input.shape[2:]) != tuple(weight.shape[2:]) or any(padding) or transposed or groups != 1:
        raise ParityError(
            f"the model convolves {list(input.shape)} with a kernel {list(weight.shape)}; only a kernel of the size of "
            "a patch can be replaced"
        )
    total = _product(kernels, input.flatten(1), weight.flatten(1).t())  # (N, C*T*P*P) @ (C*T*P*P, O) -> (N, O)
    if bias is not None:
        total = total + bias
    return total.to(input.dtype).reshape(*total.shape, *[1] * (input.ndim - 2))  # (N, O) -> (N, O, 1, 1, 1)


def _softmax(kernels: Kernels, values: Tensor, dim: int, half_to_float: bool) -> Tensor:
    last = _wide(values).movedim(dim, -1)
    shares = kernels.softmax(last.reshape(-1, last.shape[-1]).contiguous())  # (..., K) -> (R, K)
    return shares.reshape(last.shape).movedim(-1, dim).to(shares.dtype if half_to_float else values.dtype)


def _layer_norm(
    kernels: Kernels, input: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    rows = _wide(input).reshape(-1, math.prod(shape))  # (..., K) -> (R, K)
    out = kernels.layer_norm(rows, eps)
    if weight is not None:
        out = out * weight.reshape(-1)
    if bias is not None:
        out = out + bias.reshape(-1)
    unused = rows.new_zeros(0)  # mean and scale are for the gradient
    return out.to(input.dtype).reshape(input.shape), unused, unused


def _mean(
    kernels: Kernels, values: Tensor, dim: Sequence[int], keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    if len(dim) != 1:
        raise ParityError(f"the model takes a mean over the axes {list(dim)}; only a mean over one axis is replaced")
    last = _wide(values).movedim(dim[0], -1)
    total = kernels.sum_rows(last.reshape(-1, last.shape[-1]).contiguous())  # (..., K) -> (R,)
    mean = (total / last.shape[-1]).reshape(last.shape[:-1])
    return (mean.unsqueeze(dim[0]) if keepdim else mean).to(dtype or values.dtype)


def _attention(
    kernels: Kernels,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Fused attention: query (B, H, S, D), key and value (B, H or fewer, T, D), mask (B, 1 or H, S, T) -> query's."""
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    if is_causal:
        hidden = torch.ones(queries, keys, dtype=torch.bool, device=query.device).triu(1)  # (S, T)
        attn_mask = query.new_zeros(queries, keys).masked_fill(hidden, -torch.inf)
    elif attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = query.new_zeros(attn_mask.shape).masked_fill(~attn_mask, -torch.inf)
    bias = None
    if attn_mask is not None:
        bias = _wide(attn_mask).expand(batch, heads, queries, keys).reshape(-1, queries, keys)  # -> (L, S, T)
    # Several heads of the query may share one of the key: (B, G, T, D) -> (B, H, T, D).
    key, value = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value))
    q, k, v = (_wide(part).flatten(0, 1).contiguous() for part in (query, key, value))  # (B, H, .., D) -> (L, .., D)
    out = kernels.attention(q, k, v, bias, width**-0.5 if scale is None else scale)
    return out.to(query.dtype).reshape(query.shape), query.new_zeros(0)


_REPLACED: dict[str, Callable[..., Any]] = {
    "mm": _mm,
    "bmm": _bmm,
    "addmm": _addmm,
    "linear": _linear,
    "convolution": _convolution,
    "_softmax": _softmax,
    "native_layer_norm": _layer_norm,
    "mean": _mean,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
}
