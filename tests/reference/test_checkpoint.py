"""Seeded checkpoints are complete, always the same, and readable by the reference, and every seam matters."""

from __future__ import annotations

import hashlib
import json
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn
from transformers import AutoProcessor, AutoTokenizer, Qwen3VLForConditionalGeneration
from transformers.video_utils import VideoMetadata

from reference import checkpoint, weights
from reference.checkpoint import RECEIPT, make_checkpoint
from reference.shapes import SHAPES, TINY, Shape, TextShape, VisionShape, config_dict, cut_depth, get_shape
from reference.shards import Entry, plan_shards, write_shard
from reference.tokenizer import tokenizer_parts
from reference.weights import HEAD_NAME, layout_name, tensor_values, weight_shapes

TINY_NAMES = ("tiny", "tiny-tied", "tiny-odd")
EMBED = "model.language_model.embed_tokens.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a checkpoint once per distinct set of arguments."""
    root = tmp_path_factory.mktemp("seeded")

    def make(shape: str = "tiny", **options: Any) -> Path:
        name = "-".join([shape, *(f"{key}={value}" for key, value in sorted(options.items()))])
        return make_checkpoint(root / name, shape, **options)

    return make


@pytest.fixture(scope="module")
def loaded(made: Callable[..., Path]) -> Callable[..., Qwen3VLForConditionalGeneration]:
    """Load a checkpoint with the reference, every tensor used and none missing."""
    models: dict[str, Qwen3VLForConditionalGeneration] = {}

    def load(shape: str = "tiny", **options: Any) -> Qwen3VLForConditionalGeneration:
        folder = made(shape, **options)
        if folder.name not in models:
            model, info = Qwen3VLForConditionalGeneration.from_pretrained(
                folder, output_loading_info=True, dtype="auto"
            )
            assert not any(info.values()), info
            models[folder.name] = model.eval()
        return models[folder.name]

    return load


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                assert name not in found, f"{name} is stored twice"
                found[name] = file.get_tensor(name)
    return found


