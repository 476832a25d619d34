"""Training: batches are the reference's own inputs, the loop learns, and what ships is what the run wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from reference.model import ReferenceModel
from reference.processor import ReferenceProcessor
from reference.training.batches import IGNORED, Mixture, answer_labels, training_batch
from reference.training.evaluate import medium, reference_answers
from reference.training.export import write_provenance, write_weights
from reference.training.loop import make_optimizers, train
from reference.training.model import fresh_model, write_small_files
from reference.training.recipe import Recipe
from reference.world.exam import exam

TINY = Mixture(pictures=3, clips=1, asked=2, most=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("training")
    write_small_files(made)
    return made


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return AutoProcessor.from_pretrained(folder)


def test_every_word_is_one_token(processor: Any) -> None:
    for word in ("red", "triangle", "cross", "bottom", "right", "three", "goes", "objects"):
        assert len(processor.tokenizer.encode(f" {word}")) == 1, word


def test_labels_are_the_answers_and_what_picture_tokens_show(processor: Any) -> None:
    batch = training_batch(processor, np.random.default_rng(0), TINY)
    labels, ids = batch["labels"], batch["input_ids"]
    answers = answer_labels(ids, processor.tokenizer)
    assert torch.equal(labels[answers != IGNORED], ids[answers != IGNORED])
    extra = (labels != IGNORED) & (answers == IGNORED)
    after_picture = torch.isin(ids, torch.tensor([processor.image_token_id, processor.video_token_id])).roll(1, 1)
    assert int(extra.sum()) >= 4
    assert bool(after_picture[extra].all())
    said = processor.tokenizer.decode(ids[0][answers[0] != IGNORED].tolist())
    assert said.count("<|im_end|>") == 2


def test_batches_are_the_same_for_the_same_seed(processor: Any) -> None:
    first, second = (training_batch(processor, np.random.default_rng(5), TINY) for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(steps=100, warmup=10, level=0.4)
    shares = [recipe.share(step) for step in range(100)]
    assert shares[0] == 0.1
    assert shares[20] == shares[40] == 1.0
    assert 0 < shares[99] < 0.02
    assert shares[9:] == sorted(shares[9:], reverse=True)


def test_every_parameter_has_one_optimizer(folder: Path) -> None:
    model = fresh_model(folder, seed=0)
    optimizers = make_optimizers(model, Recipe())
    owned = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())


def test_a_short_run_learns_and_is_exported_as_a_checkpoint(folder: Path, processor: Any, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    recipe = replace(Recipe(), steps=14, warmup=3, mixture=TINY)
    model, losses = fresh_model(tmp_path, seed=0), []
    train(model, processor, recipe, lambda _step, loss: losses.append(loss), workers=0)
    assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:3])
    write_weights(model, tmp_path)
    write_provenance(tmp_path, {"accuracy": 0.0})
    loaded = ReferenceModel.load(tmp_path)
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].bfloat16().float()), name
    answers = reference_answers(loaded, ReferenceProcessor.load(tmp_path), exam(pictures=1, clips=1, seed=0))
    assert len(answers) == 8


def test_weights_of_another_shape_are_not_exported(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match="not those of a checkpoint"):
        write_weights(fresh_model(folder, seed=0), tmp_path)


def test_a_scene_is_a_picture_or_a_video() -> None:
    kinds = {type(medium(item.scene)).__name__ for item in exam(pictures=1, clips=1, seed=0)}
    assert kinds == {"Image", "VideoFrames"}
