"""Writes a checkpoint as llama.cpp reads it: a GGUF file of the text model and one of the vision tower (mmproj).

All numbers stay as they are, in float32. Names of tensors and fields are those of llama.cpp's own converter
(``conversion/qwen3vl.py`` in https://github.com/ggml-org/llama.cpp, and the tables of the package ``gguf``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from parity.core.errors import ParityError
from port.config import Qwen3VLConfig
from port.pixel_config import PictureConfig
from port.weights import Checkpoint

_MODEL, _TOWER = "model.language_model.", "model.visual."
_CONTEXT = 4096
_NORMAL, _CONTROL, _USER = 1, 3, 4  # types of tokens
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_BLOCK = {
    "norm1": "ln1",
    "norm2": "ln2",
    "attn.qkv": "attn_qkv",
    "attn.proj": "attn_out",
    "mlp.linear_fc1": "ffn_up",
    "mlp.linear_fc2": "ffn_down",
}
_MERGER = {"norm": "v.post_ln", "linear_fc1": "mm.0", "linear_fc2": "mm.2"}
_DEEPSTACK = {"norm": "norm", "linear_fc1": "fc1", "linear_fc2": "fc2"}


def write_gguf(checkpoint: Path, folder: Path) -> tuple[Path, Path]:
    """Write ``model.gguf`` and ``mmproj.gguf`` into ``folder``. Returns both paths.

    Raises ParityError if the package ``gguf`` is not installed, or for a checkpoint that llama.cpp cannot hold.
    """
    try:
        import gguf
    except ImportError:
        raise ParityError("gguf is not installed: pip install 'qwen3vl-parity[engines]'") from None
    config = Qwen3VLConfig.from_folder(checkpoint)
    if config.vision.temporal_patch_size != 2 or config.vision.spatial_merge_size != 2:
        raise ParityError(
            f"llama.cpp holds two frames per patch and merges 2 x 2 patches; {checkpoint} has "
            f"{config.vision.temporal_patch_size} and {config.vision.spatial_merge_size}"
        )
    paths = folder / "model.gguf", folder / "mmproj.gguf"
    with Checkpoint(checkpoint) as tensors:
        _write(gguf.GGUFWriter(paths[0], "qwen3vl"), checkpoint, config, tensors)
        _write(gguf.GGUFWriter(paths[1], "clip"), checkpoint, config, tensors)
    return paths


def _write(writer: Any, checkpoint: Path, config: Qwen3VLConfig, tensors: Checkpoint) -> None:
    text = writer.arch == "qwen3vl"
    if text:
        _text_fields(writer, config)
        _vocabulary(writer, checkpoint, config)
    else:
        _tower_fields(writer, checkpoint, config)
    for name, array in (_text if text else _tower)(config, tensors):
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _text_fields(writer: Any, config: Qwen3VLConfig) -> None:
    text = config.text
    writer.add_file_type(0)
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(text.hidden_size)
    writer.add_block_count(text.num_hidden_layers)
    writer.add_feed_forward_length(text.intermediate_size)
    writer.add_head_count(text.num_attention_heads)
    writer.add_head_count_kv(text.num_key_value_heads)
    writer.add_key_length(text.head_dim)
    writer.add_value_length(text.head_dim)
    writer.add_layer_norm_rms_eps(text.rms_norm_eps)
    writer.add_rope_freq_base(text.rope_theta)
    writer.add_rope_dimension_sections([*text.mrope_section, 0])
    writer.add_num_deepstack_layers(len(config.vision.deepstack_visual_indexes))


def _vocabulary(writer: Any, checkpoint: Path, config: Qwen3VLConfig) -> None:
    found = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = [f"[PAD{number}]" for number in range(config.text.vocab_size)]
    types = [_NORMAL] * len(tokens)
    for token, number in found["model"]["vocab"].items():
        tokens[number] = token
    for added in found["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = _CONTROL if added["special"] else _USER
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in found["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    template = checkpoint / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(template.read_text(encoding="utf-8"))


def _tower_fields(writer: Any, checkpoint: Path, config: Qwen3VLConfig) -> None:
    vision, pixels = config.vision, PictureConfig.from_folder(checkpoint)
    writer.add_type("mmproj")
    writer.add_file_type(0)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("qwen3vl_merger")
    writer.add_vision_use_gelu(True)
    writer.add_vision_projection_dim(config.text.hidden_size)
    writer.add_vision_image_size(vision.grid_side * vision.patch_size)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
    writer.add_vision_block_count(vision.depth)
    writer.add_vision_head_count(vision.num_heads)
    writer.add_vision_image_mean([float(value) for value in pixels.image_mean])
    writer.add_vision_image_std([float(value) for value in pixels.image_std])
    writer.add_vision_spatial_merge_size(vision.spatial_merge_size)
    writer.add_vision_attention_layernorm_eps(1e-6)  # fixed by the architecture
    writer.add_vision_is_deepstack_layers([at in vision.deepstack_visual_indexes for at in range(vision.depth)])


def _text(config: Qwen3VLConfig, tensors: Checkpoint) -> Iterator[tuple[str, np.ndarray]]:
    yield "token_embd.weight", _array(tensors, f"{_MODEL}embed_tokens.weight")
    yield "output_norm.weight", _array(tensors, f"{_MODEL}norm.weight")
    if not config.tie_word_embeddings:
        yield "output.weight", _array(tensors, "lm_head.weight")
    for layer in range(config.text.num_hidden_layers):
        for own, theirs in _LAYER.items():
            yield f"blk.{layer}.{theirs}.weight", _array(tensors, f"{_MODEL}layers.{layer}.{own}.weight")


def _tower(config: Qwen3VLConfig, tensors: Checkpoint) -> Iterator[tuple[str, np.ndarray]]:
    patches = _array(tensors, f"{_TOWER}patch_embed.proj.weight")  # (C, 3, 2, P, P)
    yield "v.patch_embd.weight", np.ascontiguousarray(patches[:, :, 0])
    yield "v.patch_embd.weight.1", np.ascontiguousarray(patches[:, :, 1])
    yield "v.patch_embd.bias", _array(tensors, f"{_TOWER}patch_embed.proj.bias")
    yield "v.position_embd.weight", _array(tensors, f"{_TOWER}pos_embed.weight")
    for kind in ("weight", "bias"):
        for block in range(config.vision.depth):
            for own, theirs in _BLOCK.items():
                yield f"v.blk.{block}.{theirs}.{kind}", _array(tensors, f"{_TOWER}blocks.{block}.{own}.{kind}")
        for own, theirs in _MERGER.items():
            yield f"{theirs}.{kind}", _array(tensors, f"{_TOWER}merger.{own}.{kind}")
        for place, block in enumerate(config.vision.deepstack_visual_indexes):
            for own, theirs in _DEEPSTACK.items():
                given = _array(tensors, f"{_TOWER}deepstack_merger_list.{place}.{own}.{kind}")
                yield f"v.deepstack.{block}.{theirs}.{kind}", given


def _array(tensors: Checkpoint, name: str) -> np.ndarray:
    if name not in tensors.keys:
        raise ParityError(f"{tensors.folder} has no {name}, which llama.cpp needs")
    found: np.ndarray = tensors.read(name).float().numpy()
    return found
