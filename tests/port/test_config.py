"""config.json is read in both dialects, and every unusable field is refused with its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from port import ConfigError, Qwen3VL, Qwen3VLConfig
from reference.shapes import config_dict, get_shape
from tests.port.port_samples import TOKEN_IDS, raw_config

Change = Callable[[dict[str, Any]], None]

TOP = (
    "model_type",
    "text_config",
    "vision_config",
    "tie_word_embeddings",
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
)
TEXT = (
    "hidden_act",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "attention_bias",
)
VISION = (
    "hidden_act",
    "depth",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "in_channels",
    "patch_size",
    "temporal_patch_size",
    "spatial_merge_size",
    "out_hidden_size",
    "num_position_embeddings",
    "deepstack_visual_indexes",
)
ROPE = ("mrope_section", "mrope_interleaved", "rope_type")


def _refused(raw: dict[str, Any], *words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Qwen3VLConfig.from_dict(raw)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def test_fields_arrive_where_they_belong() -> None:
    config = Qwen3VLConfig.from_dict(raw_config())
    text, vision = config.text, config.vision
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads) == (
        64,
        5,
        6,
        2,
    )
    assert (text.head_dim, text.intermediate_size, text.vocab_size) == (16, 112, 701)
    assert (text.mrope_section, text.rope_theta, text.rms_norm_eps, text.attention_bias) == (
        (4, 2, 2),
        5_000_000.0,
        1e-6,
        False,
    )
    assert (vision.depth, vision.hidden_size, vision.num_heads, vision.intermediate_size) == (6, 48, 4, 88)
    assert (vision.head_dim, vision.grid_side, vision.patch_dim) == (12, 8, 3 * 2 * 16 * 16)
    assert (vision.deepstack_visual_indexes, vision.out_hidden_size) == ((1, 3, 4), 64)
    assert (config.image_token_id, config.video_token_id) == (694, 695)
    assert (config.vision_start_token_id, config.vision_end_token_id) == (692, 693)


@pytest.mark.parametrize("name", ["tiny", "tiny-tied", "tiny-odd", "2b", "8b"])
def test_both_dialects_give_the_same_config(name: str) -> None:
    published, newer = (
        Qwen3VLConfig.from_dict(config_dict(get_shape(name), token_ids=TOKEN_IDS, rope_dialect=dialect))
        for dialect in ("rope_scaling", "rope_parameters")
    )
    assert published == newer


def test_theta_inside_the_old_group_is_read_too() -> None:
    raw = raw_config()
    text = raw["text_config"]
    text["rope_scaling"]["rope_theta"] = text.pop("rope_theta")
    assert Qwen3VLConfig.from_dict(raw) == Qwen3VLConfig.from_dict(raw_config())


def test_dialects_that_agree_may_stand_side_by_side() -> None:
    raw = raw_config()
    raw["text_config"] |= raw_config(rope_dialect="rope_parameters")["text_config"]
    assert Qwen3VLConfig.from_dict(raw) == Qwen3VLConfig.from_dict(raw_config())


@pytest.mark.parametrize("field", ["rope_theta", "mrope_section"])
def test_dialects_that_contradict_are_refused(field: str) -> None:
    raw = raw_config()
    raw["text_config"] |= raw_config(rope_dialect="rope_parameters")["text_config"]
    raw["text_config"]["rope_parameters"][field] = {"rope_theta": 10000.0, "mrope_section": [2, 3, 3]}[field]
    if field == "mrope_section":
        raw["text_config"]["rope_scaling"][field] = [4, 2, 2]
        raw["text_config"]["rope_parameters"][field] = [3, 2, 3]
        _refused(raw, "mrope_section")  # 3 * 3 > 8: no such interleaving, whatever the other group says
        raw["text_config"]["rope_parameters"][field] = [5, 2, 1]
    _refused(raw, "rope_parameters says", "rope_scaling says", "remove the wrong one")


@pytest.mark.parametrize("dialect", ["rope_scaling", "rope_parameters"])
def test_a_second_theta_beside_the_group_must_agree(dialect: str) -> None:
    raw = raw_config(rope_dialect=dialect)
    raw["text_config"][dialect]["rope_theta"] = 5_000_000
    raw["text_config"]["rope_theta"] = 10_000
    _refused(raw, "rope_theta", "10000", "5e+06")
    raw["text_config"]["rope_theta"] = 5_000_000
    assert Qwen3VLConfig.from_dict(raw) == Qwen3VLConfig.from_dict(raw_config())


@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize("copy_says", [True, False, None])
def test_only_the_top_level_flag_ties_the_embeddings(top: bool, copy_says: bool | None) -> None:
    raw = raw_config()
    raw["tie_word_embeddings"] = top
    raw["text_config"].pop("tie_word_embeddings")
    if copy_says is not None:
        raw["text_config"]["tie_word_embeddings"] = copy_says
    config = Qwen3VLConfig.from_dict(raw)
    assert config.tie_word_embeddings is top
    parameters = dict(Qwen3VL(config).named_parameters())
    assert ("lm_head.weight" in parameters) is not top


@pytest.mark.parametrize("field", TOP)
@pytest.mark.parametrize("null", [False, True], ids=["removed", "null"])
def test_a_missing_top_level_field_is_named(field: str, null: bool) -> None:
    raw = raw_config()
    _take_away(raw, field, null)
    _refused(raw, field, "is missing")


@pytest.mark.parametrize(
    ("section", "field"),
    [*(("text_config", field) for field in TEXT), *(("vision_config", field) for field in VISION)],
)
@pytest.mark.parametrize("null", [False, True], ids=["removed", "null"])
def test_a_missing_field_of_a_section_is_named(section: str, field: str, null: bool) -> None:
    raw = raw_config()
    _take_away(raw[section], field, null)
    _refused(raw, section, field, "is missing")


@pytest.mark.parametrize("dialect", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("field", ROPE)
def test_a_missing_rope_field_is_named(dialect: str, field: str) -> None:
    raw = raw_config(rope_dialect=dialect)
    del raw["text_config"][dialect][field]
    _refused(raw, dialect, field)


def test_missing_theta_is_named_in_both_dialects() -> None:
    raw = raw_config()
    del raw["text_config"]["rope_theta"]
    _refused(raw, "text_config", "rope_theta is missing")
    raw = raw_config(rope_dialect="rope_parameters")
    del raw["text_config"]["rope_parameters"]["rope_theta"]
    _refused(raw, "rope_parameters", "rope_theta is missing")


def test_no_rope_group_at_all_is_refused() -> None:
    raw = raw_config()
    del raw["text_config"]["rope_scaling"]
    _refused(raw, "text_config", "rope_scaling", "rope_parameters")


@pytest.mark.parametrize("field", [field for field in TEXT if field not in ("hidden_act", "attention_bias")])
@pytest.mark.parametrize("value", ["64", 0, -1, True, [64]])
def test_text_numbers_of_the_wrong_type_are_refused(field: str, value: Any) -> None:
    raw = raw_config()
    raw["text_config"][field] = value
    _refused(raw, f"text_config.{field} is {value!r}; it must be")


@pytest.mark.parametrize(
    "field", [field for field in VISION if field not in ("hidden_act", "deepstack_visual_indexes")]
)
@pytest.mark.parametrize("value", ["16", 0, 1.5, False])
def test_vision_numbers_of_the_wrong_type_are_refused(field: str, value: Any) -> None:
    raw = raw_config()
    raw["vision_config"][field] = value
    _refused(raw, f"vision_config.{field} is {value!r}; it must be")


@pytest.mark.parametrize(
    ("place", "field", "value"),
    [
        ((), "tie_word_embeddings", "true"),
        ((), "tie_word_embeddings", 1),
        ((), "model_type", 3),
        ((), "text_config", []),
        ((), "vision_config", "x"),
        ((), "image_token_id", -1),
        ((), "video_token_id", 1.0),
        (("text_config",), "attention_bias", 0),
        (("text_config",), "rope_theta", float("nan")),
        (("text_config",), "rope_scaling", [1]),
        (("text_config", "rope_scaling"), "mrope_section", "4,2,2"),
        (("text_config", "rope_scaling"), "mrope_section", [4.0, 2, 2]),
        (("text_config", "rope_scaling"), "mrope_section", [8, -1, 1]),
        (("text_config", "rope_scaling"), "mrope_interleaved", 1),
        (("vision_config",), "deepstack_visual_indexes", 3),
        (("vision_config",), "deepstack_visual_indexes", [True, 3]),
        (("vision_config",), "deepstack_visual_indexes", [-1, 3]),
    ],
)
def test_values_of_the_wrong_type_are_refused(place: tuple[str, ...], field: str, value: Any) -> None:
    raw = raw_config()
    target = raw
    for name in place:
        target = target[name]
    target[field] = value
    _refused(raw, field)


def _set(section: str, **values: Any) -> Change:
    return lambda raw: raw[section].update(values)


def _top(**values: Any) -> Change:
    return lambda raw: raw.update(values)


def _rope(**values: Any) -> Change:
    return lambda raw: raw["text_config"]["rope_scaling"].update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("text_config", num_key_value_heads=4), ("num_attention_heads 6", "num_key_value_heads 4")),
        (_rope(mrope_section=[4, 2, 1]), ("[4, 2, 1]", "7 frequencies", "head_dim 16 has 8")),
        (_rope(mrope_section=[4, 4]), ("2 entries", "needs 3")),
        (_rope(mrope_section=[2, 3, 3]), ("[2, 3, 3]", "9 interleaved", "there are 8")),
        (_rope(mrope_interleaved=False), ("mrope_interleaved is false",)),
        (_rope(rope_type="yarn"), ("rope_type is 'yarn'",)),
        (_set("text_config", num_experts=8), ("num_experts", "mixture-of-experts")),
        (_top(model_type="qwen3_vl_moe"), ("'qwen3_vl_moe'",)),
        (_top(model_type="qwen2_5_vl"), ("'qwen2_5_vl'",)),
        (_set("text_config", hidden_act="gelu"), ("hidden_act", "'gelu'", "'silu'")),
        (_set("vision_config", hidden_act="gelu"), ("hidden_act", "'gelu'", "'gelu_pytorch_tanh'")),
        (_set("vision_config", out_hidden_size=60), ("out_hidden_size 60", "hidden_size 64")),
        (_set("vision_config", deepstack_visual_indexes=[1, 3, 6]), ("[1, 3, 6]", "depth 6")),
        (_set("vision_config", deepstack_visual_indexes=[3, 1]), ("[3, 1]", "must increase")),
        (_set("vision_config", deepstack_visual_indexes=[1, 1]), ("[1, 1]", "must increase")),
        (_set("text_config", num_hidden_layers=1_000_000), ("num_hidden_layers", "1000000", "at most 1,000")),
        (_set("vision_config", depth=1_000_000), ("depth", "1000000", "at most 1,000")),
        (_set("text_config", num_hidden_layers=2), ("3 deepstack_visual_indexes", "2 decoder layers")),
        (_set("vision_config", num_position_embeddings=63), ("63", "square")),
        (_set("vision_config", num_heads=5), ("hidden_size 48", "num_heads 5")),
        (_set("vision_config", num_heads=8), ("head width of 6", "multiple of 4")),
        (_top(image_token_id=695), ("695", "must differ")),
        (_top(vision_end_token_id=692), ("692", "must differ")),
        (_top(video_token_id=701), ("701", "vocab_size 701")),
    ],
)
def test_figures_that_contradict_each_other_are_refused_with_both(change: Change, words: tuple[str, ...]) -> None:
    raw = raw_config()
    Qwen3VLConfig.from_dict(raw)  # sound before the change
    change(raw)
    _refused(raw, *words)


def test_the_last_allowed_values_are_allowed() -> None:
    raw = raw_config()
    raw["vision_config"]["deepstack_visual_indexes"] = [0, 5]
    raw["video_token_id"] = 700
    raw["image_token_id"] = 0
    raw["text_config"]["num_hidden_layers"] = 2
    config = Qwen3VLConfig.from_dict(raw)
    assert config.vision.deepstack_visual_indexes == (0, 5)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b'{"model_type": "qwen3_vl",', "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"[1, 2]", "not an object"),
        (b'"qwen3_vl"', "not an object"),
    ],
)
def test_a_broken_file_is_refused_by_its_path(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=word) as caught:
        Qwen3VLConfig.from_folder(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_a_missing_file_or_folder_is_refused_by_its_path(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="does not exist"):
            Qwen3VLConfig.from_folder(folder)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"config\.json"):
        Qwen3VLConfig.from_folder(path)


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(raw_config()), encoding="utf-8")
    assert Qwen3VLConfig.from_folder(tmp_path) == Qwen3VLConfig.from_dict(raw_config())


def _take_away(section: dict[str, Any], field: str, null: bool) -> None:
    if null:
        section[field] = None
    else:
        del section[field]
