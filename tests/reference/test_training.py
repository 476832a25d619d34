"""Training: batches are inputs of the reference, the loss falls, and the written checkpoint is complete."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

import reference.training.loop as loop
from reference.model import ReferenceModel
from reference.processor import ReferenceProcessor
from reference.training.batches import (
    IGNORED,
    Mixture,
    answer_early,
    answer_labels,
    conversation,
    training_batch,
)
from reference.training.evaluate import medium, reference_answers
from reference.training.export import write_provenance, write_weights
from reference.training.loop import make_optimizers, train
from reference.training.model import fresh_model, write_small_files
from reference.training.recipe import Recipe
from reference.world.exam import exam
from reference.world.questions import KEY_WORDS, Question

TINY = Mixture(pictures=3, clips=1, picture_questions=2, clip_questions=2)


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


def test_labels_are_the_answers_and_the_words_that_matter_before_them(processor: Any) -> None:
    batch = training_batch(processor, np.random.default_rng(0), TINY)
    labels, ids = batch["labels"], batch["input_ids"]
    answers = answer_labels(ids, processor.tokenizer)
    assert torch.equal(labels[answers != IGNORED], ids[answers != IGNORED])
    said = processor.tokenizer.decode(ids[0][answers[0] != IGNORED].tolist())
    assert said.count("<|im_end|>") == 2
    early = (labels != IGNORED) & (answers == IGNORED)
    assert int(early.sum()) >= 4 * 4
    words = set(processor.tokenizer.decode(labels[early].tolist()).split())
    assert words <= KEY_WORDS


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            Question("colour", "What colour is the cross?", "it is red", "cross"),
            {" cross": " red", "?": " red", "<|im_end|>": " red", "\n": " red", "<|im_start|>": " red"},
        ),
        (
            Question("where", "Where is the red cross?", "at the top left", "red cross"),
            {" cross": " left", "?": " top", "<|im_end|>": " left", "\n": " top", "<|im_start|>": " left"},
        ),
        (Question("list", "What is there?", "a red cross top left", ""), {}),
    ],
)
def test_nothing_that_is_generated_depends_on_what_is_said_early(
    asked: Question, said: dict[str, str], processor: Any
) -> None:
    tokenizer = processor.tokenizer
    turns = conversation("image", [asked])
    turns[0]["content"] = turns[0]["content"][1:]
    ids = torch.tensor([tokenizer.encode(processor.apply_chat_template(turns, tokenize=False))])
    labels = torch.full_like(ids, IGNORED)
    answer_early(labels, ids, [[asked]], tokenizer)
    found = {
        tokenizer.decode([before]): tokenizer.decode([label])
        for before, label in zip(ids[0, :-1].tolist(), labels[0, 1:].tolist(), strict=True)
        if label != IGNORED
    }
    assert found == said
    answers = answer_labels(ids, tokenizer)
    assert not bool(((answers != IGNORED) & (labels != IGNORED)).any())


def test_picture_tokens_are_named_by_what_they_show(processor: Any) -> None:
    """Read back from the pixels: the patches of each place hold the colour that is said of it."""
    batch = training_batch(processor, np.random.default_rng(3), Mixture(8, 4, 1, 1))
    patches = torch.cat([batch["pixel_values"], batch["pixel_values_videos"]])
    tokens = patches.view(-1, 4, 3, 2, 16, 16).mean(dim=3)  # (merged, patches, channels, H, W)
    brightest = tokens.permute(0, 2, 1, 3, 4).flatten(2).amax(dim=2)  # (merged, channels)
    loud = {" red": [1, 0, 0], " green": [0, 1, 0], " blue": [0, 0, 1], " yellow": [1, 1, 0]}
    assert len(batch["places"]) == len(batch["said"]) >= 12
    for place, words in zip(batch["places"].tolist(), batch["said"].tolist(), strict=True):
        colour = processor.tokenizer.decode(words[:1])
        shown = (brightest[place] > 0.2).int().tolist()
        assert shown == loud[colour], (place, colour, brightest[place])


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


@pytest.mark.slow
def test_a_short_run_learns_and_is_exported_as_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    recipe = replace(Recipe(), steps=14, warmup=3, mixture=TINY)
    losses: list[float] = []
    model = train(tmp_path, recipe, lambda _step, loss: losses.append(loss), processes=1)
    assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:3])
    assert not any(module._forward_hooks for module in model.modules()), "nothing goes on listening"
    write_weights(model, tmp_path)
    write_provenance(tmp_path, {"accuracy": 0.0})
    loaded = ReferenceModel.load(tmp_path)
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].bfloat16().float()), name
    answers = reference_answers(loaded, ReferenceProcessor.load(tmp_path), exam(pictures=1, clips=1, seed=0))
    assert len(answers) == 8


@pytest.mark.slow
def test_processes_train_one_model_on_rows_of_their_own(folder: Path) -> None:
    recipe = replace(Recipe(), steps=2, warmup=1, mixture=Mixture(2, 2, 1, 1))

    def trained(recipe: Recipe, processes: int) -> dict[str, torch.Tensor]:
        return train(folder, recipe, lambda _step, _loss: None, processes=processes).state_dict()

    together = trained(recipe, 2)
    assert all(torch.equal(together[name], tensor) for name, tensor in trained(recipe, 2).items())
    # What the first process would be without the other one's gradients.
    alone = trained(replace(recipe, mixture=recipe.mixture.share(2)), 1)
    assert any(not torch.equal(together[name], tensor) for name, tensor in alone.items())
    with pytest.raises(ValueError, match="3 pictures and 1 clips cannot be shared by 2"):
        TINY.share(2)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_training(folder: Path) -> None:
    def kill(_step: int, _loss: float) -> None:
        (other,) = multiprocessing.active_children()
        other.kill()

    recipe = replace(Recipe(), steps=50, mixture=Mixture(2, 2, 1, 1))
    with pytest.raises(RuntimeError):
        train(folder, recipe, kill, processes=2)
    assert multiprocessing.active_children() == []
    assert not torch.distributed.is_initialized()


def test_gradients_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over processes that all have the same ones, the mean is what each has."""
    gradients = [torch.arange(6.0).view(2, 3), torch.tensor([7.0])]
    wanted = [tensor.clone() for tensor in gradients]
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: tensor.mul_(3))
    loop._Crew(0, 3).average(gradients)
    assert all(torch.equal(*pair) for pair in zip(gradients, wanted, strict=True))


def test_weights_of_another_shape_are_not_exported(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=r"do not match config\.json"):
        write_weights(fresh_model(folder, seed=0), tmp_path)


def test_a_scene_is_a_picture_or_a_video() -> None:
    kinds = {type(medium(item.scene)).__name__ for item in exam(pictures=1, clips=1, seed=0)}
    assert kinds == {"Image", "VideoFrames"}
