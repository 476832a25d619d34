"""Figures of activations: right for known inputs, and very different for trained and seeded weights."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from parity.cases.case import TINY, TRAINED, Case, Row
from parity.cases.media import Clip, Noise, scene_row
from parity.cli.main import main
from parity.diagnosis.activations import Activations, measure_activations
from parity.runs.inputs import CaseInputs
from parity.runs.loader import Loader
from port import load_model

ROWS = (("Two ", Noise(64, 96), " and ", Noise(96, 64, seed=2)), ("Moves? ", Clip(8, 64, 96)))


@pytest.fixture(scope="module")
def inputs(loader: Loader) -> CaseInputs:
    return loader.inputs(_case(ROWS), loader.checkpoint(TINY))


def _case(rows: tuple[Row, ...]) -> Case:
    return Case("a", "made for a test", 1, TINY, rows)


def test_even_attention_and_even_logits_are_told(loader: Loader, inputs: CaseInputs) -> None:
    model: Any = load_model(loader.checkpoint(TINY), dtype=torch.float32)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.q_norm.weight.zero_()
        for block in model.model.visual.blocks:
            block.attn.qkv.weight.zero_()
            block.attn.qkv.bias.zero_()
        model.model.language_model.norm.weight.zero_()
    found = measure_activations(model, inputs)
    assert found.text_attention == pytest.approx(1, abs=1e-5)
    assert found.text_peak == pytest.approx(1, abs=1e-4)
    assert found.vision_attention == pytest.approx(1, abs=1e-5)
    assert found.logits_entropy == pytest.approx(math.log(701), abs=1e-4)
    assert found.top1 == pytest.approx(1 / 701, rel=1e-4)


def test_loud_channels_are_told(loader: Loader, inputs: CaseInputs) -> None:
    model = load_model(loader.checkpoint(TINY), dtype=torch.float32)
    before = measure_activations(model, inputs)
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight[:, 3] += 1000
    after = measure_activations(model, inputs)
    assert after.text_outlier > 0.99 * 64**0.5 > before.text_outlier
    assert after.vision_outlier == before.vision_outlier
    # One channel of 64 at about 1000, but not at picture tokens.
    ids = inputs.tensors["input_ids"][inputs.tensors["attention_mask"].bool()]
    words = (ids != model.config.image_token_id) & (ids != model.config.video_token_id)
    share = float(words.float().mean())
    assert after.text_stream == pytest.approx(1000 * (share / 64) ** 0.5, rel=0.02)
    assert after.vision_stream == before.vision_stream


def test_text_alone_has_no_vision(loader: Loader) -> None:
    folder = loader.checkpoint(TINY)
    inputs = loader.inputs(_case((("words",),)), folder)
    found = measure_activations(loader.port(folder, "float32"), inputs)
    assert (found.vision_attention, found.vision_peak, found.vision_outlier) == (None, None, None)
    assert found.vision_stream is None


def test_trained_activations_are_not_seeded_ones(loader: Loader) -> None:
    rows, found = tuple(scene_row(number) for number in range(4)), {}
    for checkpoint in (TINY, TRAINED):
        folder = loader.checkpoint(checkpoint)
        inputs = loader.inputs(_case(rows), folder)
        found[checkpoint.label] = measure_activations(loader.port(folder, "float32"), inputs)
    seeded, trained = found[TINY.label], found[TRAINED.label]
    assert trained.answer_top1 > 0.95 > 0.5 > seeded.answer_top1
    assert trained.logits_entropy < 0.5 * seeded.logits_entropy
    assert trained.vision_attention is not None
    assert seeded.vision_attention is not None
    assert trained.vision_attention < 0.5 * seeded.vision_attention
    assert trained.text_attention < seeded.text_attention
    assert trained.text_stream > 4 * seeded.text_stream


def test_the_command_prints_one_object_a_checkpoint(loader: Loader) -> None:
    folder = loader.checkpoint(TINY)
    done = CliRunner().invoke(main, ["activations", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert list(found["models"]) == ["seeded", "trained", str(folder)]
    assert set(found["models"]["seeded"]) == set(asdict(Activations(*[0.0] * 11)))
