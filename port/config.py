"""Configuration of Qwen3-VL, read from a checkpoint's ``config.json``.

Both dialects are read: the published one (``rope_theta`` beside ``rope_scaling``) and the one of
transformers 5 (``rope_parameters``). No field has a default. A missing field is an error, because any default
would be wrong for some checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from port.errors import ConfigError
from port.json_fields import Fields, read_object

# Fixed by the architecture: the config has no fields for them, and the reference hard-codes them.
VISION_ROPE_THETA = 10000.0
LAYER_NORM_EPS = 1e-6
# The largest released model has 94; a config that asks for a million would take all memory before a tensor is read.
MOST_LAYERS = 1000


@dataclass(frozen=True)
class VisionConfig:
    """The shape of the vision tower. Fields have the same names as in ``config.json``."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    out_hidden_size: int
    num_position_embeddings: int
    deepstack_visual_indexes: tuple[int, ...]

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def grid_side(self) -> int:
        """Side length of the square table of learned positions."""
        return math.isqrt(self.num_position_embeddings)

    @property
    def patch_dim(self) -> int:
        """Numbers in one flattened patch: channels x frames x height x width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True)
class TextConfig:
    """The shape of the language model. Fields have the same names as in ``config.json``."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    attention_bias: bool
    rope_theta: float
    mrope_section: tuple[int, int, int]


@dataclass(frozen=True)
class Qwen3VLConfig:
    """The whole model. ``tie_word_embeddings`` is the top-level field; the one in text_config is ignored."""

    text: TextConfig
    vision: VisionConfig
    tie_word_embeddings: bool
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int

    @classmethod
    def from_folder(cls, folder: Path) -> Qwen3VLConfig:
        """Read ``folder/config.json``. Raises ConfigError if it is missing, broken or incomplete."""
        path = Path(folder) / "config.json"
        return cls.from_dict(read_object(path), where=str(path))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, where: str = "config") -> Qwen3VLConfig:
        """Build from the parsed ``config.json``. Raises ConfigError that names the field and says what to do."""
        top = Fields(raw, where)
        model_type = top.string("model_type")
        if model_type != "qwen3_vl":
            raise ConfigError(
                f"{where}: model_type is {model_type!r}; this port supports only 'qwen3_vl' (dense) checkpoints"
            )
        config = cls(
            text=_text_config(top.section("text_config")),
            vision=_vision_config(top.section("vision_config")),
            # The top-level field counts (see commit c3d69e0e4 of mistral.rs). text_config may have a copy of it,
            # which may be out of date, so the copy is ignored.
            tie_word_embeddings=top.flag("tie_word_embeddings"),
            image_token_id=top.integer("image_token_id", minimum=0),
            video_token_id=top.integer("video_token_id", minimum=0),
            vision_start_token_id=top.integer("vision_start_token_id", minimum=0),
            vision_end_token_id=top.integer("vision_end_token_id", minimum=0),
        )
        _check_whole(config, where)
        return config


