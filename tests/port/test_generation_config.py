"""``generation_config.json``: fields that are read, ignored, or refused with their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from port import ConfigError, GenerationConfig
from port.generation_config import _IDLE, _WITHOUT_EFFECT, FILE

# As released with Qwen3-VL-2B-Instruct.
RELEASED: dict[str, Any] = {
    "bos_token_id": 151643,
    "pad_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "top_k": 20,
    "top_p": 0.8,
    "repetition_penalty": 1.0,
    "temperature": 0.7,
    "transformers_version": "4.56.0",
}


def _read(folder: Path, document: object) -> GenerationConfig:
    (folder / FILE).write_text(json.dumps(document), encoding="utf-8")
    return GenerationConfig.from_folder(folder)


def test_the_released_file(tmp_path: Path) -> None:
    assert _read(tmp_path, RELEASED) == GenerationConfig(
        do_sample=True, temperature=0.7, top_k=20, top_p=0.8, eos_token_ids=(151645, 151643)
    )


def test_what_is_left_out_or_null_has_transformers_defaults(tmp_path: Path) -> None:
    theirs = transformers.GenerationConfig._get_default_generation_params()
    nulls = dict.fromkeys(("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "num_beams"))
    for document in ({"eos_token_id": 7}, {"eos_token_id": 7, **nulls}):
        found = _read(tmp_path, document)
        names = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty")
        assert {name: getattr(found, name) for name in names} == {name: theirs[name] for name in names}
        assert (found.min_p, found.eos_token_ids, found.max_new_tokens) == (0.0, (7,), None)


def test_numbers_of_tokens_and_min_p(tmp_path: Path) -> None:
    found = _read(tmp_path, {"eos_token_id": [1], "max_new_tokens": 40, "min_p": 0.1, "top_k": 0})
    assert (found.max_new_tokens, found.min_p, found.top_k) == (40, 0.1, 0)


def test_what_transformers_itself_writes_is_read(tmp_path: Path) -> None:
    transformers.GenerationConfig(eos_token_id=[3, 4], do_sample=True, temperature=0.6, top_p=0.9).save_pretrained(
        tmp_path
    )
    assert GenerationConfig.from_folder(tmp_path) == GenerationConfig(
        do_sample=True, temperature=0.6, top_k=50, top_p=0.9, eos_token_ids=(3, 4)
    )


def test_every_default_of_transformers_written_out_changes_nothing(tmp_path: Path) -> None:
    defaults = transformers.GenerationConfig._get_default_generation_params()
    assert _read(tmp_path, {**defaults, "eos_token_id": 7}) == _read(tmp_path, {"eos_token_id": 7})


def test_every_field_of_transformers_is_read_harmless_or_refused_by_name(tmp_path: Path) -> None:
    """A field that a new transformers adds is refused until somebody has looked at it."""
    fields = [name for name in vars(transformers.GenerationConfig()) if not name.startswith("_")]
    assert len(fields) > 40
    read = {*GenerationConfig.__dataclass_fields__, "eos_token_id"}
    for name in fields:
        if name in read or name in _IDLE:
            continue
        with pytest.raises(ConfigError, match=rf"{FILE}: {name} is 'x'"):
            _read(tmp_path, {"eos_token_id": 7, name: "x"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", 4),
        ("penalty_alpha", 0.6),
        ("no_repeat_ngram_size", 3),
        ("bad_words_ids", [[5]]),
        ("suppress_tokens", [1, 2]),
        ("stop_strings", ["\n"]),
        ("typical_p", 0.9),
        ("guidance_scale", 1.5),
        ("min_new_tokens", 5),
        ("sequence_bias", [[[5], 2.0]]),
        ("num_return_sequences", 2),
        ("max_time", 1.5),
        ("presence_penalty", 1.5),
    ],
)
def test_what_would_change_the_tokens_is_refused_by_name(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"{FILE}: {name} is .*remove it"):
        _read(tmp_path, {**RELEASED, name: value})


@pytest.mark.parametrize("name", sorted(_WITHOUT_EFFECT))
def test_and_taken_where_it_does_nothing(tmp_path: Path, name: str) -> None:
    assert _read(tmp_path, {**RELEASED, name: _WITHOUT_EFFECT[name][0]}) == _read(tmp_path, RELEASED)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("eos_token_id", None, "eos_token_id is missing"),
        ("eos_token_id", [], r"eos_token_id is \[\]"),
        ("eos_token_id", [1, -2], "an id or a list of ids"),
        ("eos_token_id", "2", "an id or a list of ids"),
        ("eos_token_id", True, "an id or a list of ids"),
        ("do_sample", 1, "do_sample is 1; it must be true or false"),
        ("temperature", "warm", "temperature is 'warm'; it must be a finite number"),
        ("temperature", 0, "set do_sample to false"),
        ("temperature", -1.0, r"temperature is -1\.0"),
        ("temperature", float("inf"), "temperature is inf"),
        ("temperature", float("nan"), "temperature is nan"),
        ("top_k", 2.5, r"top_k is 2\.5; it must be a whole number"),
        ("top_k", -1, "top_k is -1"),
        ("top_p", 1.1, r"top_p is 1\.1"),
        ("top_p", float("nan"), "top_p is nan"),
        ("min_p", -0.1, r"min_p is -0\.1"),
        ("repetition_penalty", 0, "repetition_penalty is 0"),
        ("max_new_tokens", 0, "max_new_tokens is 0; it must be a whole number of at least 1"),
        ("max_new_tokens", True, "max_new_tokens is True"),
    ],
)
def test_bad_values_name_file_field_and_value(tmp_path: Path, field: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        _read(tmp_path, {**RELEASED, field: value})
    assert str(error.value).startswith(str(tmp_path / FILE))


def test_absent_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{FILE} does not exist"):
        GenerationConfig.from_folder(tmp_path)
    (tmp_path / FILE).write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=FILE):
        GenerationConfig.from_folder(tmp_path)
    with pytest.raises(ConfigError, match="holds a list"):
        _read(tmp_path, [1])
