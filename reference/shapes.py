"""Shapes: all numbers of a Qwen3-VL checkpoint, and its `config.json` as published checkpoints write it.

Released shapes are those of the dense checkpoints. Tiny shapes run in about a second. They avoid equal numbers that
could hide bugs, such as heads * head_dim == hidden size, taps 0..n-1 or merge == temporal patch.

Legend: C = channels, P = patch side, T_p = frames per temporal patch, M = spatial merge side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

RopeDialect = Literal["rope_scaling", "rope_parameters"]


@dataclass(frozen=True, kw_only=True)
class TextShape:
    """The decoder. `heads * head_dim` may differ from `hidden`; `sum(mrope_section) == head_dim / 2`."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    mrope_section: tuple[int, int, int]  # rotary pairs of the (t, h, w) axes
    head_dim: int = 128
    vocab: int = 151936
    rope_theta: float = 5_000_000
    max_positions: int = 262144
    norm_eps: float = 1e-6
    attention_bias: bool = False

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"text heads ({self.heads}) must be a multiple of kv heads ({self.kv_heads})")
        if sum(self.mrope_section) * 2 != self.head_dim:
            raise ValueError(
                f"mrope_section {list(self.mrope_section)} covers {sum(self.mrope_section)} rotary pairs, "
                f"head_dim {self.head_dim} has {self.head_dim // 2}; make them equal"
            )


@dataclass(frozen=True, kw_only=True)
class VisionShape:
    """The vision tower: `taps` are the blocks whose output feeds a DeepStack merger; `positions` is a square number."""

    depth: int
    hidden: int
    heads: int
    intermediate: int
    taps: tuple[int, ...]
    patch: int = 16
    temporal_patch: int = 2
    merge: int = 2
    positions: int = 2304  # side * side learned positions
    channels: int = 3

    def __post_init__(self) -> None:
        if self.hidden % (4 * self.heads):
            raise ValueError(
                f"vision hidden size {self.hidden} with {self.heads} heads gives no head_dim divisible by 4; "
                "the 2-D rotary embedding needs whole pairs in its height half and its width half"
            )
        if list(self.taps) != sorted(set(self.taps)) or not all(0 <= tap < self.depth for tap in self.taps):
            raise ValueError(
                f"taps {list(self.taps)} must be strictly increasing and within the {self.depth} vision blocks "
                f"0..{self.depth - 1}"
            )
        if round(self.positions**0.5) ** 2 != self.positions:
            raise ValueError(f"positions {self.positions} is not a square number; the table is side * side")


