"""Moves inputs and constants of the reference by one ulp. The computation stays correct; only its noise changes.

Correct implementations differ by an ulp in what they start from: pixels (another order of rescaling and normalising),
the frequencies of the rotary embeddings (another ``pow``), and the coordinates at which the position table is
interpolated (``i * (n - 1) / (h - 1)``, ``linspace``, or ``i * step``). Token embeddings are moved to give text the
same variety.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from reference.float64 import exact_frequencies
from reference.model import ReferenceModel

_INTERPOLATION = "get_vision_interpolation_indices_and_weights"


@contextmanager
def nudged(reference: ReferenceModel, seed: int) -> Iterator[None]:
    """Move the inputs and constants by one ulp, up or down at random, inside the block."""
    generator = torch.Generator().manual_seed(seed)
    with ExitStack() as stack:
        _nudge_inputs(reference.model.model, generator, stack)
        _nudge_frequencies(reference, stack)
        _nudge_coordinates(reference.model, stack)
        yield


def moved(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return the tensor with every number replaced by the next float above or below, at random.

    Drawn and moved on the CPU, so that a generator moves the same numbers on every device.
    """
    up = torch.rand(tensor.shape, generator=generator) < 0.5
    if tensor.dtype == torch.float32:
        return _stepped(tensor.cpu(), up).to(tensor.device)
    target = torch.where(up, torch.inf, -torch.inf).to(tensor.dtype)
    return torch.nextafter(tensor.cpu(), target).to(tensor.device)


def _stepped(tensor: Tensor, up: Tensor) -> Tensor:
    """``nextafter`` of float32, several times faster: the bits of neighbouring floats are neighbouring numbers."""
    bits = tensor.contiguous().view(torch.int32)
    found = bits.add(up ^ (bits < 0), alpha=2).sub_(1).view(torch.float32)  # away from zero: + 1, towards it: - 1
    odd = (tensor == 0) | ~torch.isfinite(tensor)
    if bool(odd.any()):
        target = torch.where(up, torch.inf, -torch.inf).to(tensor.dtype)
        found = torch.where(odd, torch.nextafter(tensor, target), found)
    return found


def _nudge_inputs(inner: Any, generator: torch.Generator, stack: ExitStack) -> None:
    def pixels(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (moved(args[0], generator), *args[1:])

    def embeddings(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return moved(output, generator)

    stack.callback(inner.visual.patch_embed.register_forward_pre_hook(pixels).remove)
    stack.callback(inner.language_model.embed_tokens.register_forward_hook(embeddings).remove)


def _nudge_frequencies(reference: ReferenceModel, stack: ExitStack) -> None:
    """Move each frequency away from its exact value, so that the error is as large as that of any ``pow``."""
    for module, exact in exact_frequencies(reference):
        loaded = module.inv_freq
        stack.callback(setattr, module, "inv_freq", loaded)
        here = loaded.cpu()
        # base ** 0 is 1 in every library
        module.inv_freq = torch.where(here == 1, here, away_from(exact, here)).to(loaded.device)


def _nudge_coordinates(model: Any, stack: ExitStack) -> None:
    """Move each coordinate of the interpolation away from its exact value, so that no formula has a larger error."""
    scope = sys.modules[type(model).__module__]
    if not hasattr(scope, _INTERPOLATION):  # transformers 4.57
        stack.callback(setattr, scope, "torch", scope.torch)
        scope.torch = _MovedLinspace("torch")  # type: ignore[attr-defined]
        return
    original = getattr(scope, _INTERPOLATION)

    def interpolation(grid_thw: Tensor, num_grid_per_side: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        side = num_grid_per_side
        found = original(grid_thw, side, *args, **kwargs)
        device = found[1].device
        taps, weights, grid_thw = (each.cpu() for each in (*found, grid_thw))  # (N, 4): top left to bottom right
        height, width = (size.repeat_interleave(grid_thw.prod(dim=1)) for size in (grid_thw[:, 1], grid_thw[:, 2]))
        down = _moved_share(taps[:, 0] // side, weights[:, 2] + weights[:, 3], height, side)
        right = _moved_share(taps[:, 0] % side, weights[:, 1] + weights[:, 3], width, side)
        shares = [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]
        return found[0], torch.stack(shares, dim=1).to(weights.dtype).to(device)  # 4 x (N,) -> (N, 4)

    stack.callback(setattr, scope, _INTERPOLATION, original)
    setattr(scope, _INTERPOLATION, interpolation)


def _moved_share(first: Tensor, share: Tensor, size: Tensor, side: int) -> Tensor:
    """Move the coordinates ``first + share`` (N,) in a table of ``side`` by one ulp. Returns the second tap's shares.

    The grids have ``size`` (N,) patches, so the exact coordinates are multiples of (side - 1) / (size - 1).
    """
    coordinate = first.to(torch.float32) + share
    step = (side - 1) / (size - 1).clamp(min=1).double()
    exact = (coordinate.double() / step).round() * step
    return (away_from(exact, coordinate) - first).clamp(0, 1)


def away_from(exact: Tensor, rounded: Tensor) -> Tensor:
    """Return the next float of every rounded number on the side away from its exact value (float64)."""
    end = torch.where(rounded.double() < exact, -torch.inf, torch.inf).to(rounded.dtype)
    return torch.nextafter(rounded, end)


class _MovedLinspace(ModuleType):
    """torch, but ``linspace`` gives coordinates that are one ulp further from their exact values.

    The first and the last stay exact.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def linspace(self, start: float, end: float, steps: int, **kwargs: Any) -> Tensor:
        made = torch.linspace(start, end, steps, **kwargs)
        rounded = made.cpu()
        exact = torch.linspace(start, end, steps, **{**kwargs, "dtype": torch.float64, "device": "cpu"})
        ends = (rounded == start) | (rounded == end)
        return torch.where(ends, rounded, away_from(exact, rounded)).to(made.device)
