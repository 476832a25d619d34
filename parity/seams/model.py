"""The seams of the model: names, axes, gates, and when each is expected.

To add a seam, add a line to the tables below, tap it in ``port/`` with the same name, and capture it from the reference
in ``reference/capture.py``. The tests then require it from both sides. For the axes see ``spec``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.core.trace import GateKind, SeamKey
from parity.seams.spec import Expected, Join, Rows, SeamSpec, label_key


def _inputs(name: str, layout: str, where: str, rows: Rows | None = None) -> SeamSpec:
    return SeamSpec(name, tuple(layout.split()), where, "inputs", "exact", rows)


def _vision(name: str, layout: str, where: str, *, gate: GateKind = "float", rows: Rows | None = "patches") -> SeamSpec:
    return SeamSpec("vision." + name, tuple(layout.split()), where, "vision", gate, rows)


def _text(
    name: str,
    layout: str,
    where: str,
    *,
    gate: GateKind = "float",
    join: Join = "concat",
    group: str = "text",
    rows: Rows = "tokens",
) -> SeamSpec:
    return SeamSpec(name, tuple(layout.split()), where, group, gate, rows, join)


IDS = _inputs("input_ids", "batch token", "argument", "tokens")
MASK = _inputs("attention_mask", "batch token", "argument, prefill only")
IMAGE_INPUTS = (
    _inputs("image_pixels", "patch channel", "pixel_values", "patches"),
    _inputs("image_grid_thw", "picture thw", "argument"),
    _inputs("image_mask", "batch token", "get_placeholder_mask", "tokens"),
)
VIDEO_INPUTS = (
    _inputs("video_pixels", "patch channel", "pixel_values_videos", "patches"),
    _inputs("video_grid_thw", "picture thw", "argument"),
    _inputs("video_mask", "batch token", "get_placeholder_mask", "tokens"),
)
POSITIONS = _text("text.position_ids", "axis batch token", "argument of the text rotary", gate="exact", group="inputs")
DELTA = _inputs("rope_delta", "batch one", "next position - real tokens, after the prefill")
EMBED_TOKENS = _text("text.embed_tokens", "batch token channel", "language_model.embed_tokens", join="once")
INPUTS_EMBEDS = _text("text.inputs_embeds", "batch token channel", "argument of language_model: after the scatter")

VISION_HEAD = (
    _vision("patch_embed", "patch channel", "visual.patch_embed"),
    _vision("pos_embed", "patch channel", "visual.pos_embed, interpolated"),
    _vision("embed", "patch channel", "argument of visual.blocks[0]"),
    _vision("rope_cos", "patch channel", "argument of visual.blocks[0]"),
    _vision("rope_sin", "patch channel", "argument of visual.blocks[0]"),
    _vision("cu_seqlens", "boundary", "argument of visual.blocks[0]", gate="exact", rows=None),
)
VISION_BLOCK = (
    _vision("blocks.{}.norm1", "patch channel", "block.norm1"),
    _vision("blocks.{}.attn.qkv", "patch channel", "block.attn.qkv"),
    _vision("blocks.{}.attn.q_rope", "patch head channel", "apply_rotary_pos_emb_vision"),
    _vision("blocks.{}.attn.k_rope", "patch head channel", "apply_rotary_pos_emb_vision"),
    _vision("blocks.{}.attn.context", "patch channel", "argument of block.attn.proj"),
    _vision("blocks.{}.attn.out", "patch channel", "block.attn"),
    _vision("blocks.{}.norm2", "patch channel", "block.norm2"),
    _vision("blocks.{}.mlp.out", "patch channel", "block.mlp"),
    _vision("blocks.{}.out", "patch channel", "block"),
)
VISION_DEEPSTACK = _vision("deepstack.{}", "merged channel", "visual.deepstack_merger_list", rows="merged")
VISION_MERGER = _vision("merger", "merged channel", "visual.merger", rows="merged")

TEXT_HEAD = (
    _text("text.rope_cos", "batch token channel", "language_model.rotary_emb"),
    _text("text.rope_sin", "batch token channel", "language_model.rotary_emb"),
    _text("text.causal_mask", "batch one token key", "argument of layers[0], eager", gate="exact", join="mask"),
)
TEXT_LAYER = (
    _text("text.layers.{}.input_norm", "batch token channel", "layer.input_layernorm"),
    _text("text.layers.{}.attn.q_norm", "batch token head channel", "self_attn.q_norm"),
    _text("text.layers.{}.attn.k_norm", "batch token head channel", "self_attn.k_norm"),
    _text("text.layers.{}.attn.v", "batch token head channel", "self_attn.v_proj"),
    _text("text.layers.{}.attn.q_rope", "batch token head channel", "apply_rotary_pos_emb"),
    _text("text.layers.{}.attn.k_rope", "batch token head channel", "apply_rotary_pos_emb"),
    _text(
        "text.layers.{}.attn.k_cache", "batch head key channel", "cache layer", join="last", group="cache", rows="keys"
    ),
    _text(
        "text.layers.{}.attn.v_cache", "batch head key channel", "cache layer", join="last", group="cache", rows="keys"
    ),
    _text("text.layers.{}.attn.context", "batch token channel", "argument of self_attn.o_proj"),
    _text("text.layers.{}.attn.out", "batch token channel", "self_attn"),
    _text("text.layers.{}.post_attention_norm", "batch token channel", "layer.post_attention_layernorm"),
    _text("text.layers.{}.mlp.out", "batch token channel", "layer.mlp"),
    _text("text.layers.{}.out", "batch token channel", "layer"),
)
TEXT_DEEPSTACK = _text("text.layers.{}.deepstack", "batch token channel", "_deepstack_process")
TEXT_TAIL = (
    _text("text.norm", "batch token channel", "language_model.norm"),
    _text("logits", "batch token vocabulary", "lm_head", group="output"),
)


def model_specs() -> list[SeamSpec]:
    """Return every kind of seam, in the order of the computation. ``{}`` stands for a block, layer or tap."""
    return [
        IDS,
        MASK,
        *IMAGE_INPUTS,
        *VIDEO_INPUTS,
        POSITIONS,
        DELTA,
        EMBED_TOKENS,
        *VISION_HEAD,
        *VISION_BLOCK,
        VISION_DEEPSTACK,
        VISION_MERGER,
        INPUTS_EMBEDS,
        *TEXT_HEAD,
        *TEXT_LAYER,
        TEXT_DEEPSTACK,
        *TEXT_TAIL,
    ]


@dataclass(frozen=True)
class Dimensions:
    """The numbers of a config that decide which seams there are."""

    vision_depth: int
    vision_taps: int
    text_layers: int

    @classmethod
    def from_config(cls, raw: Mapping[str, Any]) -> Dimensions:
        """Read them from a parsed config.json."""
        vision, text = raw["vision_config"], raw["text_config"]
        return cls(vision["depth"], len(vision["deepstack_visual_indexes"]), text["num_hidden_layers"])


def expected_model_seams(dimensions: Dimensions, *, decode_steps: int, images: bool, videos: bool) -> list[Expected]:
    """Return every value of a prefill and its decode steps, in the order of the computation."""
    seams: list[Expected] = []

    def add(spec: SeamSpec, step: str, call: int, *index: int, labels: int | str = 0) -> None:
        rows = None if spec.rows is None else label_key(spec.rows, labels)
        seams.append(Expected(SeamKey(spec.name.format(*index), call), spec, step, rows))

    passes = [("images", IMAGE_INPUTS)] * images + [("videos", VIDEO_INPUTS)] * videos
    add(IDS, "prefill", 0)
    add(MASK, "prefill", 0)
    for kind, specs in passes:
        for spec in specs:
            add(spec, "prefill", 0, labels=0 if spec.rows == "tokens" else kind)
    for spec in (POSITIONS, DELTA, EMBED_TOKENS):
        add(spec, "prefill", 0)
    for call, (kind, _) in enumerate(passes):
        for spec, index in _vision_pass(dimensions):
            add(spec, f"prefill, {kind}", call, *index, labels=kind)
    for step in range(decode_steps + 1):
        name = f"decode {step}" if step else "prefill"
        if step:
            for spec in (IDS, POSITIONS, EMBED_TOKENS):
                add(spec, name, step, labels=step)
        add(INPUTS_EMBEDS, name, step, labels=step)
        taps = dimensions.vision_taps if passes and step == 0 else 0
        for spec, index in _text_pass(dimensions.text_layers, taps):
            add(spec, name, step, *index, labels=step)
    return seams


def _vision_pass(dimensions: Dimensions) -> Iterator[tuple[SeamSpec, Sequence[int]]]:
    yield from ((spec, ()) for spec in VISION_HEAD)
    for block in range(dimensions.vision_depth):
        yield from ((spec, (block,)) for spec in VISION_BLOCK)
    for tap in range(dimensions.vision_taps):
        yield VISION_DEEPSTACK, (tap,)
    yield VISION_MERGER, ()


def _text_pass(layers: int, taps: int) -> Iterator[tuple[SeamSpec, Sequence[int]]]:
    yield from ((spec, ()) for spec in TEXT_HEAD)
    for layer in range(layers):
        yield from ((spec, (layer,)) for spec in TEXT_LAYER)
        if layer < taps:
            yield TEXT_DEEPSTACK, (layer,)
    yield from ((spec, ()) for spec in TEXT_TAIL)