@dataclass(frozen=True, kw_only=True)
class PixelLimits:
    """Limits of the resize, in pixels: height * width of an image, frames * height * width of a video."""

    image_min: int = 65536
    image_max: int = 16777216
    video_min: int = 4096
    video_max: int = 25165824


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a checkpoint: both towers, whether the head is tied, pixel limits, id of the first special token."""

    name: str
    text: TextShape
    vision: VisionShape
    tied: bool
    limits: PixelLimits = PixelLimits()
    special_base: int | None = 151643  # id of <|endoftext|>; None: right after the last merge

    def __post_init__(self) -> None:
        if len(self.vision.taps) > self.text.layers:
            raise ValueError(
                f"shape {self.name!r}: {len(self.vision.taps)} taps need as many decoder layers or more, "
                f"but there are {self.text.layers}"
            )


def _released(
    name: str, tied: bool, hidden: int, layers: int, heads: int, intermediate: int, vision: VisionShape
) -> Shape:
    text = TextShape(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=8,
        intermediate=intermediate,
        mrope_section=(24, 20, 20),
    )
    return Shape(name=name, text=text, vision=vision, tied=tied)


_VISION_SMALL = VisionShape(depth=24, hidden=1024, heads=16, intermediate=4096, taps=(5, 11, 17))
_VISION_LARGE = VisionShape(depth=27, hidden=1152, heads=16, intermediate=4304, taps=(8, 16, 24))
_TINY_LIMITS = PixelLimits(image_min=4096, image_max=262144, video_min=4096, video_max=524288)

TINY = Shape(
    name="tiny",
    tied=False,
    text=TextShape(
        hidden=64,
        layers=5,
        heads=6,
        kv_heads=2,
        head_dim=16,
        intermediate=112,
        mrope_section=(4, 2, 2),
        vocab=701,
        max_positions=8192,
    ),
    vision=VisionShape(depth=6, hidden=48, heads=4, intermediate=88, taps=(1, 3, 4), positions=64),
    limits=_TINY_LIMITS,
    special_base=None,
)

# The same weights as TINY for pictures as large as the released checkpoints take.
TINY_LARGE = replace(TINY, name="tiny-large", limits=PixelLimits())

TINY_TIED = Shape(
    name="tiny-tied",
    tied=True,
    text=TextShape(
        hidden=80,
        layers=4,
        heads=4,
        kv_heads=4,
        head_dim=24,
        intermediate=136,
        mrope_section=(5, 4, 3),
        vocab=709,
        rope_theta=1_000_000,
        max_positions=6144,
    ),
    vision=VisionShape(depth=4, hidden=64, heads=2, intermediate=104, taps=(0, 2), positions=100),
    limits=_TINY_LIMITS,
    special_base=None,
)

TINY_ODD = Shape(
    name="tiny-odd",
    tied=False,
    text=TextShape(
        hidden=72,
        layers=3,
        heads=6,
        kv_heads=3,
        head_dim=20,
        intermediate=96,
        mrope_section=(4, 3, 3),
        vocab=719,
        max_positions=4096,
    ),
    vision=VisionShape(
        depth=4,
        hidden=60,
        heads=5,
        intermediate=92,
        taps=(2,),
        patch=14,
        temporal_patch=4,
        merge=3,
        positions=49,
    ),
    limits=_TINY_LIMITS,
    special_base=None,
)

# No number is that of another shape, and those that all released checkpoints share are different here.
TINY_OTHER = Shape(
    name="tiny-other",
    tied=False,
    text=TextShape(
        hidden=56,
        layers=2,
        heads=4,
        kv_heads=1,
        head_dim=12,
        intermediate=100,
        mrope_section=(2, 2, 2),
        vocab=739,
        rope_theta=10_000,
        max_positions=3072,
        norm_eps=1e-4,
        attention_bias=True,
    ),
    vision=VisionShape(
        depth=3,
        hidden=32,
        heads=1,
        intermediate=72,
        taps=(0, 1),
        patch=8,
        temporal_patch=3,
        merge=4,
        positions=36,
    ),
    limits=PixelLimits(image_min=2048, image_max=131072, video_min=2048, video_max=393216),
    special_base=700,
)

TRAINED = Shape(
    name="trained",
    tied=True,
    text=TextShape(
        hidden=208,
        layers=4,
        heads=6,
        kv_heads=2,
        head_dim=32,
        intermediate=480,
        mrope_section=(6, 5, 5),
        vocab=431,
        max_positions=4096,
    ),
    vision=VisionShape(depth=4, hidden=128, heads=4, intermediate=384, taps=(0, 2), positions=100),
    limits=PixelLimits(image_min=4096, image_max=65536, video_min=4096, video_max=262144),
    special_base=None,
)
"""The shape of the trained model, see `reference.training`."""

SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        shape.name: shape
        for shape in (
            TINY,
            TINY_LARGE,
            TINY_TIED,
            TINY_ODD,
            TINY_OTHER,
            _released("2b", True, 2048, 28, 16, 6144, _VISION_SMALL),
            _released("4b", True, 2560, 36, 32, 9728, _VISION_SMALL),
            _released("8b", False, 4096, 36, 32, 12288, _VISION_LARGE),
            _released("32b", False, 5120, 64, 64, 25600, _VISION_LARGE),
        )
    }
)
"""Every shape by name: tiny ones and the released dense ones."""

_MOE_NAMES = ("30b-a3b", "235b-a22b", "moe")


def get_shape(name: str) -> Shape:
    """Look up a shape by name. Upper and lower case are the same.

    Raises:
        ValueError: there is no such shape, or it is a mixture of experts.
    """
    key = name.lower()
    if key in SHAPES:
        return SHAPES[key]
    known = ", ".join(SHAPES)
    if any(moe in key for moe in _MOE_NAMES):
        raise ValueError(f"shape {name!r} is a mixture of experts, which is not supported; use one of: {known}")
    raise ValueError(f"no shape named {name!r}; there are: {known}")


def cut_depth(shape: Shape, depth: int) -> Shape:
    """Return `shape` with all its widths, but at most `depth` decoder layers and vision blocks.

    The number of taps and their relative places in the tower stay the same.

    Raises:
        ValueError: `depth` leaves no vision block without a tap, or cuts nothing.
    """
    least, most = len(shape.vision.taps) + 1, max(shape.text.layers, shape.vision.depth)
    if not least <= depth < most:
        raise ValueError(
            f"shape {shape.name!r} has {shape.text.layers} decoder layers, {shape.vision.depth} vision blocks "
            f"and {len(shape.vision.taps)} taps: depth must lie in {least}..{most - 1}, got {depth}"
        )
    text = replace(shape.text, layers=min(depth, shape.text.layers))
    kept = min(depth, shape.vision.depth)
    taps: list[int] = []
    for index, tap in enumerate(shape.vision.taps):
        wanted = round((tap + 1) * kept / shape.vision.depth) - 1
        room_after = kept - (len(shape.vision.taps) - index)
        taps.append(min(max(wanted, taps[-1] + 1 if taps else 0), room_after))
    vision = replace(shape.vision, depth=kept, taps=tuple(taps))
    return replace(shape, text=text, vision=vision)


def config_dict(
    shape: Shape,
    *,
    token_ids: Mapping[str, int],
    tied: bool | None = None,
    dtype: str = "bfloat16",
    rope_dialect: RopeDialect = "rope_scaling",
) -> dict[str, Any]:
    """Return a complete `config.json` for `shape`.

    Args:
        shape: the numbers.
        token_ids: id of each special token (`<|image_pad|>`, `<|vision_start|>`, ...).
        tied: whether the head shares the embedding table; None: the shape's own setting.
        dtype: the dtype of the stored weights, for example `float32`.
        rope_dialect: `rope_scaling` writes `rope_theta` + `rope_scaling` as published checkpoints do;
            `rope_parameters` writes the single table that transformers 5 saves (transformers 4 can't load it).

    Raises:
        ValueError: an unknown `rope_dialect`.
    """
    text, vision = shape.text, shape.vision
    is_tied = shape.tied if tied is None else tied
    mrope = {"mrope_interleaved": True, "mrope_section": list(text.mrope_section), "rope_type": "default"}
    rope: dict[str, Any]
    if rope_dialect == "rope_scaling":
        rope = {"rope_scaling": mrope, "rope_theta": text.rope_theta}
    elif rope_dialect == "rope_parameters":
        rope = {"rope_parameters": {**mrope, "rope_theta": text.rope_theta}}
    else:
        raise ValueError(f"rope_dialect {rope_dialect!r} is neither 'rope_scaling' nor 'rope_parameters'")
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "image_token_id": token_ids["<|image_pad|>"],
        "model_type": "qwen3_vl",
        "text_config": {
            "attention_bias": text.attention_bias,
            "attention_dropout": 0.0,
            "bos_token_id": token_ids["<|endoftext|>"],
            "dtype": dtype,
            "eos_token_id": token_ids["<|im_end|>"],
            "head_dim": text.head_dim,
            "hidden_act": "silu",
            "hidden_size": text.hidden,
            "initializer_range": 0.02,
            "intermediate_size": text.intermediate,
            "max_position_embeddings": text.max_positions,
            "model_type": "qwen3_vl_text",
            "num_attention_heads": text.heads,
            "num_hidden_layers": text.layers,
            "num_key_value_heads": text.kv_heads,
            "rms_norm_eps": text.norm_eps,
            **rope,
            "tie_word_embeddings": is_tied,
            "use_cache": True,
            "vocab_size": text.vocab,
        },
        "tie_word_embeddings": is_tied,
        "transformers_version": "4.57.0",
        "video_token_id": token_ids["<|video_pad|>"],
        "vision_config": {
            "deepstack_visual_indexes": list(vision.taps),
            "depth": vision.depth,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": vision.hidden,
            "in_channels": vision.channels,
            "initializer_range": 0.02,
            "intermediate_size": vision.intermediate,
            "model_type": "qwen3_vl",
            "num_heads": vision.heads,
            "num_position_embeddings": vision.positions,
            "out_hidden_size": text.hidden,
            "patch_size": vision.patch,
            "spatial_merge_size": vision.merge,
            "temporal_patch_size": vision.temporal_patch,
        },
        "vision_end_token_id": token_ids["<|vision_end|>"],
        "vision_start_token_id": token_ids["<|vision_start|>"],
    }