def _bytes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def _picture(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    channels = [y / height * 255, x / width * 255, 128 + 100 * np.sin((x + 2 * y) / 17)]
    noise = np.random.default_rng(0).normal(0, 20, (height, width, 3))
    return Image.fromarray((np.stack(channels, axis=-1) + noise).clip(0, 255).astype(np.uint8))


def _picture_prompt(folder: Path) -> Any:
    processor = AutoProcessor.from_pretrained(folder)
    parts = [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": " What is it?"}]
    text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    return processor(text=[text], images=[_picture(160, 256)], return_tensors="pt")


def _logits(model: nn.Module, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits[0]


def _movement(actual: torch.Tensor, base: torch.Tensor) -> float:
    return float((actual - base).norm() / base.norm())


# Shapes


def test_tiny_shapes_break_the_coincidences_that_bugs_hide_in() -> None:
    shapes = [SHAPES[name] for name in TINY_NAMES]
    assert {shape.tied for shape in shapes} == {True, False}
    for shape in shapes:
        text, vision = shape.text, shape.vision
        assert text.heads * text.head_dim != text.hidden
        assert list(vision.taps) != list(range(len(vision.taps)))
        assert vision.hidden != text.hidden
        assert len({text.hidden, text.intermediate, vision.hidden, vision.intermediate}) == 4
        size = tokenizer_parts(special_base=shape.special_base).size
        assert size < text.vocab < size + 40
        assert text.vocab % 8
    assert {shape.text.heads // shape.text.kv_heads for shape in shapes} == {1, 2, 3}
    assert {len(shape.vision.taps) for shape in shapes} == {1, 2, 3}
    odd = SHAPES["tiny-odd"].vision
    assert odd.merge != odd.temporal_patch
    assert odd.patch % 16


def test_released_shapes_have_the_published_numbers() -> None:
    rows = {
        name: (shape.text.hidden, shape.text.layers, shape.text.heads, shape.text.intermediate, shape.tied)
        for name, shape in SHAPES.items()
        if not name.startswith("tiny")
    }
    assert rows == {
        "2b": (2048, 28, 16, 6144, True),
        "4b": (2560, 36, 32, 9728, True),
        "8b": (4096, 36, 32, 12288, False),
        "32b": (5120, 64, 64, 25600, False),
    }
    config = _config("4b")
    assert (config["image_token_id"], config["video_token_id"]) == (151655, 151656)
    assert (config["vision_start_token_id"], config["vision_end_token_id"]) == (151652, 151653)
    assert config["text_config"]["vocab_size"] == 151936
    assert config["vision_config"]["deepstack_visual_indexes"] == [5, 11, 17]


def _config(name: str, **options: Any) -> dict[str, Any]:
    shape = SHAPES[name]
    ids = tokenizer_parts(special_base=shape.special_base).special_ids
    return config_dict(shape, token_ids=ids, **options)


def test_parameter_counts_are_those_of_the_names_on_the_box() -> None:
    counts = {
        name: sum(math.prod(size) for size in weight_shapes(_config(name)).values())
        for name in ("2b", "4b", "8b", "32b")
    }
    rounded = {name: round(count / 1e9, 1) for name, count in counts.items()}
    assert rounded == {"2b": 2.1, "4b": 4.4, "8b": 8.8, "32b": 33.4}


def test_unknown_and_moe_shapes_are_refused_with_the_list() -> None:
    with pytest.raises(
        ValueError, match=r"no shape named .3b.; there are: tiny, tiny-large, tiny-tied, tiny-odd, tiny-other, 2b"
    ):
        get_shape("3b")
    with pytest.raises(ValueError, match=r"'30B-A3B' is a mixture of experts.*2b, 4b, 8b, 32b"):
        get_shape("30B-A3B")
    assert get_shape("TINY") is TINY


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"heads \(6\) must be a multiple of kv heads \(4\)"):
        replace(TINY.text, kv_heads=4)
    with pytest.raises(ValueError, match="covers 9 rotary pairs, head_dim 16 has 8"):
        replace(TINY.text, mrope_section=(4, 3, 2))
    with pytest.raises(ValueError, match=r"taps \[3, 1\] must be strictly increasing"):
        replace(TINY.vision, taps=(3, 1))
    with pytest.raises(ValueError, match=r"taps \[6\] must be strictly increasing and within the 6 vision blocks 0..5"):
        replace(TINY.vision, taps=(6,))
    with pytest.raises(ValueError, match="positions 65 is not a square"):
        replace(TINY.vision, positions=65)
    with pytest.raises(ValueError, match="head_dim divisible by 4"):
        replace(TINY.vision, heads=8)
    with pytest.raises(ValueError, match="3 taps need as many decoder layers"):
        replace(TINY, text=replace(TINY.text, layers=2))


@pytest.mark.parametrize(("name", "depth"), [("2b", 4), ("2b", 6), ("8b", 9), ("32b", 30), ("tiny", 4)])
def test_cut_depth_keeps_widths_and_the_number_of_taps(name: str, depth: int) -> None:
    shape = SHAPES[name]
    cut = cut_depth(shape, depth)
    assert cut.text == replace(shape.text, layers=min(depth, shape.text.layers))
    assert cut.vision.depth == min(depth, shape.vision.depth)
    assert len(cut.vision.taps) == len(shape.vision.taps)
    assert cut.vision.taps[-1] < cut.vision.depth  # and rising, or the shape would have refused


def test_cut_depth_taps_keep_their_place() -> None:
    assert cut_depth(SHAPES["2b"], 12).vision.taps == (2, 5, 8)
    for depth in (3, 28):
        with pytest.raises(ValueError, match=rf"depth must lie in 4..27, got {depth}"):
            cut_depth(SHAPES["2b"], depth)


# Files and weights


def test_the_folder_is_complete(made: Callable[..., Path]) -> None:
    assert {path.name for path in made().iterdir()} == {
        "chat_template.jinja",
        "chat_template.json",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors",
        "preprocessor_config.json",
        RECEIPT,
        "tokenizer.json",
        "tokenizer_config.json",
        "video_preprocessor_config.json",
        "vocab.json",
    }


def test_config_is_in_the_published_dialect(made: Callable[..., Path]) -> None:
    config = json.loads((made() / "config.json").read_bytes())
    text = config["text_config"]
    assert text["rope_theta"] == 5_000_000
    assert text["rope_scaling"] == {
        "mrope_interleaved": True,
        "mrope_section": [4, 2, 2],
        "rope_type": "default",
    }
    assert "rope_parameters" not in text
    assert (config["model_type"], text["model_type"]) == ("qwen3_vl", "qwen3_vl_text")
    assert config["vision_config"]["model_type"] == "qwen3_vl"
    assert config["tie_word_embeddings"] is False
    assert text["dtype"] == "float32"


def test_the_same_arguments_give_the_same_bytes(made: Callable[..., Path], tmp_path: Path) -> None:
    assert _bytes(make_checkpoint(tmp_path / "again")) == _bytes(made())


def test_defaults_spelt_out_are_the_same_checkpoint(made: Callable[..., Path]) -> None:
    folder = made()
    before = _bytes(folder)
    again = make_checkpoint(folder, "TINY", tied=False, lm_head_entry=True, max_shard_bytes=5_000_000_000)
    assert _bytes(again) == before


def test_another_seed_changes_every_tensor_and_no_other_file(made: Callable[..., Path]) -> None:
    first, second = made(), made(seed=1)
    ours, theirs = _tensors(first), _tensors(second)
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if torch.equal(ours[name], theirs[name])]
    changed = {name for name, digest in _bytes(first).items() if _bytes(second)[name] != digest}
    assert changed == {"model.safetensors", RECEIPT}


@pytest.mark.parametrize("name", TINY_NAMES)
def test_names_and_shapes_are_the_references_own(
    made: Callable[..., Path], loaded: Callable[..., Qwen3VLForConditionalGeneration], name: str
) -> None:
    config = json.loads((made(name) / "config.json").read_bytes())
    own = {key: tuple(value.shape) for key, value in loaded(name).state_dict().items()}
    assert weight_shapes(config, lm_head_entry=True) == own
    stored = {key: tuple(value.shape) for key, value in _tensors(made(name)).items()}
    assert stored == weight_shapes(config)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_loaded_weights_are_the_drawn_ones(loaded: Callable[..., Qwen3VLForConditionalGeneration], name: str) -> None:
    tied = SHAPES[name].tied
    for key, value in loaded(name).state_dict().items():
        drawn = tensor_values(key, tuple(value.shape), seed=0, tied=tied)
        assert np.array_equal(value.numpy(), drawn), key


def test_a_tensor_is_reproducible_alone_and_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    name, shape = "model.visual.pos_embed.weight", (64, 48)
    whole = tensor_values(name, shape, seed=0, tied=False)
    monkeypatch.setattr(weights, "_CHUNK", 1001)
    assert np.array_equal(tensor_values(name, shape, seed=0, tied=False), whole)
    # A few values by hand, so that a change of stream or of scale can't pass for the same recipe.
    expected = [-0.4043819308280945, 0.7080130577087402, 0.21870474517345428]
    assert whole[0, :3].tolist() == pytest.approx(expected, rel=1e-6)


def test_no_tensor_is_dead(made: Callable[..., Path]) -> None:
    for name, value in _tensors(made()).items():
        if "norm" in name and name.endswith(".weight"):
            assert 0.1 < float(value.std()) < 0.6, name
            assert 0.8 < float(value.mean()) < 2.2, name
        elif value.ndim == 1:
            assert 0.1 < float(value.std()) < 0.3, name
        else:
            assert float(value.std()) * math.prod(value.shape[1:]) ** 0.5 > 1.0, name


def test_shards_hold_what_one_file_holds(made: Callable[..., Path]) -> None:
    limit = 120_000
    folder = made(max_shard_bytes=limit)
    whole, parts = _tensors(made()), _tensors(folder)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    index = json.loads((folder / "model.safetensors.index.json").read_bytes())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in whole.values())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{n:05}-of-{len(files):05}.safetensors" for n in range(1, len(files) + 1)]
    assert {path.name for path in folder.glob("*.safetensors")} == set(files)
    for file in files:
        with safe_open(folder / file, framework="pt") as opened:
            names = list(opened.keys())
            size = sum(opened.get_tensor(name).nbytes for name in names)
        assert size <= limit or len(names) == 1
        assert all(index["weight_map"][name] == file for name in names)


def test_a_tensor_larger_than_a_shard_has_a_file_to_itself() -> None:
    assert plan_shards({"a": 3, "b": 9, "c": 2, "d": 2}, max_bytes=4) == {
        "model-00001-of-00003.safetensors": ["a"],
        "model-00002-of-00003.safetensors": ["b"],
        "model-00003-of-00003.safetensors": ["c", "d"],
    }


def test_writing_needs_the_memory_of_a_block_not_of_a_tensor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wide = replace(TINY, name="wide", text=replace(TINY.text, vocab=100_000))
    monkeypatch.setattr(checkpoint, "get_shape", lambda name: wide)
    monkeypatch.setattr(weights, "_CHUNK", 1 << 16)
    largest = 100_000 * 64 * 4
    make_checkpoint(tmp_path / "warm", depth=4)  # imports and the tokenizer are not what is measured
    tracemalloc.start()
    make_checkpoint(tmp_path / "wide", max_shard_bytes=30_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < largest / 4, f"peak {peak} bytes, largest tensor {largest}"
    assert len(list((tmp_path / "wide").glob("model-*"))) == 2


def test_a_block_too_few_is_an_error_not_a_short_file(tmp_path: Path) -> None:
    entry = Entry(name="w", shape=(2, 3), blocks=[np.zeros(4, np.float32)])
    with pytest.raises(ValueError, match=r"tensor w has shape \[2, 3\] = 6 values, its blocks hold 4"):
        write_shard(tmp_path / "x.safetensors", [entry], dtype="float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_is_the_rounded_float32(made: Callable[..., Path], dtype: str) -> None:
    exact, rounded = _tensors(made()), _tensors(made(dtype=dtype))
    kind = getattr(torch, dtype)
    for name, value in rounded.items():
        assert value.dtype == kind
        assert torch.equal(value, exact[name].to(kind)), name
    assert json.loads((made(dtype=dtype) / "config.json").read_bytes())["text_config"]["dtype"] == dtype


# Tied, layouts, dialects


def test_a_tied_head_is_stored_on_request_only(
    made: Callable[..., Path], loaded: Callable[..., Qwen3VLForConditionalGeneration]
) -> None:
    plain, both = _tensors(made("tiny-tied")), _tensors(made("tiny-tied", lm_head_entry=True))
    assert HEAD_NAME not in plain
    assert torch.equal(both[HEAD_NAME], both[EMBED])
    assert all(torch.equal(plain[name], both[name]) for name in plain)
    for model in (loaded("tiny-tied"), loaded("tiny-tied", lm_head_entry=True)):
        assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def test_an_untied_head_is_another_matrix(
    made: Callable[..., Path], loaded: Callable[..., Qwen3VLForConditionalGeneration]
) -> None:
    stored = _tensors(made())
    assert not torch.equal(stored[HEAD_NAME], stored[EMBED])
    assert torch.equal(loaded().lm_head.weight, stored[HEAD_NAME])


def test_tied_overrides_the_shape(loaded: Callable[..., Qwen3VLForConditionalGeneration]) -> None:
    tied, untied = loaded(tied=True), loaded("tiny-tied", tied=False)
    assert tied.config.tie_word_embeddings is True
    assert tied.lm_head.weight is tied.model.language_model.embed_tokens.weight
    assert untied.config.tie_word_embeddings is False
    assert not torch.equal(untied.lm_head.weight, untied.model.language_model.embed_tokens.weight)


def test_an_untied_checkpoint_without_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"an untied checkpoint needs its lm_head.weight"):
        make_checkpoint(tmp_path / "x", lm_head_entry=False)
    assert not list(tmp_path.iterdir())


def test_legacy_layout_renames_and_nothing_else(made: Callable[..., Path]) -> None:
    published, legacy = _tensors(made()), _tensors(made(layout="legacy"))
    prefixes = {"model.language_model.": "model.", "model.visual.": "visual.", "lm_head.": "lm_head."}
    for name, value in published.items():
        (old, new) = next(pair for pair in prefixes.items() if name.startswith(pair[0]))
        assert torch.equal(legacy.pop(new + name.removeprefix(old)), value)
    assert not legacy


def test_rope_parameters_dialect_means_the_same_to_transformers_5(
    made: Callable[..., Path], loaded: Callable[..., Qwen3VLForConditionalGeneration]
) -> None:
    other = loaded(rope_dialect="rope_parameters")
    text = json.loads((made(rope_dialect="rope_parameters") / "config.json").read_bytes())["text_config"]
    assert text["rope_parameters"]["rope_theta"] == 5_000_000
    assert "rope_theta" not in text
    assert "rope_scaling" not in text
    inputs = _picture_prompt(made())
    assert torch.equal(_logits(other, inputs), _logits(loaded(), inputs))


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    out: Any = tmp_path / "x"
    with pytest.raises(ValueError, match="dtype 'int8' is not one of float32, bfloat16, float16"):
        make_checkpoint(out, dtype="int8")
    with pytest.raises(ValueError, match="layout 'gguf' is neither"):
        make_checkpoint(out, layout="gguf")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rope_dialect 'yarn' is neither"):
        make_checkpoint(out, rope_dialect="yarn")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1 byte of tensors, got max_bytes 0"):
        make_checkpoint(out, max_shard_bytes=0)
    with pytest.raises(ValueError, match="'moe' is a mixture of experts"):
        make_checkpoint(out, "moe")
    assert layout_name(HEAD_NAME, layout="legacy") == HEAD_NAME
    assert not list(tmp_path.iterdir())


# Atomic, reused, never overwritten


def test_a_finished_folder_is_reused_untouched(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "x")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert make_checkpoint(folder) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_another_spec_is_not_written_over(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "x")
    before = _bytes(folder)
    with pytest.raises(ValueError, match=r"holds another checkpoint \(seed is 0, asked for 3\); choose another"):
        make_checkpoint(folder, seed=3)
    assert _bytes(folder) == before


def test_foreign_files_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty and has no seeded.json, so it isn't overwritten"):
        make_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match="is a file; name a folder"):
        make_checkpoint(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_folder_is_not_reused(tmp_path: Path, name: str) -> None:
    folder = make_checkpoint(tmp_path / "x")
    path = folder / name
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name} has sha256 [0-9a-f]+, expected [0-9a-f]+; choose another"):
        make_checkpoint(folder)
    path.unlink()
    with pytest.raises(ValueError, match=rf"lacks {name}"):
        make_checkpoint(folder)


def test_a_damaged_receipt_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "x")
    (folder / RECEIPT).write_text("[]")
    with pytest.raises(ValueError, match=r"seeded.json is not a receipt of a seeded checkpoint"):
        make_checkpoint(folder)


