"""Names, shapes and values of a seeded checkpoint's tensors. Each tensor depends only on (seed, name).

Scales are chosen so that every seam influences the logits: matrices have standard deviation gain / sqrt(fan_in),
norms are 1 + 0.2 n, biases and the position table are not zero. With the usual standard deviation of 0.02 the logits
are flat, and many bugs would not change them.

Legend: V = vocabulary, D = text hidden, Q = heads * head_dim, K = kv_heads * head_dim, F = intermediate,
E = vision hidden, C = channels, P = patch side, T_p = frames per temporal patch, M = spatial merge side.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

Layout = Literal["published", "legacy"]

RECIPE = 1
"""Increase it when a scale, a random stream or a name below changes. Older folders are then no longer reused."""

VISION_PREFIX = "model.visual."
TEXT_PREFIX = "model.language_model."
HEAD_NAME = "lm_head.weight"
EMBED_NAME = TEXT_PREFIX + "embed_tokens.weight"
FINAL_NORM_NAME = TEXT_PREFIX + "norm.weight"

MATRIX_GAIN = 1.2
HEAD_GAIN = 2.0  # standard deviation of the logits
EMBED_STD = 2.0  # untied: large enough that the next token depends on the last token, not only on the context
TIED_EMBED_GAIN = 3.0  # over sqrt(D); with a larger gain, a token predicts itself forever
NORM_SPREAD = 0.2
QK_NORM_MEAN = 1.75  # large enough that tokens attend to different tokens
BIAS_STD = 0.2
POSITION_STD = 0.5

# The older key layout. Without this map, the reference would keep random weights.
LEGACY_KEYS = {r"^visual\.": VISION_PREFIX, r"^model\.(?!visual\.|language_model\.)": TEXT_PREFIX}

_CHUNK = 1 << 22  # values drawn at a time


def _linear(name: str, out_size: int, in_size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out_size, in_size), f"{name}.bias": (out_size,)}


def _layer_norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _merger(name: str, norm: int, merged: int, out: int) -> dict[str, tuple[int, ...]]:
    return {
        **_layer_norm(f"{name}.norm", norm),
        **_linear(f"{name}.linear_fc1", merged, merged),
        **_linear(f"{name}.linear_fc2", out, merged),
    }


def _vision_names(vision: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = vision["hidden_size"], vision["intermediate_size"]
    merged = hidden * vision["spatial_merge_size"] ** 2
    patch = vision["patch_size"]
    kernel = (vision["temporal_patch_size"], patch, patch)
    names: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (hidden, vision["in_channels"], *kernel),  # (E, C, T_p, P, P)
        "patch_embed.proj.bias": (hidden,),
        "pos_embed.weight": (vision["num_position_embeddings"], hidden),
    }
    for index in range(vision["depth"]):
        block = f"blocks.{index}"
        names |= _layer_norm(f"{block}.norm1", hidden) | _layer_norm(f"{block}.norm2", hidden)
        names |= _linear(f"{block}.attn.qkv", 3 * hidden, hidden)
        names |= _linear(f"{block}.attn.proj", hidden, hidden)
        names |= _linear(f"{block}.mlp.linear_fc1", inner, hidden)
        names |= _linear(f"{block}.mlp.linear_fc2", hidden, inner)
    # The final merger normalises patches (E) and then merges them; a DeepStack merger normalises the merged M*M*E.
    names |= _merger("merger", hidden, merged, vision["out_hidden_size"])
    for index in range(len(vision["deepstack_visual_indexes"])):
        names |= _merger(f"deepstack_merger_list.{index}", merged, merged, vision["out_hidden_size"])
    return names


def _text_names(text: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, head = text["hidden_size"], text["intermediate_size"], text["head_dim"]
    query, key = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    names: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (text["vocab_size"], hidden)}
    for index in range(text["num_hidden_layers"]):
        layer = f"layers.{index}"
        names |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.self_attn.q_proj.weight": (query, hidden),
            f"{layer}.self_attn.k_proj.weight": (key, hidden),
            f"{layer}.self_attn.v_proj.weight": (key, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, query),
            **_attention_biases(f"{layer}.self_attn", text),
            f"{layer}.self_attn.q_norm.weight": (head,),
            f"{layer}.self_attn.k_norm.weight": (head,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
        }
    names["norm.weight"] = (hidden,)
    return names


def _attention_biases(name: str, text: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    if not text["attention_bias"]:
        return {}
    query, key = (text[heads] * text["head_dim"] for heads in ("num_attention_heads", "num_key_value_heads"))
    sizes = {"q_proj": query, "k_proj": key, "v_proj": key, "o_proj": text["hidden_size"]}
    return {f"{name}.{projection}.bias": (size,) for projection, size in sizes.items()}


def weight_shapes(config: Mapping[str, Any], *, lm_head_entry: bool | None = None) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a checkpoint by its published name, in the order in which they are written.

    Args:
        config: a `config.json` as a dict.
        lm_head_entry: whether `lm_head.weight` is stored; None: only if the embeddings aren't tied.

    Raises:
        ValueError: an untied checkpoint would have no head.
    """
    tied = config["tie_word_embeddings"]
    if lm_head_entry is False and not tied:
        raise ValueError("an untied checkpoint needs its lm_head.weight; use lm_head_entry=False only for tied ones")
    names = {VISION_PREFIX + name: shape for name, shape in _vision_names(config["vision_config"]).items()}
    names |= {TEXT_PREFIX + name: shape for name, shape in _text_names(config["text_config"]).items()}
    if lm_head_entry or not tied:
        names[HEAD_NAME] = names[EMBED_NAME]
    return names


