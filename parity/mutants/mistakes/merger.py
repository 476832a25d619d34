"""Mistakes in the patch mergers: the one at the end of the tower and those of DeepStack.

Shape legend
    N, C, m   patches, hidden_size of the tower, spatial merge size
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.mutants.base import FLOAT32, PICTURE, around, family, replaced
from port.vision import PatchMerger, VisionModel


def _merged(
    norm: Callable[[PatchMerger, Tensor], Tensor] | None = None, activation: Callable[[Tensor], Tensor] = F.gelu
) -> Callable[[PatchMerger, Tensor], Tensor]:
    """The forward of a merger with another norm or activation; ``norm`` gives merged patches (N/m^2, C*m^2)."""

    def forward(self: PatchMerger, x: Tensor) -> Tensor:
        return self.linear_fc2(activation(self.linear_fc1((norm or _normed)(self, x))))

    return forward


def _normed(self: PatchMerger, x: Tensor) -> Tensor:
    size = self.merged_size
    return self.norm(x.view(-1, size)) if self.norm_after_merge else self.norm(x).view(-1, size)


def _only(*, deepstack: bool, forward: Callable[[PatchMerger, Tensor], Tensor]) -> AbstractContextManager[None]:
    """The mistake in the DeepStack mergers only, or in the last merger only."""

    def wrapper(original: Any, self: PatchMerger, x: Tensor) -> Tensor:
        return forward(self, x) if self.norm_after_merge is deepstack else original(self, x)

    return around(PatchMerger, "forward", wrapper)


def _tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _norm_before_merge(self: PatchMerger, x: Tensor) -> Tensor:
    """Patches are normalised before they are merged, and scaled after."""
    return F.layer_norm(x, x.shape[-1:]).view(-1, self.merged_size) * self.norm.weight + self.norm.bias


def _norm_after_merge(self: PatchMerger, x: Tensor) -> Tensor:
    """Patches are normalised after they are merged, and scaled one by one."""
    merged = F.layer_norm(x.view(-1, self.merged_size), (self.merged_size,))
    return (merged.view(-1, x.shape[-1]) * self.norm.weight + self.norm.bias).view(-1, self.merged_size)


def _without_norm_bias(self: PatchMerger, x: Tensor) -> Tensor:
    width = self.norm.normalized_shape[0]
    normed = F.layer_norm(x.view(-1, width), (width,), self.norm.weight, None, self.norm.eps)
    return normed.view(-1, self.merged_size)


def _channel_major(self: PatchMerger, x: Tensor) -> Tensor:
    """The m x m patches of a block are interleaved channel by channel."""
    patches = self.merged_size // x.shape[-1]
    return _normed(self, x).view(-1, patches, x.shape[-1]).transpose(1, 2).reshape(-1, self.merged_size)


def _taps_one_early(original: Any, self: VisionModel, *args: Any) -> Any:
    """Each DeepStack merger reads the input of its vision block instead of the output."""
    held: list[Tensor] = []

    def block(forward: Any, module: Any, x: Tensor, *rest: Any) -> Tensor:
        held[:] = [x]
        return forward(module, x, *rest)

    def merger(forward: Any, module: PatchMerger, x: Tensor) -> Tensor:
        return forward(module, held[0] if module.norm_after_merge else x)

    with around(type(self.blocks[0]), "forward", block), around(PatchMerger, "forward", merger):
        return original(self, *args)


def _mergers_reversed(original: Any, self: VisionModel, *args: Any) -> Any:
    reversed_list = torch.nn.ModuleList(reversed(list(self.deepstack_merger_list)))
    modules = {**self._modules, "deepstack_merger_list": reversed_list}
    with replaced(self, "_modules", modules):
        return original(self, *args)


deepstack = family(component="merger", seam="vision.deepstack.{}", step="prefill, *", needs=PICTURE)
last = family(component="merger", seam="vision.merger", step="prefill, *", needs=PICTURE)

MUTANTS = [
    deepstack(
        "merger-gelu-tanh",
        "the mergers use the tanh approximation of GELU",
        lambda: replaced(PatchMerger, "forward", _merged(activation=_tanh)),
        real=True,
        source="mistral.rs HEAD 9e922623f vision.rs:325; candle HEAD vision.rs:276; llama.cpp qwen3vl.cpp; ollama",
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the merger itself",
    ),
    last(
        "last-merger-gelu-tanh",
        "only the last merger uses the tanh approximation of GELU",
        lambda: _only(deepstack=False, forward=_merged(activation=_tanh)),
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the merger itself",
    ),
    deepstack(
        "deepstack-norm-before-merge",
        "the DeepStack mergers normalise patches before merging them",
        lambda: _only(deepstack=True, forward=_merged(_norm_before_merge)),
    ),
    last(
        "merger-norm-after-merge",
        "the last merger normalises patches after merging them",
        lambda: _only(deepstack=False, forward=_merged(_norm_after_merge)),
    ),
    last(
        "merger-norm-without-bias",
        "the norm of the last merger has no bias",
        lambda: _only(deepstack=False, forward=_merged(_without_norm_bias)),
    ),
    last(
        "merger-channel-major",
        "the last merger interleaves the channels of its patches",
        lambda: _only(deepstack=False, forward=_merged(_channel_major)),
    ),
    deepstack(
        "deepstack-taps-one-block-early",
        "DeepStack features are read before their block instead of after it",
        lambda: around(VisionModel, "forward", _taps_one_early),
        component="deepstack",
    ),
    deepstack(
        "deepstack-mergers-reversed",
        "the DeepStack mergers are used in reverse order",
        lambda: around(VisionModel, "forward", _mergers_reversed),
        component="deepstack",
        needs=frozenset({"picture", "several taps"}),
    ),
]