def _text_config(section: Fields) -> TextConfig:
    if "num_experts" in section.raw:
        raise ConfigError(
            f"{section.where}: num_experts is set; mixture-of-experts models are not supported, use a dense checkpoint"
        )
    section.require("hidden_act", "silu")
    heads = section.integer("num_attention_heads")
    kv_heads = section.integer("num_key_value_heads")
    if heads % kv_heads:
        raise ConfigError(
            f"{section.where}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    head_dim = section.integer("head_dim")
    theta, mrope_section = _rope(section)
    if sum(mrope_section) * 2 != head_dim:
        raise ConfigError(
            f"{section.where}: mrope_section {list(mrope_section)} adds up to {sum(mrope_section)} frequencies, "
            f"but head_dim {head_dim} has {head_dim // 2}; the three numbers must add up to half of head_dim"
        )
    return TextConfig(
        vocab_size=section.integer("vocab_size"),
        hidden_size=section.integer("hidden_size"),
        intermediate_size=section.integer("intermediate_size"),
        num_hidden_layers=section.integer("num_hidden_layers", maximum=MOST_LAYERS),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=section.number("rms_norm_eps", above=0),
        attention_bias=section.flag("attention_bias"),
        rope_theta=theta,
        mrope_section=mrope_section,
    )


def _rope(section: Fields) -> tuple[float, tuple[int, int, int]]:
    """rope_theta and mrope_section from either dialect. If a file has both, they must agree."""
    found: dict[str, tuple[float, tuple[int, int, int]]] = {}
    if section.has("rope_parameters"):
        inner = section.section("rope_parameters")
        found["rope_parameters"] = (inner.number("rope_theta", above=0), _mrope_section(inner))
    if section.has("rope_scaling"):
        inner = section.section("rope_scaling")
        # transformers 5 may write rope_theta into rope_scaling as well.
        holder = inner if "rope_theta" in inner.raw else section
        found["rope_scaling"] = (holder.number("rope_theta", above=0), _mrope_section(inner))
    if not found:
        raise ConfigError(
            f"{section.where}: neither rope_scaling (with rope_theta beside it) nor rope_parameters is set; "
            "mrope_section and rope_theta have no default, add one of the two"
        )
    values = list(found.values())
    if any(value != values[0] for value in values):
        raise ConfigError(
            f"{section.where}: rope_parameters says {found['rope_parameters']}, "
            f"rope_scaling says {found['rope_scaling']}; remove the wrong one"
        )
    theta = values[0][0]
    beside = section.number("rope_theta", above=0, default=theta)
    if beside != theta:
        raise ConfigError(
            f"{section.where}: rope_theta is {beside:g}, but the one in {' and '.join(found)} is {theta:g}; "
            "remove the wrong one"
        )
    return values[0]


def _mrope_section(rope: Fields) -> tuple[int, int, int]:
    rope.require("rope_type", "default")  # no scaling
    if not rope.flag("mrope_interleaved"):
        raise ConfigError(f"{rope.at('mrope_interleaved')} is false; it must be true for Qwen3-VL")
    sections = rope.integers("mrope_section", minimum=0)
    if len(sections) != 3:
        raise ConfigError(f"{rope.at('mrope_section')} has {len(sections)} entries; it needs 3 (t, h, w)")
    time, height, width = sections
    # Frequencies alternate t, h, w, t, h, w, ...: h and w take every third place, and t takes what is left.
    if 3 * max(height, width) > time + height + width:
        raise ConfigError(
            f"{rope.at('mrope_section')} {list(sections)}: h or w needs {3 * max(height, width)} interleaved "
            f"places, but there are {time + height + width}"
        )
    return time, height, width


def _vision_config(section: Fields) -> VisionConfig:
    section.require("hidden_act", "gelu_pytorch_tanh")
    hidden, heads = section.integer("hidden_size"), section.integer("num_heads")
    if hidden % heads or (hidden // heads) % 4:
        raise ConfigError(
            f"{section.where}: hidden_size {hidden} over num_heads {heads} gives a head width of {hidden / heads:g}; "
            "2-D rotary embeddings need a multiple of 4"
        )
    positions = section.integer("num_position_embeddings")
    if math.isqrt(positions) ** 2 != positions:
        raise ConfigError(f"{section.where}: num_position_embeddings {positions} is not a square number")
    depth = section.integer("depth", maximum=MOST_LAYERS)
    taps = section.integers("deepstack_visual_indexes", minimum=0)
    if list(taps) != sorted(set(taps)) or any(tap >= depth for tap in taps):
        raise ConfigError(
            f"{section.where}: deepstack_visual_indexes {list(taps)} must increase and be below depth {depth}"
        )
    return VisionConfig(
        depth=depth,
        hidden_size=hidden,
        intermediate_size=section.integer("intermediate_size"),
        num_heads=heads,
        in_channels=section.integer("in_channels"),
        patch_size=section.integer("patch_size"),
        temporal_patch_size=section.integer("temporal_patch_size"),
        spatial_merge_size=section.integer("spatial_merge_size"),
        out_hidden_size=section.integer("out_hidden_size"),
        num_position_embeddings=positions,
        deepstack_visual_indexes=taps,
    )


def _check_whole(config: Qwen3VLConfig, where: str) -> None:
    text, vision = config.text, config.vision
    if vision.out_hidden_size != text.hidden_size:
        raise ConfigError(
            f"{where}: vision_config.out_hidden_size {vision.out_hidden_size} is not "
            f"text_config.hidden_size {text.hidden_size}; picture features could not replace token embeddings"
        )
    taps = len(vision.deepstack_visual_indexes)
    if taps > text.num_hidden_layers:
        raise ConfigError(
            f"{where}: {taps} deepstack_visual_indexes, but only {text.num_hidden_layers} decoder layers for them"
        )
    ids = (
        config.image_token_id,
        config.video_token_id,
        config.vision_start_token_id,
        config.vision_end_token_id,
    )
    if len(set(ids)) != len(ids) or max(ids) >= text.vocab_size:
        raise ConfigError(
            f"{where}: image, video, vision start and vision end token ids {ids} must differ and be below "
            f"vocab_size {text.vocab_size}"
        )
