"""Mistakes while a checkpoint is loaded: the config, and what its tensors become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

import port.weights
from parity.mutants.base import FLOAT32, LOADING, Mutant, around, rounded
from port.config import Qwen3VLConfig
from port.model import Qwen3VL
from port.weights import Checkpoint

FORWARD, PICTURE = frozenset({"forward"}), frozenset({"picture"})
TEXT = "model.language_model."


def _config_changed(change: Callable[[dict[str, Any]], dict[str, Any]]) -> AbstractContextManager[None]:
    """``change`` makes the parsed config.json that the loader sees."""

    def wrapper(original: Any, cls: Any, raw: Mapping[str, Any], **options: Any) -> Qwen3VLConfig:
        return original(cls, change(dict(raw)), **options)

    return around(Qwen3VLConfig, "from_dict", wrapper)


def _read_changed(change: Callable[[Checkpoint, str, Tensor], Tensor]) -> AbstractContextManager[None]:
    """``change(checkpoint, name, tensor)`` makes each tensor that is read."""
    return around(Checkpoint, "read", lambda original, self, name: change(self, name, original(self, name)))


def _read_as(rename: Callable[[str], str]) -> AbstractContextManager[None]:
    """Each tensor is read under another name."""
    return around(Checkpoint, "read", lambda original, self, name: original(self, rename(name)))


def _flag_of_text_config(raw: dict[str, Any]) -> dict[str, Any]:
    return {**raw, "tie_word_embeddings": raw["text_config"].get("tie_word_embeddings", False)}


def _no_taps(raw: dict[str, Any]) -> dict[str, Any]:
    return {**raw, "vision_config": {**raw["vision_config"], "deepstack_visual_indexes": []}}


def _text_default(name: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda raw: {**raw, "text_config": {**raw["text_config"], name: value}}


def _head_with_bias(original: Any, self: Qwen3VL, config: Qwen3VLConfig) -> None:
    original(self, config)
    if not config.tie_word_embeddings:
        self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=True)


def _swapped(name: str, left: str, right: str) -> str:
    if left in name:
        return name.replace(left, right)
    return name.replace(right, left)


def _transposed(part: str) -> Callable[[Checkpoint, str, Tensor], Tensor]:
    """The numbers of the transposed matrix, read as a matrix of the right shape."""
    return lambda _checkpoint, name, tensor: tensor.T.contiguous() if part in name else tensor


def _ones(part: str) -> Callable[[Checkpoint, str, Tensor], Tensor]:
    return lambda _checkpoint, name, tensor: torch.ones_like(tensor) if part in name else tensor


def _zeros(part: str) -> Callable[[Checkpoint, str, Tensor], Tensor]:
    return lambda _checkpoint, name, tensor: torch.zeros_like(tensor) if part in name else tensor


def _in_bfloat16(_checkpoint: Checkpoint, _name: str, tensor: Tensor) -> Tensor:
    return rounded(tensor, torch.bfloat16)


def _kernel_channels_last(_checkpoint: Checkpoint, name: str, tensor: Tensor) -> Tensor:
    """The kernel's channels put last, as other frameworks keep them, and not put back."""
    return tensor.movedim(1, -1).contiguous() if name.endswith("patch_embed.proj.weight") else tensor


def _load(id: str, title: str, seam: str, plant: Any, needs: frozenset[str] = FORWARD, **more: Any) -> Mutant:
    component, step = more.pop("component", "weights"), more.pop("step", "prefill")
    return Mutant(
        id=id, title=title, component=component, seam=seam, step=step, plant=plant, needs=needs, loads=True, **more
    )


