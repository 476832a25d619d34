"""Seeded random examples of the relations: the same seed gives the same example on every machine."""

from __future__ import annotations

import random

from parity.relations.spec import FIRST_WORD, Picture, Spec


def example(seed: int) -> Spec:
    """Return a small random config and batch."""
    draw = random.Random(seed)
    depth, layers, heads, kv_heads = (draw.randint(1, 3), draw.randint(1, 3), draw.randint(1, 3), draw.randint(1, 2))
    h, w = draw.randint(0, 2), draw.randint(0, 2)
    t = draw.randint(max(1, 2 * h - w, 2 * w - h), 4)
    vocab = draw.randint(12, 30)
    width = draw.randint(1, 3) * 4 * draw.randint(1, 2)
    vision = {
        "depth": depth,
        "hidden_size": width,
        "intermediate_size": draw.randint(3, 9),
        "num_heads": 2 if width % 8 == 0 else 1,
        "in_channels": draw.randint(1, 4),
        "patch_size": draw.randint(1, 3),
        "temporal_patch_size": draw.randint(1, 3),
        "spatial_merge_size": draw.randint(1, 3),
        "num_position_embeddings": draw.randint(1, 5) ** 2,
        "deepstack_visual_indexes": sorted(draw.sample(range(depth), draw.randint(0, min(depth, layers)))),
    }
    text = {
        "vocab_size": vocab,
        "hidden_size": draw.randint(4, 12),
        "intermediate_size": draw.randint(3, 9),
        "num_hidden_layers": layers,
        "num_attention_heads": heads * kv_heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 2 * (t + h + w),
        "rope_theta": 10000.0,
        "rope_scaling": {"mrope_section": [t, h, w], "mrope_interleaved": True, "rope_type": "default"},
    }
    rows = [[_part(draw, vocab) for _ in range(draw.randint(1, 5))] for _ in range(draw.randint(1, 4))]
    return Spec(
        seed, vision, text, draw.random() < 0.5, rows, "left" if draw.random() < 0.5 else "right", draw.randint(1, 9)
    )


def _part(draw: random.Random, vocab: int) -> int | Picture:
    if draw.random() < 0.5:
        return draw.randint(FIRST_WORD, vocab - 1)
    return Picture(draw.choice([1, 1, 2, 3]), draw.randint(1, 3), draw.randint(1, 3))
