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
        _nudge_coordinates(reference.model, generator, stack)
        yield


def moved(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return the tensor with every number replaced by the next float above or below, at random."""
    up = torch.rand(tensor.shape, generator=generator) < 0.5
    target = torch.where(up, torch.inf, -torch.inf).to(tensor.dtype)
    return torch.nextafter(tensor, target)


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
        away = torch.where(loaded.double() < exact, -torch.inf, torch.inf).to(loaded.dtype)
        stack.callback(setattr, module, "inv_freq", loaded)
        # base ** 0 is 1 in every library
        module.inv_freq = torch.where(loaded == 1, loaded, torch.nextafter(loaded, away))


def _nudge_coordinates(model: Any, generator: torch.Generator, stack: ExitStack) -> None:
    scope = sys.modules[type(model).__module__]
    if not hasattr(scope, _INTERPOLATION):  # transformers 4.57
        stack.callback(setattr, scope, "torch", scope.torch)
        scope.torch = _MovedLinspace(generator)  # type: ignore[attr-defined]
        return
    original = getattr(scope, _INTERPOLATION)

    def interpolation(grid_thw: Tensor, num_grid_per_side: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        taps, weights = original(grid_thw, num_grid_per_side, *args, **kwargs)  # (N, 4): top left to bottom right
        down = _moved_share(taps[:, 0] // num_grid_per_side, weights[:, 2] + weights[:, 3], generator)
        right = _moved_share(taps[:, 0] % num_grid_per_side, weights[:, 1] + weights[:, 3], generator)
        shares = [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]
        return taps, torch.stack(shares, dim=1).to(weights.dtype)  # 4 x (N,) -> (N, 4)

    stack.callback(setattr, scope, _INTERPOLATION, original)
    setattr(scope, _INTERPOLATION, interpolation)


def _moved_share(first: Tensor, share: Tensor, generator: torch.Generator) -> Tensor:
    """Move the coordinate ``first + share`` (N,) of a tap by one ulp. Returns the new share of the second tap."""
    return (moved(first.to(torch.float32) + share, generator) - first).clamp(0, 1)


class _MovedLinspace(ModuleType):
    """torch, but ``linspace`` gives coordinates that are moved by one ulp. The first and the last stay exact."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__("torch")
        self._generator = generator

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def linspace(self, start: float, end: float, steps: int, **kwargs: Any) -> Tensor:
        exact = torch.linspace(start, end, steps, **kwargs)
        inner = moved(exact, self._generator)
        return torch.where((exact == start) | (exact == end), exact, inner)
