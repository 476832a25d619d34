"""JAX's kernels: products, softmax, norms and functions as XLA compiles them for the CPU.

Shape legend: see ``base``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from jax import numpy as jnp
from torch import Tensor

from parity.kernels.base import Kernels


def _of(function: Callable[..., Any]) -> Callable[..., Tensor]:
    compiled = jax.jit(function)
    return lambda *tensors: torch.from_numpy(np.array(compiled(*(tensor.numpy() for tensor in tensors))))


def _layer_norm(rows: Any, eps: Any) -> Any:
    return (rows - rows.mean(axis=1, keepdims=True)) * jax.lax.rsqrt(rows.var(axis=1, keepdims=True) + eps)


def _attention(query: Any, key: Any, value: Any, bias: Any, scale: Any) -> Any:
    """One compiled function, in which XLA may fuse the scale, the mask and the softmax."""
    scores = jnp.einsum("lsd,ltd->lst", query, key) * scale + bias
    return jnp.einsum("lst,ltd->lsd", jax.nn.softmax(scores, axis=-1), value)


class JaxKernels(Kernels):
    name = "JAX"
    functions = {  # noqa: RUF012 - a constant of the class
        "exp": _of(jnp.exp),
        "cos": _of(jnp.cos),
        "sin": _of(jnp.sin),
        "silu": _of(jax.nn.silu),
        "rsqrt": _of(jax.lax.rsqrt),
    }
    _matmul = staticmethod(_of(jnp.matmul))
    _sum = staticmethod(_of(partial(jnp.sum, axis=1)))
    _softmax = staticmethod(_of(partial(jax.nn.softmax, axis=1)))
    _layer_norm = staticmethod(_of(_layer_norm))
    _attention = staticmethod(_of(_attention))

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        return self._matmul(left, right)

    def sum_rows(self, rows: Tensor) -> Tensor:
        return self._sum(rows)

    def softmax(self, rows: Tensor) -> Tensor:
        return self._softmax(rows)

    def layer_norm(self, rows: Tensor, eps: float) -> Tensor:
        return self._layer_norm(rows, rows.new_tensor(eps))

    def attention(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        given = query.new_zeros(1, 1, 1) if bias is None else bias
        return self._attention(query, key, value, given, query.new_tensor(scale))