def test_an_empty_folder_gives_way(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    assert (make_checkpoint(tmp_path / "x") / RECEIPT).is_file()


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "write_shard", fail)
    with pytest.raises(OSError, match="disk full"):
        make_checkpoint(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_losing_a_race_reuses_the_winners_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint._publish

    def beaten(work: Path, out_dir: Path, plan: Any) -> None:
        monkeypatch.setattr(checkpoint, "_publish", real)
        make_checkpoint(out_dir)
        real(work, out_dir, plan)

    monkeypatch.setattr(checkpoint, "_publish", beaten)
    folder = make_checkpoint(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert make_checkpoint(folder) == folder


def test_the_receipt_says_what_is_there(made: Callable[..., Path]) -> None:
    folder = made("tiny-tied")
    receipt = json.loads((folder / RECEIPT).read_bytes())
    assert receipt["spec"]["shape"] == "tiny-tied"
    assert receipt["spec"]["tied"] is True
    assert receipt["parameters"] == sum(value.numel() for value in _tensors(folder).values())
    digests = _bytes(folder)
    digests.pop(RECEIPT)
    assert {name: entry["sha256"] for name, entry in receipt["files"].items()} == digests
    assert {name: entry["bytes"] for name, entry in receipt["files"].items()} == {
        path.name: path.stat().st_size for path in folder.iterdir() if path.name != RECEIPT
    }


# The processor


@pytest.mark.parametrize("name", TINY_NAMES)
def test_the_processor_loads_and_counts_placeholders(made: Callable[..., Path], name: str) -> None:
    folder, vision = made(name), SHAPES[name].vision
    processor = AutoProcessor.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_bytes())
    assert processor.tokenizer.convert_tokens_to_ids("<|image_pad|>") == config["image_token_id"]
    frames = np.random.default_rng(1).integers(0, 256, (8, 90, 130, 3), dtype=np.uint8)
    parts = [{"type": "image"}, {"type": "text", "text": "then"}, {"type": "video"}, {"type": "image"}]
    text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    inputs = processor(
        text=[text],
        images=[_picture(201, 333), _picture(90, 60)],
        videos=[frames],
        video_metadata=[VideoMetadata(total_num_frames=8, fps=4.0, duration=2.0)],
        return_tensors="pt",
    )
    for key, token in (("image", "image_token_id"), ("video", "video_token_id")):
        grid = inputs[f"{key}_grid_thw"]
        assert int((inputs["input_ids"] == config[token]).sum()) == int(grid.prod(-1).sum()) // vision.merge**2
        assert (grid[:, 1:] % vision.merge == 0).all()
    values = vision.channels * vision.temporal_patch * vision.patch**2
    assert inputs["pixel_values"].shape == (int(inputs["image_grid_thw"].prod(-1).sum()), values)
    assert inputs["pixel_values_videos"].shape == (int(inputs["video_grid_thw"].prod()), values)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_a_photo_stays_small_but_not_tiny(made: Callable[..., Path], name: str) -> None:
    processor, merge = AutoProcessor.from_pretrained(made(name)), SHAPES[name].vision.merge
    for height, width in ((3000, 4000), (1080, 1920)):
        grid = processor.image_processor([_picture(height // 4, width // 4)], return_tensors="pt")["image_grid_thw"]
        assert 60 <= int(grid.prod()) // merge**2 <= 400


def test_the_template_reaches_tokenizer_and_processor(made: Callable[..., Path]) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    for door in (AutoTokenizer, AutoProcessor):
        loaded = door.from_pretrained(made())
        assert loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == expected


# The model is alive


@pytest.mark.parametrize("name", TINY_NAMES)
def test_every_seam_moves_the_logits(
    made: Callable[..., Path], loaded: Callable[..., Qwen3VLForConditionalGeneration], name: str
) -> None:
    model, inputs = loaded(name), _picture_prompt(made(name))
    base = _logits(model, inputs)
    visual, text = model.model.visual, model.model.language_model
    seams: dict[str, nn.Module] = {"patch_embed": visual.patch_embed, "pos_embed": visual.pos_embed}
    seams["merger"] = visual.merger
    seams |= {f"deepstack {i}": merger for i, merger in enumerate(visual.deepstack_merger_list)}
    for index, block in enumerate(visual.blocks):
        seams |= {f"vision {index} attn": block.attn, f"vision {index} mlp": block.mlp}
    for index, layer in enumerate(text.layers):
        attention = layer.self_attn
        seams |= {f"text {index} attn": attention, f"text {index} mlp": layer.mlp}
        seams |= {f"text {index} q_norm": attention.q_norm, f"text {index} k_norm": attention.k_norm}
    moved: dict[str, float] = {}
    for seam, module in seams.items():
        moved[seam] = _movement(_logits_with(model, inputs, module, _zeroed), base)
    moved["vision sin"] = _movement(_logits_with(model, inputs, visual.rotary_pos_emb, _without_sin), base)
    moved["text sin"] = _movement(_logits_with(model, inputs, text.rotary_emb, _without_sin), base)
    weakest = min(moved, key=lambda seam: moved[seam])
    assert moved[weakest] > 0.1, f"{weakest} moves the logits by {moved[weakest]:.1e} only"


def _logits_with(model: nn.Module, inputs: Any, module: nn.Module, change: Callable[[Any], Any]) -> torch.Tensor:
    handle = module.register_forward_hook(lambda _module, _inputs, output: change(output))
    try:
        return _logits(model, inputs)
    finally:
        handle.remove()


def _zeroed(output: Any) -> Any:
    if isinstance(output, tuple):
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)


def _without_sin(output: Any) -> Any:
    return (output[0], torch.zeros_like(output[1]))


@pytest.mark.parametrize("name", TINY_NAMES)
def test_every_parameter_moves_the_logits(
    made: Callable[..., Path], loaded: Callable[..., Qwen3VLForConditionalGeneration], name: str
) -> None:
    model, inputs = loaded(name), _picture_prompt(made(name))
    base = _logits(model, inputs)
    moved: dict[str, float] = {}
    for key, parameter in model.named_parameters():
        kept = parameter.data.clone()
        # What a port that forgot it would have: a norm's gain of 1, and 0 for all else.
        parameter.data.fill_(1.0 if key.endswith("weight") and "norm" in key else 0.0)
        moved[key] = _movement(_logits(model, inputs), base)
        parameter.data.copy_(kept)
    assert torch.equal(_logits(model, inputs), base)
    weakest = min(moved, key=lambda key: moved[key])
    assert moved[weakest] > 0.01, f"{weakest} moves the logits by {moved[weakest]:.1e} only"


@pytest.mark.parametrize("name", TINY_NAMES)
def test_the_model_is_lively_but_not_chaotic(
    made: Callable[..., Path], loaded: Callable[..., Qwen3VLForConditionalGeneration], name: str
) -> None:
    model, inputs = loaded(name), _picture_prompt(made(name))
    sdpa = _logits(model, inputs)
    try:
        model.set_attn_implementation("eager")
        eager = _logits(model, inputs)
    finally:
        model.set_attn_implementation("sdpa")
    assert _movement(eager, sdpa) < 1e-5
    assert 1.0 < float(sdpa.std()) < 4.0


@pytest.mark.parametrize("name", TINY_NAMES)
def test_greedy_decoding_does_not_get_stuck(
    made: Callable[..., Path], loaded: Callable[..., Qwen3VLForConditionalGeneration], name: str
) -> None:
    inputs = _picture_prompt(made(name))
    length = inputs["input_ids"].shape[1]
    out = loaded(name).generate(**inputs, max_new_tokens=16, min_new_tokens=16)
    assert len(set(out[0, length:].tolist())) >= 4


def test_a_custom_shape_needs_no_registry_entry_to_be_described() -> None:
    shape = Shape(
        name="mine",
        tied=True,
        text=TextShape(
            hidden=8, layers=1, heads=1, kv_heads=1, head_dim=4, intermediate=4, mrope_section=(1, 1, 0), vocab=700
        ),
        vision=VisionShape(depth=1, hidden=4, heads=1, intermediate=4, taps=(0,), positions=4),
    )
    config = config_dict(shape, token_ids=tokenizer_parts().special_ids)
    assert weight_shapes(config)["model.visual.patch_embed.proj.weight"] == (4, 3, 2, 16, 16)