def layout_name(name: str, *, layout: Layout) -> str:
    """Return a published tensor name in another layout. `legacy` names the two towers `visual.*` and `model.*`.

    Raises:
        ValueError: an unknown layout.
    """
    if layout == "published":
        return name
    if layout != "legacy":
        raise ValueError(f"layout {layout!r} is neither 'published' nor 'legacy'")
    if name.startswith(VISION_PREFIX):
        return "visual." + name.removeprefix(VISION_PREFIX)
    if name.startswith(TEXT_PREFIX):
        return "model." + name.removeprefix(TEXT_PREFIX)
    return name


def _scale(name: str, shape: tuple[int, ...], *, tied: bool) -> tuple[float, float]:
    """Return mean and standard deviation of a tensor's values."""
    if name.endswith(".bias"):
        return 0.0, BIAS_STD
    if tied and name == FINAL_NORM_NAME:  # scales the table's gain to the head's
        ratio = HEAD_GAIN / TIED_EMBED_GAIN
        return ratio, ratio * NORM_SPREAD
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return QK_NORM_MEAN, QK_NORM_MEAN * NORM_SPREAD
    if "norm" in name.rsplit(".", 2)[-2]:
        return 1.0, NORM_SPREAD
    if name.endswith("pos_embed.weight"):
        return 0.0, POSITION_STD
    if name == EMBED_NAME and not tied:
        return 0.0, EMBED_STD
    gains = {EMBED_NAME: TIED_EMBED_GAIN, HEAD_NAME: HEAD_GAIN}
    return 0.0, gains.get(name, MATRIX_GAIN) / math.sqrt(math.prod(shape[1:]))


def tensor_chunks(name: str, shape: tuple[int, ...], *, seed: int, tied: bool) -> Iterator[np.ndarray]:
    """Yield a tensor's values as flat float32 chunks in order, so that no whole tensor must be in memory.

    Args:
        name: published name; a tied head has the values of the embedding table.
        shape: as `weight_shapes` gives it.
        seed: seed of the checkpoint.
        tied: whether embedding table and head are one matrix (this decides the table's scale).
    """
    if tied and name == HEAD_NAME:
        name = EMBED_NAME
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(digest, "little"))))
    mean, std = _scale(name, shape, tied=tied)
    left = math.prod(shape)
    while left:
        count = min(left, _CHUNK)
        values = generator.standard_normal(count, dtype=np.float32)
        values *= np.float32(std)
        values += np.float32(mean)
        yield values
        left -= count


def tensor_values(name: str, shape: tuple[int, ...], *, seed: int, tied: bool) -> np.ndarray:
    """Return one whole float32 tensor of a seeded checkpoint. It does not depend on other tensors."""
    return np.concatenate(list(tensor_chunks(name, shape, seed=seed, tied=tied))).reshape(shape)


def published_name(name: str) -> str:
    """Return the published name of a tensor in the published or the legacy layout (``visual.*``, ``model.*``)."""
    for pattern, prefix in LEGACY_KEYS.items():
        name, changed = re.subn(pattern, prefix, name)
        if changed:
            break
    return name
