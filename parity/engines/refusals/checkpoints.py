"""Checkpoints that must not be loaded: a field of a JSON file is wrong, or the tensors do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from parity.engines.refusals.base import Bad, Things
from port import Processor, load_model

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_EMBEDDING = "model.language_model.embed_tokens.weight"
_GONE = object()


def _copy(things: Things) -> Path:
    """A copy of the checkpoint; the weights are links."""
    target = things.scratch / "checkpoint"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in things.folder.iterdir():
        if path.suffix == ".safetensors":
            (target / path.name).symlink_to(path)
        elif path.is_file():
            shutil.copyfile(path, target / path.name)
    return target


def _set(path: Path, field: str, value: Any) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    *sections, last = field.split(".")
    place = document
    for section in sections:
        place = place[section]
    if value is _GONE:
        del place[last]
    else:
        place[last] = value
    path.write_text(json.dumps(document), encoding="utf-8")


def _field(said: str, field: str, value: Any = _GONE, *, also: Mapping[str, Any] | None = None) -> Bad:
    """The model is loaded with another value in config.json."""

    def give(things: Things) -> object:
        folder = _copy(things)
        for name, new in {field: value, **(also or {})}.items():
            _set(folder / "config.json", name, new)
        return load_model(folder)

    return Bad(said, give)


def _setting(said: str, file: str, field: str, value: Any = _GONE) -> Bad:
    """The processor is loaded with another value in one of its files."""

    def give(things: Things) -> object:
        folder = _copy(things)
        _set(folder / file, field, value)
        return Processor.load(folder)

    return Bad(said, give)


def _file(said: str, name: str, content: str | bytes | None, load: Callable[[Path], object]) -> Bad:
    """A file has other content, or is missing."""

    def give(things: Things) -> object:
        path = _copy(things) / name
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load(path.parent)

    return Bad(said, give)


def _tensors(said: str, change: Callable[[dict[str, Tensor]], object], *, tied: bool = False) -> Bad:
    """The checkpoint has other tensors. ``change`` changes them in place."""

    def give(things: Things) -> object:
        folder = _copy(things)
        tensors = load_file(things.folder / WEIGHTS)
        change(tensors)
        (folder / WEIGHTS).unlink()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
        if tied:
            _set(folder / "config.json", "tie_word_embeddings", True)
        return load_model(folder)

    return Bad(said, give)


def _one_number(tensors: dict[str, Tensor], value: float) -> None:
    tensors[_EMBEDDING].view(-1)[-1] = value


def _index(said: str, weight_map: Callable[[list[str]], Any]) -> Bad:
    def give(things: Things) -> object:
        folder = _copy(things)
        names = list(load_file(things.folder / WEIGHTS))
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map(names)}), encoding="utf-8")
        return load_model(folder)

    return Bad(said, give)


def _cut_off(things: Things) -> object:
    folder = _copy(things)
    raw = (things.folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).write_bytes(raw[:-100])
    return load_model(folder)


@torch.no_grad()
def _changed_while_used(things: Things) -> object:
    folder = _copy(things)
    raw = (things.folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).write_bytes(raw)
    model = load_model(folder)
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"x")
    return model.prefill(things.inputs, model.new_cache(*things.inputs.input_ids.shape))


_ROPE = {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"}

CONFIG: Mapping[str, Bad] = {
    "another model type": _field("model_type", "model_type", "qwen2_vl"),
    "experts": _field("num_experts", "text_config.num_experts", 8),
    "another activation of the text": _field("hidden_act", "text_config.hidden_act", "gelu"),
    "another activation of the tower": _field("hidden_act", "vision_config.hidden_act", "gelu"),
    "no activation": _field("missing", "text_config.hidden_act"),
    "no norm epsilon": _field("missing", "text_config.rms_norm_eps"),
    "no head_dim": _field("missing", "text_config.head_dim"),
    "no text_config": _field("missing", "text_config"),
    "a text_config that is a list": _field("an object", "text_config", []),
    "a number as a text": _field("whole number", "text_config.hidden_size", "64"),
    "a number that is true": _field("whole number", "text_config.num_hidden_layers", True),
    "a string that is a number": _field("a string", "model_type", 3),
    "an epsilon of zero": _field("above 0", "text_config.rms_norm_eps", 0),
    "an epsilon without end": _field("finite number", "text_config.rms_norm_eps", 10**400),
    "layers beyond measure": _field("at most", "text_config.num_hidden_layers", 10**6),
    "heads that do not divide": _field("multiple", "text_config.num_key_value_heads", 4),
    "sections that do not add up": _field("half of head_dim", "text_config.rope_scaling.mrope_section", [4, 2, 1]),
    "two sections": _field("needs 3", "text_config.rope_scaling.mrope_section", [4, 4]),
    "a section that is too long": _field("interleaved places", "text_config.rope_scaling.mrope_section", [2, 4, 2]),
    "sections that are no list": _field("a list", "text_config.rope_scaling.mrope_section", 8),
    "no rope": _field("neither", "text_config.rope_scaling"),
    "another rope": _field("rope_type", "text_config.rope_scaling.rope_type", "yarn"),
    "a rope that is not interleaved": _field("must be true", "text_config.rope_scaling.mrope_interleaved", False),
    "two ropes": _field("remove the wrong one", "text_config.rope_parameters", {**_ROPE, "rope_theta": 9.0}),
    "two thetas": _field("remove the wrong one", "text_config.rope_scaling.rope_theta", 9.0),
    "a head of the tower that is no multiple of 4": _field("multiple of 4", "vision_config.num_heads", 8),
    "positions that are no square": _field("square", "vision_config.num_position_embeddings", 65),
    "taps in another order": _field("increase", "vision_config.deepstack_visual_indexes", [3, 1, 4]),
    "a tap beyond the tower": _field("below depth", "vision_config.deepstack_visual_indexes", [1, 3, 6]),
    "taps that are no list": _field("a list", "vision_config.deepstack_visual_indexes", 3),
    "more taps than layers": _field("decoder layers", "text_config.num_hidden_layers", 2),
    "widths that differ": _field("out_hidden_size", "vision_config.out_hidden_size", 72),
    "ids that are the same": _field("must differ", "image_token_id", 3, also={"video_token_id": 3}),
    "an id beyond the vocabulary": _field("below", "image_token_id", 10**6),
    "config.json missing": _file("does not exist", "config.json", None, load_model),
    "config.json is a folder": Bad("not a regular file", lambda things: _folder_for_config(things)),
    "config.json in a file": Bad("cannot be read", lambda things: load_model(things.picture)),
    "an epsilon that is a text": _field("finite number", "text_config.rms_norm_eps", "1e-6"),
    "an epsilon that is true": _field("finite number", "text_config.rms_norm_eps", True),
    "config.json is no JSON": _file("not valid JSON", "config.json", "{", load_model),
    "config.json is a list": _file("not an object", "config.json", "[]", load_model),
    "config.json is not UTF-8": _file("not UTF-8", "config.json", b"\xff\xfe", load_model),
    "config.json without end": _file("the most that is read", "config.json", b" " * (2**25 + 1), load_model),
}

_PICTURE, _VIDEO = "preprocessor_config.json", "video_preprocessor_config.json"
SETTINGS: Mapping[str, Bad] = {
    "pictures that are not resized": _setting("do_resize", _PICTURE, "do_resize", False),
    "pictures that are not rescaled": _setting("do_rescale", _PICTURE, "do_rescale", False),
    "pictures that are not normalised": _setting("do_normalize", _PICTURE, "do_normalize", False),
    "pictures that stay in their mode": _setting("do_convert_rgb", _PICTURE, "do_convert_rgb", False),
    "another kernel": _setting("resample", _PICTURE, "resample", 2),
    "a mean of two channels": _setting("three finite numbers", _PICTURE, "image_mean", [0.5, 0.5]),
    "a deviation of zero": _setting("above 0", _VIDEO, "image_std", [0.5, 0.0, 0.5]),
    "limits that are swapped": _setting("swap", _PICTURE, "size", {"shortest_edge": 9, "longest_edge": 8}),
    "no limits": _setting("missing", _VIDEO, "size"),
    "no patch size": _setting("missing", _PICTURE, "patch_size"),
    "frames that are not sampled": _setting("do_sample_frames", _VIDEO, "do_sample_frames", False),
    "frames per second and a number of frames": Bad("keep one", lambda things: _both_rates(things)),
    "no tokens beside the padding token": _setting("pad_token", "tokenizer_config.json", "pad_token", 3),
    "no frames per second": _setting("fps", _VIDEO, "fps", 0),
    "a settings file missing": _file("does not exist", _VIDEO, None, Processor.load),
    "no chat template": Bad("no chat template", lambda things: _without_template(things)),
    "a chat template that is a number": _setting("type int", "chat_template.json", "chat_template", 3),
    "chat templates without a default": _setting("default", "chat_template.json", "chat_template", {"a": "b"}),
    "no tokenizer": _file("does not exist", "tokenizer.json", None, Processor.load),
    "a damaged tokenizer": _file("not a tokenizer", "tokenizer.json", "{}", Processor.load),
    "an unknown padding token": _setting("pad_token", "tokenizer_config.json", "pad_token", "<none>"),
    "no vision tokens": Bad("no token", lambda things: _without_vision_tokens(things)),
    "another id of a token": _setting(
        "download both again", "tokenizer_config.json", "added_tokens_decoder", {"5": {"content": "<|im_end|>"}}
    ),
}

TENSORS_OF_FILES: Mapping[str, Bad] = {
    "no weights": _file("neither", WEIGHTS, None, load_model),
    "weights cut off": Bad("truncated or damaged", _cut_off),
    "a tensor missing": _tensors("missing", lambda tensors: tensors.pop("model.visual.merger.linear_fc2.bias")),
    "a tensor too many": _tensors("unexpected", lambda tensors: tensors.update(extra=torch.zeros(3))),
    "a tensor of another shape": _tensors(
        "of the wrong shape", lambda tensors: tensors.update({_EMBEDDING: tensors[_EMBEDDING][:-1].clone()})
    ),
    "a tensor in both layouts": _tensors(
        "there twice", lambda tensors: tensors.update({"model.embed_tokens.weight": tensors[_EMBEDDING].clone()})
    ),
    "NaN in a tensor": _tensors("NaN", lambda tensors: _one_number(tensors, float("nan"))),
    "Inf in a tensor": _tensors("NaN or Inf", lambda tensors: _one_number(tensors, float("-inf"))),
    "an index that is a list": _index("not a safetensors index", lambda names: names),
    "an index with numbers": _index("not a safetensors index", lambda names: dict.fromkeys(names, 3)),
    "a shard in another folder": _index("outside its folder", lambda names: dict.fromkeys(names, f"../{WEIGHTS}")),
    "a shard missing": _index("shards are missing", lambda names: dict.fromkeys(names, "a.safetensors")),
    "a tensor that is not listed": _index("not listed", lambda names: dict.fromkeys(names[1:], WEIGHTS)),
    "a tensor that is only listed": _index("tensors missing", lambda names: dict.fromkeys([*names, "x"], WEIGHTS)),
    "two checkpoints": Bad("two checkpoints", lambda things: _two_checkpoints(things)),
    "weights changed while in use": Bad("was changed", _changed_while_used),
}


def _two_checkpoints(things: Things) -> object:
    folder = _copy(things)
    names = list(load_file(things.folder / WEIGHTS))
    (folder / "other.safetensors").symlink_to(things.folder / WEIGHTS)
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "other.safetensors")}), encoding="utf-8")
    return load_model(folder)


def _both_rates(things: Things) -> object:
    path = _copy(things) / _VIDEO
    _set(path, "fps", 2)
    _set(path, "num_frames", 5)
    return Processor.load(path.parent)


def _folder_for_config(things: Things) -> object:
    path = _copy(things) / "config.json"
    path.unlink()
    path.mkdir()
    return load_model(path.parent)


def _without_template(things: Things) -> object:
    folder = _copy(things)
    (folder / "chat_template.json").unlink()
    (folder / "chat_template.jinja").unlink()
    _set(folder / "tokenizer_config.json", "chat_template", _GONE)
    return Processor.load(folder)


def _without_vision_tokens(things: Things) -> object:
    path = _copy(things) / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["added_tokens"] = [token for token in document["added_tokens"] if "pad" not in token["content"]]
    path.write_text(json.dumps(document), encoding="utf-8")
    return Processor.load(path.parent)


# What says whether the embeddings are tied.
TIES: Mapping[str, Bad] = {
    "no tie_word_embeddings": _field("missing", "tie_word_embeddings"),
    "a flag that is a number": _field("true or false", "tie_word_embeddings", 1),
    "a tied head that differs": _tensors("lm_head.weight", lambda tensors: _one_number(tensors, 9.0), tied=True),
}
