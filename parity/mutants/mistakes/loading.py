"""Mistakes in loading a checkpoint: in reading the config and the tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

import port.weights
from parity.mutants.arithmetic import rounded
from parity.mutants.base import FLOAT32, FORWARD, LOADING, PICTURE, around, family
from port.config import Qwen3VLConfig
from port.layers import Linear
from port.model import Qwen3VL
from port.weights import Checkpoint

TEXT = "model.language_model."


def _config_changed(change: Callable[[dict[str, Any]], dict[str, Any]]) -> AbstractContextManager[None]:
    """The loader gets ``change(parsed config.json)``."""

    def wrapper(original: Any, cls: Any, raw: Mapping[str, Any], **options: Any) -> Qwen3VLConfig:
        return original(cls, change(dict(raw)), **options)

    return around(Qwen3VLConfig, "from_dict", wrapper)


def _read_changed(change: Callable[[Tensor], Tensor], *parts: str) -> AbstractContextManager[None]:
    """Each tensor whose name contains all of ``parts`` is read as ``change(tensor)``."""

    def read(original: Any, self: Checkpoint, name: str) -> Tensor:
        tensor = original(self, name)
        return change(tensor) if all(part in name for part in parts) else tensor

    return around(Checkpoint, "read", read)


def _swapped(left: str, right: str) -> AbstractContextManager[None]:
    """Tensors with ``left`` in their name are read for those with ``right`` there, and the other way round."""

    def read(original: Any, self: Checkpoint, name: str) -> Tensor:
        return original(self, name.replace(left, right) if left in name else name.replace(right, left))

    return around(Checkpoint, "read", read)


def _flag_of_text_config(raw: dict[str, Any]) -> dict[str, Any]:
    text = raw.get("text_config")  # bad input may lack it, or hold something else
    return {**raw, "tie_word_embeddings": text.get("tie_word_embeddings", False)} if isinstance(text, dict) else raw


def _no_deepstack(raw: dict[str, Any]) -> dict[str, Any]:
    return {**raw, "vision_config": {**raw["vision_config"], "deepstack_visual_indexes": []}}


def _default_eps(raw: dict[str, Any]) -> dict[str, Any]:
    return {**raw, "text_config": {**raw["text_config"], "rms_norm_eps": 1e-5}}


def _head_with_bias(original: Any, self: Qwen3VL, config: Qwen3VLConfig) -> None:
    original(self, config)
    if not config.tie_word_embeddings:
        self.lm_head = Linear(config.text.hidden_size, config.text.vocab_size, bias=True)


def _transposed(tensor: Tensor) -> Tensor:
    """The transposed matrix; the loader gives its numbers the right shape again."""
    return tensor.T.contiguous()


refusal = family(component="lm-head", seam=LOADING, step=LOADING, loads=True)
weights = family(component="weights", step="prefill", needs=FORWARD, loads=True)
vision_weights = family(component="weights", step="prefill, *", needs=PICTURE, loads=True)

MUTANTS = [
    refusal(
        "vision-config-defaults-wrong",
        "the list of DeepStack layers is empty, as by default, whatever the config says",
        lambda: _config_changed(_no_deepstack),
        component="config",
        needs=FORWARD,
        real=True,
        source="mistral.rs 530463af1 -> dd8d0c6f9 (#1878); candle HEAD 2a13b0f3f config.rs",
    ),
    refusal(
        "tie-embeddings-read-from-text-config",
        "tie_word_embeddings is read from text_config",
        lambda: _config_changed(_flag_of_text_config),
        needs=frozenset({"text flag"}),
        real=True,
        source="mistral.rs c3d69e0e4 (#1682); candle HEAD; vLLM-Kunlun #330; transformers #45857, #44976",
    ),
    refusal(
        "untied-lm-head-expects-bias",
        "an untied head expects a bias",
        lambda: around(Qwen3VL, "__init__", _head_with_bias),
        needs=frozenset({"untied"}),
        real=True,
        source="candle HEAD 2a13b0f3f text.rs",
    ),
    weights(
        "dense-down-proj-transposed",
        "down_proj is transposed, as in mixture-of-experts checkpoints",
        lambda: _read_changed(_transposed, ".down_proj."),
        seam="text.layers.{}.mlp.out",
        real=True,
        source="mlx-vlm, 2c020328 (#531)",
    ),
    weights(
        "o-proj-transposed",
        "o_proj is transposed",
        lambda: _read_changed(_transposed, ".o_proj."),
        seam="text.layers.{}.attn.out",
    ),
    weights(
        "rms-eps-default",
        "rms_norm_eps is always 1e-5, whatever the config says",
        lambda: _config_changed(_default_eps),
        component="config",
        seam="text.layers.{}.input_norm",
        dtypes=(FLOAT32,),
        invisible="bfloat16: within the floor of the norm itself",
    ),
    weights(
        "k-and-v-swapped",
        "k_proj and v_proj are swapped",
        lambda: _swapped(".k_proj.", ".v_proj."),
        seam="text.layers.{}.attn.k_norm",
    ),
    weights(
        "q-norm-and-k-norm-swapped",
        "q_norm and k_norm are swapped",
        lambda: _swapped(".q_norm.", ".k_norm."),
        seam="text.layers.{}.attn.q_norm",
    ),
    weights(
        "k-norm-not-loaded",
        "the weights of k_norm are not loaded and stay 1",
        lambda: _read_changed(torch.ones_like, ".k_norm."),
        seam="text.layers.{}.attn.k_norm",
    ),
    weights(
        "gate-and-up-swapped",
        "gate_proj and up_proj are swapped",
        lambda: _swapped(".gate_proj.", ".up_proj."),
        seam="text.layers.{}.mlp.out",
    ),
    weights(
        "layers-0-and-1-swapped",
        "the weights of decoder layers 0 and 1 are swapped",
        lambda: _swapped(TEXT + "layers.0.", TEXT + "layers.1."),
        seam="text.layers.0.input_norm",
    ),
    vision_weights(
        "vision-norms-swapped",
        "norm1 and norm2 of every vision block are swapped",
        lambda: _swapped(".norm1.", ".norm2."),
        seam="vision.blocks.{}.norm1",
    ),
    vision_weights(
        "deepstack-merger-bias-not-loaded",
        "the output bias of the DeepStack mergers is not loaded and stays 0",
        lambda: _read_changed(torch.zeros_like, "deepstack_merger_list", "linear_fc2.bias"),
        seam="vision.deepstack.{}",
    ),
    vision_weights(
        "patch-kernel-channels-last",
        "the kernel of the patch embedding is loaded with channels last",
        lambda: _read_changed(lambda x: x.movedim(1, -1).contiguous(), "patch_embed.proj.weight"),
        component="patch-embed",
        seam="vision.patch_embed",
    ),
    weights(
        "weights-in-bf16",
        "weights are rounded to bfloat16 when they are loaded",
        lambda: _read_changed(lambda x: rounded(x, torch.bfloat16)),
        seam="text.embed_tokens",
        needs=frozenset({"forward", "weights finer than bfloat16"}),
        dtypes=(FLOAT32,),
        invisible="bfloat16: they are bfloat16 anyway",
    ),
    refusal(
        "head-rows-off-by-one",
        "lm_head starts one row late",
        lambda: _read_changed(lambda x: x.roll(-1, dims=0), port.weights.LM_HEAD),
        seam="logits",
        step="prefill",
        needs=frozenset({"untied"}),
    ),
]
