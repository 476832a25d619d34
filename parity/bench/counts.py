"""Figures of a computation that are the same in each run: operations, bytes, calls, memory.

They are counted on the port. Floating-point operations and bytes are those of its plain form, so they do not depend on
the machine; calls and memory are those of the form that runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from port import Qwen3VL
from port.kernels import FastKernels, kernels_of, set_kernels

Run = Callable[[], object]


@dataclass(frozen=True)
class Counts:
    """``flops``: of matrix products and attention; ``bytes_read``: inputs of all operations that are no views;
    ``calls``: of torch's operations and compiled kernels; ``peak_bytes``: of tensors made on the way."""

    flops: int
    bytes_read: int
    calls: int
    peak_bytes: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)


class _WithoutProducts(TorchDispatchMode):
    """Gives zeros for matrix products and attention, which nothing that is counted depends on.

    Without instructions for bfloat16, torch computes the plain form of a large model in minutes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _PRODUCTS:
            return func(*args, **(kwargs or {}))
        shapes = func(*tree_map_only(Tensor, lambda tensor: tensor.to("meta"), args), **(kwargs or {}))
        device = next(leaf.device for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
        return tree_map_only(Tensor, lambda shape: torch.zeros_like(shape, device=device), shapes)


_PRODUCTS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}


class _Reading(TorchDispatchMode):
    """Adds up the bytes of the tensors that operations read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(_bytes(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return out


class _Making(TorchDispatchMode):
    """Counts operations, and the bytes of the tensors that are alive at once."""

    lets_compiled_kernels_run = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        self.calls += 1
        made = [leaf.untyped_storage() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self._alive = {key: held for key, held in self._alive.items() if not held[0].expired()}
        for storage in made:
            if storage._cdata not in given:
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return out

    def native(self, _name: str) -> None:
        self.calls += 1


def _bytes(tensor: Tensor) -> int:
    """The numbers that a tensor really holds: an expanded one is read once."""
    held = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        held *= size if stride else min(size, 1)
    return held * tensor.element_size()


def count(model: Qwen3VL, run: Callable[[], Run]) -> Counts:
    """Count one run on ``model``. ``run`` prepares it anew each time, uncounted."""
    kernels = kernels_of(model)
    with torch.no_grad():
        prepared = run()
        with _WithoutProducts(), FlopCounterMode(display=False) as flops:
            prepared()
        prepared = run()
        with _WithoutProducts(), _Reading() as reading:
            prepared()
        prepared, making = run(), _Making()
        try:
            if isinstance(kernels, FastKernels):
                set_kernels(model, kernels.counted(making.native))
            with making:
                prepared()
        finally:
            set_kernels(model, kernels)
    return Counts(flops.get_total_flops(), reading.bytes, making.calls, making.peak)
