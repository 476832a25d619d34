"""Unusable checkpoints give a message that names the file and exit code 2, and nothing is written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from parity.runs.seeded import make_seeded
from tests.parity.cli.samples import Parity, change_json, snapshot

UP = "model.language_model.layers.2.mlp.up_proj.weight"
WEIGHTS = "model.safetensors"


def _weights(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def _nan(tensors: dict[str, np.ndarray]) -> None:
    tensors[UP] = tensors[UP].copy()
    tensors[UP][3, 5] = np.nan


def _config(*keys: str, value: object = None) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "config.json", keys, value)


def _write(name: str, text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    return damage


def _remove(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def _only_jinja(text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "chat_template.json").unlink(missing_ok=True)
        change_json(folder / "tokenizer_config.json", ["chat_template"], None)
        (folder / "chat_template.jinja").write_text(text, encoding="utf-8")

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "truncated": (lambda folder: os.truncate(folder / WEIGHTS, 200_000), (WEIGHTS, "200000 bytes", "download")),
    "empty file": (lambda folder: os.truncate(folder / WEIGHTS, 0), (WEIGHTS, "0 bytes", "download")),
    "key too many": (
        _weights(lambda tensors: tensors.update(surplus=np.zeros(3, np.float32))),
        ("1 unexpected", "surplus"),
    ),
    "key too few": (
        _weights(lambda tensors: tensors.pop("model.language_model.norm.weight")),
        ("1 missing", "model.language_model.norm.weight"),
    ),
    "wrong shape": (
        _weights(lambda tensors: tensors.update({UP: tensors[UP][:-1].copy()})),
        (UP, "(111, 64)", "(112, 64)"),
    ),
    "NaN": (_weights(_nan), (UP, "NaN")),
    "pickle only": (lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"), (WEIGHTS, "safetensors")),
    "text field missing": (_config("text_config", "head_dim"), ("text_config", "head_dim", "config.json")),
    "vision field missing": (_config("vision_config", "depth"), ("vision_config", "depth", "config.json")),
    "token id missing": (_config("image_token_id"), ("image_token_id", "config.json")),
    "another model": (_config("model_type", value="qwen2_vl"), ("config.json", "qwen2_vl")),
    "config broken": (_write("config.json", "{ no"), ("config.json", "JSON")),
    "config no object": (_write("config.json", "[]"), ("config.json", "list")),
    "config missing": (_remove("config.json"), ("config.json", "does not exist")),
    "field the reference refuses": (
        _config("text_config", "max_position_embeddings", value="many"),
        ("model", "max_position_embeddings", "many"),
    ),
    "token id of another tokenizer": (
        _config("image_token_id", value=600),
        ("0 image tokens", "600", "80 features", "tokenizer"),
    ),
    "boundary id of another tokenizer": (_config("vision_start_token_id", value=600), ("vision_start_token_id", "600")),
    "tokenizer broken": (_write("tokenizer.json", "{ no"), ("tokenizer.json", "JSON")),
    "tokenizer no tokenizer": (_write("tokenizer.json", "{}"), ("processor", "model")),
    "tokenizer missing": (_remove("tokenizer.json", "vocab.json", "merges.txt"), ("tokenizer.json", "does not exist")),
    "processor config missing": (_remove("preprocessor_config.json"), ("preprocessor_config.json", "does not exist")),
    "processor config broken": (_write("preprocessor_config.json", "{"), ("preprocessor_config.json", "JSON")),
    "another patch size": (
        lambda folder: change_json(folder / "preprocessor_config.json", ["patch_size"], 14),
        ("1176 numbers", "1536", "patch_size"),
    ),
    "another merge size": (
        lambda folder: change_json(folder / "preprocessor_config.json", ["merge_size"], 1),
        ("image tokens", "merge_size"),
    ),
    "division by zero": (
        lambda folder: change_json(folder / "preprocessor_config.json", ["image_std"], [0.0, 0.5, 0.5]),
        ("preprocessor_config.json", "image_std", "above 0"),
    ),
    "template broken": (_only_jinja("{% if %}"), ("chat template", "does not compile")),
    "template raises": (_only_jinja("{{ raise_exception('not today') }}"), ("not today", "chat template")),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_named(name: str, copy: Path, run: Parity, work: Path) -> None:
    damage, words = DAMAGES[name]
    damage(copy)
    run(copy).refuses(*words)
    assert snapshot(work) == {}


def test_shards_that_are_missing_or_cut_short_are_named(tmp_path: Path, run: Parity, work: Path) -> None:
    folder = make_seeded(tmp_path / "sharded", max_shard_bytes=300_000)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:2000])
    run(folder).refuses(shard.name, "2000 bytes", "download")
    shard.unlink()
    run(folder).refuses(shard.name, "1 of", "missing", "download")
    shard.write_bytes(whole)
    index = folder / "model.safetensors.index.json"
    index.write_text("{}", encoding="utf-8")
    run(folder).refuses(index.name, "download")
    assert snapshot(work) == {}


def test_a_vocabulary_that_is_too_small_for_the_tokenizer_is_named(copy: Path, run: Parity) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    for token in tokenizer["added_tokens"]:
        if token["content"] == "<|im_start|>":
            token["content"] = "<|another|>"
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[next(iter(vocabulary))] = 5000
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    change_json(copy / "tokenizer_config.json", ["added_tokens_decoder"], {})
    run(copy, "--prompt", next(iter(vocabulary))).refuses("token id 5000", "vocab_size of 701")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nonsense", ("nonsense is not a folder", "owner/name")),
        ("/no/such/folder", ("/no/such/folder is not a folder",)),
        ("Qwen/..bad--id", ("Qwen/..bad--id", "give its folder")),
        ("", ("is empty", "leave it out")),
    ],
)
def test_a_model_that_is_neither_folder_nor_hub_id(model: str, words: tuple[str, ...], run: Parity, work: Path) -> None:
    run(model).refuses(*words)
    assert snapshot(work) == {}


def test_a_hub_that_cannot_be_reached_is_one_line(run: Parity, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    answer = run("Qwen/no-such-model-anywhere")
    answer.refuses("Qwen/no-such-model-anywhere", "give its folder")
    assert len(answer.stderr.splitlines()) == 1


def test_a_file_and_an_empty_folder_are_no_models(tmp_path: Path, tiny: Path, run: Parity) -> None:
    run(tiny / "config.json").refuses("config.json is not a folder")
    (tmp_path / "empty").mkdir()
    run(tmp_path / "empty").refuses("empty", "config.json does not exist")


def test_a_seeded_checkpoint_that_cannot_be_made(parity: Parity, tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    parity("checkpoint", "make", tmp_path / "file").refuses("is a file", "name a folder")
    parity("checkpoint", "make", tmp_path / "file" / "below").refuses("below", "name another folder")
    parity("checkpoint", "make", tmp_path).refuses("not empty", "choose another folder")
    parity("checkpoint", "make", tiny, "--seed", 5).refuses("seed is 0, asked for 5")
    parity("checkpoint", "make", tmp_path / "new", "--shape", "huge").refuses("huge", "tiny")
    assert not (tmp_path / "new").exists()


def test_a_cache_that_cannot_be_written_is_named(run: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    monkeypatch.setenv("QWEN3VL_PARITY_CACHE", str(tmp_path / "file" / "cache"))
    run().refuses("QWEN3VL_PARITY_CACHE", "file/cache")
