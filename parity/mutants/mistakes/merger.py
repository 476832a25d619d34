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

from parity.mutants.base import FLOAT32, Mutant, around, replaced
from port.vision import PatchMerger, VisionModel

PICTURE = frozenset({"picture"})


def _merged(
    norm: Callable[[PatchMerger, Tensor], Tensor] | None = None, activation: Callable[[Tensor], Tensor] = F.gelu
) -> Callable[[PatchMerger, Tensor], Tensor]:
    """A merger written again; ``norm`` gives the normed and merged patches (N/m^2, C*m^2)."""

    def forward(self: PatchMerger, x: Tensor) -> Tensor:
        return self.linear_fc2(activation(self.linear_fc1((norm or _normed)(self, x))))

    return forward


def _normed(self: PatchMerger, x: Tensor) -> Tensor:
    size = self.merged_size
    return self.norm(x.view(-1, size)) if self.norm_after_merge else self.norm(x).view(-1, size)


def _only(*, deepstack: bool, forward: Callable[[PatchMerger, Tensor], Tensor]) -> AbstractContextManager[None]:
    """The mistake in the DeepStack mergers alone, or in the last merger alone."""

    def wrapper(original: Any, self: PatchMerger, x: Tensor) -> Tensor:
        return forward(self, x) if self.norm_after_merge is deepstack else original(self, x)

    return around(PatchMerger, "forward", wrapper)


def _tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _norm_before_merge(self: PatchMerger, x: Tensor) -> Tensor:
    """Patches are normed one by one, then scaled as merged ones."""
    return F.layer_norm(x, x.shape[-1:]).view(-1, self.merged_size) * self.norm.weight + self.norm.bias


def _norm_after_merge(self: PatchMerger, x: Tensor) -> Tensor:
    """Merged patches are normed, then scaled as single ones."""
    merged = F.layer_norm(x.view(-1, self.merged_size), (self.merged_size,))
    return (merged.view(-1, x.shape[-1]) * self.norm.weight + self.norm.bias).view(-1, self.merged_size)


def _without_norm_bias(self: PatchMerger, x: Tensor) -> Tensor:
    width = self.norm.normalized_shape[0]
    normed = F.layer_norm(x.view(-1, width), (width,), self.norm.weight, None, self.norm.eps)
    return normed.view(-1, self.merged_size)


def _channel_major(self: PatchMerger, x: Tensor) -> Tensor:
    """The m x m patches of a block interleaved channel by channel."""
    patches = self.merged_size // x.shape[-1]
    return _normed(self, x).view(-1, patches, x.shape[-1]).transpose(1, 2).reshape(-1, self.merged_size)


def _taps_one_early(original: Any, self: VisionModel, *args: Any) -> Any:
    """Each DeepStack merger reads the input of the block that it should read the output of, one block early."""
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


def _merger(id: str, title: str, seam: str, plant: Any, **more: Any) -> Mutant:
    component = more.pop("component", "merger")
    needs = more.pop("needs", PICTURE)
    return Mutant(
        id=id, title=title, component=component, seam=seam, step="prefill, *", plant=plant, needs=needs, **more
    )


DEEPSTACK, LAST = "vision.deepstack.{}", "vision.merger"

MUTANTS = [
    _merger(
        "merger-gelu-tanh",
        "the mergers use the tanh approximation of GELU",
        DEEPSTACK,
        lambda: replaced(PatchMerger, "forward", _merged(activation=_tanh)),
        real=True,
        source="mistral.rs HEAD 9e922623f vision.rs:325; candle HEAD vision.rs:276; llama.cpp qwen3vl.cpp; ollama",
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the merger itself",
    ),
    _merger(
        "last-merger-gelu-tanh",
        "the last merger alone uses the tanh approximation of GELU",
        LAST,
        lambda: _only(deepstack=False, forward=_merged(activation=_tanh)),
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the merger itself",
    ),
    _merger(
        "deepstack-norm-before-merge",
        "the DeepStack mergers norm patches before they merge them",
        DEEPSTACK,
        lambda: _only(deepstack=True, forward=_merged(_norm_before_merge)),
    ),
    _merger(
        "merger-norm-after-merge",
        "the last merger norms patches after it has merged them",
        LAST,
        lambda: _only(deepstack=False, forward=_merged(_norm_after_merge)),
    ),
    _merger(
        "merger-norm-without-bias",
        "the norm of the last merger has no bias",
        LAST,
        lambda: _only(deepstack=False, forward=_merged(_without_norm_bias)),
    ),
    _merger(
        "merger-channel-major",
        "the last merger interleaves the channels of its patches",
        LAST,
        lambda: _only(deepstack=False, forward=_merged(_channel_major)),
    ),
    _merger(
        "deepstack-taps-one-block-early",
        "DeepStack features are read before their block, not after it",
        DEEPSTACK,
        lambda: around(VisionModel, "forward", _taps_one_early),
        component="deepstack",
    ),
    _merger(
        "deepstack-mergers-reversed",
        "the DeepStack mergers are used in reverse",
        DEEPSTACK,
        lambda: around(VisionModel, "forward", _mergers_reversed),
        component="deepstack",
        needs=frozenset({"picture", "several taps"}),
    ),
]
