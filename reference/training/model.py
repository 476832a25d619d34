"""The folder of an untrained model, and its initial weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from reference.checkpoint import small_files
from reference.shapes import TRAINED, Shape, config_dict
from reference.tokenizer import tokenizer_parts
from reference.world.questions import vocabulary_corpus

MERGES = 140


def write_small_files(folder: Path, shape: Shape = TRAINED) -> None:
    """Write all files of a checkpoint except weights: configs, tokenizer (one token for each word), template."""
    parts = tokenizer_parts(sentences=vocabulary_corpus(), merges=MERGES)
    config = config_dict(shape, token_ids=parts.special_ids, dtype="bfloat16")
    for name, content in small_files(shape, parts, config).items():
        (folder / name).write_bytes(content)


def fresh_model(folder: Path, *, seed: int) -> Any:
    """Make the reference's own model with the config in ``folder`` and weights drawn from ``seed``."""
    torch.manual_seed(seed)
    config = Qwen3VLConfig.from_pretrained(folder)
    model = Qwen3VLForConditionalGeneration._from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.05)
    for layer in model.model.language_model.layers:
        # Queries and keys are normalised. Only with larger norm weights can attention focus on one place.
        for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
            nn.init.constant_(norm.weight, 1.6)
    visual = model.model.visual
    _see_at_once(visual.patch_embed.proj.weight.data)
    _know_places(visual.pos_embed.weight.data)
    return model.train()


def _see_at_once(weight: Tensor) -> None:
    """Fill (C, channels, T, P, P) with the smooth patterns of a cosine transform, coarse ones first.

    Half of them apply to the sum of the frames, for shapes and colours, and half to the difference, for motion.
    """
    count, channels, frames, side, _ = weight.shape
    places = torch.arange(side, dtype=torch.float32) + 0.5
    waves = torch.stack([torch.cos(torch.pi * places * k / side) for k in range(side)])  # (P, P)
    order = sorted((a + b, a, b) for a in range(side) for b in range(side))
    filters = [
        (channel, time, waves[a][:, None] * waves[b][None, :])
        for _, a, b in order
        for channel in range(channels)
        for time in (1.0, -1.0)
    ]
    weight.zero_()
    for row, (channel, time, pattern) in zip(weight, filters, strict=False):
        signs = torch.tensor([1.0, time] * (frames // 2)).view(-1, 1, 1)
        row[channel] = signs * pattern / (pattern.norm() * frames**0.5) * 0.15
    if count > len(filters):
        raise ValueError(f"there are {count} channels, but only {len(filters)} patterns")


def _know_places(table: Tensor) -> None:
    """Fill (side^2, C) with bumps: each channel responds to one row or column and its neighbours."""
    side, half = round(len(table) ** 0.5), table.shape[1] // 2
    places = torch.linspace(0, 1, side)
    bumps = torch.exp(-(((places[:, None] - torch.linspace(0, 1, half)[None, :]) / 0.12) ** 2))  # (side, C/2)
    rows = bumps[:, None, :].expand(side, side, half)
    columns = bumps[None, :, :].expand(side, side, half)
    table.copy_(torch.cat([rows, columns], dim=2).reshape(len(table), -1) - bumps.mean())