MUTANTS = [
    _load(
        "vision-config-defaults-wrong",
        "a placeholder's default (no DeepStack) in place of a config field",
        LOADING,
        lambda: _config_changed(_no_taps),
        component="config",
        step=LOADING,
        real=True,
        source="mistral.rs 530463af1 -> dd8d0c6f9 (#1878); candle HEAD 2a13b0f3f config.rs",
    ),
    _load(
        "tie-embeddings-read-from-text-config",
        "the tie flag is read from text_config",
        LOADING,
        lambda: _config_changed(_flag_of_text_config),
        frozenset({"text flag"}),
        component="lm-head",
        step=LOADING,
        real=True,
        source="mistral.rs c3d69e0e4 (#1682); candle HEAD; vLLM-Kunlun #330; transformers #45857, #44976",
    ),
    _load(
        "untied-lm-head-expects-bias",
        "an untied head wants a bias",
        LOADING,
        lambda: around(Qwen3VL, "__init__", _head_with_bias),
        frozenset({"untied"}),
        component="lm-head",
        step=LOADING,
        real=True,
        source="candle HEAD 2a13b0f3f text.rs",
    ),
    _load(
        "dense-down-proj-transposed",
        "down_proj is transposed as in mixture-of-experts checkpoints",
        "text.layers.{}.mlp.out",
        lambda: _read_changed(_transposed(".down_proj.")),
        real=True,
        source="mlx-vlm, 2c020328 (#531)",
    ),
    _load(
        "o-proj-transposed",
        "o_proj is transposed",
        "text.layers.{}.attn.out",
        lambda: _read_changed(_transposed(".o_proj.")),
    ),
    _load(
        "rms-eps-default",
        "rms_norm_eps is 1e-5, whatever the config says",
        "text.layers.{}.input_norm",
        lambda: _config_changed(_text_default("rms_norm_eps", 1e-5)),
        component="config",
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    _load(
        "k-and-v-swapped",
        "k_proj and v_proj are swapped",
        "text.layers.{}.attn.k_norm",
        lambda: _read_as(lambda name: _swapped(name, ".k_proj.", ".v_proj.")),
    ),
    _load(
        "q-norm-and-k-norm-swapped",
        "q_norm and k_norm are swapped",
        "text.layers.{}.attn.q_norm",
        lambda: _read_as(lambda name: _swapped(name, ".q_norm.", ".k_norm.")),
    ),
    _load(
        "k-norm-not-loaded",
        "the weights of k_norm stay at 1",
        "text.layers.{}.attn.k_norm",
        lambda: _read_changed(_ones(".k_norm.")),
    ),
    _load(
        "gate-and-up-swapped",
        "gate_proj and up_proj are swapped",
        "text.layers.{}.mlp.out",
        lambda: _read_as(lambda name: _swapped(name, ".gate_proj.", ".up_proj.")),
    ),
    _load(
        "layers-0-and-1-swapped",
        "decoder layers 0 and 1 have each other's weights",
        "text.layers.0.input_norm",
        lambda: _read_as(lambda name: _swapped(name, TEXT + "layers.0.", TEXT + "layers.1.")),
    ),
    _load(
        "vision-norms-swapped",
        "norm1 and norm2 of every vision block are swapped",
        "vision.blocks.{}.norm1",
        lambda: _read_as(lambda name: _swapped(name, ".norm1.", ".norm2.") if ".visual." in name else name),
        PICTURE,
        step="prefill, *",
    ),
    _load(
        "deepstack-merger-bias-not-loaded",
        "the output bias of the DeepStack mergers stays at 0",
        "vision.deepstack.{}",
        lambda: _read_changed(
            lambda checkpoint, name, tensor: (
                _zeros("linear_fc2.bias")(checkpoint, name, tensor) if "deepstack_merger_list" in name else tensor
            )
        ),
        PICTURE,
        step="prefill, *",
    ),
    _load(
        "patch-kernel-channels-last",
        "the patch embedding's kernel has its channels last",
        "vision.patch_embed",
        lambda: _read_changed(_kernel_channels_last),
        PICTURE,
        component="patch-embed",
        step="prefill, *",
    ),
    _load(
        "weights-in-bf16",
        "weights make a detour through bfloat16",
        "text.embed_tokens",
        lambda: _read_changed(_in_bfloat16),
        frozenset({"forward", "weights finer than bfloat16"}),
        dtypes=(FLOAT32,),
        invisible="bfloat16: they are bfloat16 there",
    ),
    _load(
        "head-rows-off-by-one",
        "lm_head begins one row late",
        "logits",
        lambda: _read_changed(
            lambda _checkpoint, name, tensor: tensor.roll(-1, dims=0) if name == port.weights.LM_HEAD else tensor
        ),
        frozenset({"untied"}),
        component="lm-head",
    ),
]
