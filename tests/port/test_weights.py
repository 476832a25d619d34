"""Checkpoint folders: every valid layout gives the same parameters, and every fault is refused with its name."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from port import ConfigError, Inputs, Qwen3VL, WeightsError, load_model
from port.weights import INDEX_FILE, SINGLE_FILE, Checkpoint, Mismatch, checkpoint_name, published_name
from reference.weights import tensor_values, weight_shapes
from tests.port.port_samples import raw_config

EMBEDDING = "model.language_model.embed_tokens.weight"
NORM = "model.language_model.layers.2.input_layernorm.weight"
CONV = "model.visual.patch_embed.proj.weight"
PROMPT = Inputs(torch.tensor([[5, 600, 7]]), torch.ones(1, 3, dtype=torch.long))
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    shapes = weight_shapes(raw_config())
    return {n: torch.from_numpy(tensor_values(n, s, seed=5, tied=False)) for n, s in shapes.items()}


def _legacy(name: str) -> str:
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def _write(folder: Path, tensors: Tensors, *, tied: bool = False, shards: int = 0) -> Path:
    """A checkpoint folder; ``shards`` > 0 spreads the tensors over so many files."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw_config(tied=tied)), encoding="utf-8")
    if not shards:
        save_file(tensors, folder / SINGLE_FILE)
        return folder
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        names = list(tensors)[shard::shards]
        save_file({key: tensors[key] for key in names}, folder / name)
        weight_map |= dict.fromkeys(names, name)
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    return folder


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def _edit_index(folder: Path, edit: Callable[[dict[str, object]], None]) -> None:
    index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    edit(index)
    (folder / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")


def _spoil(path: Path) -> None:
    """Overwrite a file in place with as many bytes, which are NaN in every float dtype."""
    size, changed = path.stat().st_size, path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.write(b"\xff" * size)
    # Clocks of file systems are coarse: the test may be faster than one tick.
    os.utime(path, ns=(changed, changed + 1))


def _refused(folder: Path, *words: str) -> None:
    with pytest.raises(WeightsError) as caught:
        load_model(folder)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def _parameters(model: Qwen3VL) -> Tensors:
    return {checkpoint_name(name): parameter for name, parameter in model.named_parameters()}


def test_every_sound_layout_gives_every_tensor_of_the_checkpoint(tmp_path: Path, tensors: Tensors) -> None:
    legacy = {_legacy(name): tensor for name, tensor in tensors.items()}
    folders = [
        _write(tmp_path / "single", tensors),
        _write(tmp_path / "shards", tensors, shards=5),
        _write(tmp_path / "legacy", legacy),
        _write(tmp_path / "legacy-shards", legacy, shards=3),
        _write(tmp_path / "one-shard", tensors, shards=1),
    ]
    for folder in folders:
        model = load_model(folder)
        assert not model.training
        found = _parameters(model)
        assert found.keys() == tensors.keys(), folder.name
        for name, parameter in found.items():
            assert not parameter.requires_grad
            assert torch.equal(parameter.view(tensors[name].shape), tensors[name]), (folder.name, name)
        assert torch.equal(model.model.visual.patch_embed.proj.weight(), tensors[CONV])


def test_no_parameter_is_left_on_the_meta_device_or_in_another_dtype(tmp_path: Path, tensors: Tensors) -> None:
    folder = _write(tmp_path / "x", tensors)
    for dtype in (torch.float64, torch.bfloat16):
        model = load_model(folder, dtype=dtype)
        assert {(p.device.type, p.dtype) for p in model.parameters()} == {("cpu", dtype)}
        assert torch.equal(model.output_weight(), tensors["lm_head.weight"].to(dtype))


def test_a_model_in_another_dtype_outlives_its_files(tmp_path: Path, tensors: Tensors) -> None:
    folder = _write(tmp_path / "x", tensors)
    model = load_model(folder, dtype=torch.float64)
    _spoil(folder / SINGLE_FILE)
    shutil.rmtree(folder)
    assert torch.equal(model.output_weight(), tensors["lm_head.weight"].double())
    assert torch.isfinite(model(PROMPT)).all()


def test_a_model_outlives_files_that_are_removed_or_replaced(tmp_path: Path, tensors: Tensors) -> None:
    folder = _write(tmp_path / "x", tensors, shards=3)
    model = load_model(folder)
    before = model(PROMPT)
    removed, replaced, _ = _shards(folder)
    removed.unlink()
    (tmp_path / "other").write_bytes(b"\xff" * replaced.stat().st_size)
    os.replace(tmp_path / "other", replaced)
    assert torch.equal(model(PROMPT), before)
    assert torch.equal(copy.deepcopy(model)(PROMPT), before)


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("change", ["written", "longer", "cut"])
def test_no_request_runs_on_files_that_were_changed(
    tmp_path: Path, tensors: Tensors, change: str, removed: bool
) -> None:
    folder = _write(tmp_path / "x", tensors, shards=2)
    model, path = load_model(folder), _shards(folder)[1]
    other = copy.deepcopy(load_model(folder))
    cache = model.new_cache(1, 8)
    token = model.prefill(PROMPT, cache)[:, -1].argmax(dim=-1, keepdim=True)
    size = path.stat().st_size
    if change == "written":
        _spoil(path)
        # Without the check, the model would run on these.
        assert not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    else:
        os.truncate(path, size + 1 if change == "longer" else 4)
    now = path.stat().st_size
    if removed:
        path.unlink()
    requests: list[Callable[[], object]] = [
        lambda: model(PROMPT),
        lambda: model.prefill(PROMPT, model.new_cache(1, 8)),
        lambda: model.prefill_last(PROMPT, model.new_cache(1, 8)),
        lambda: model.decode(token, cache),
        lambda: other(PROMPT),
    ]
    for request in requests:
        with pytest.raises(WeightsError) as caught:
            request()
        for words in (str(path), f"{size} bytes", f"now {now} bytes", "load the model again"):
            assert words in str(caught.value)


def test_a_file_that_changes_while_it_is_loaded_is_refused(
    tmp_path: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _write(tmp_path / "x", tensors)
    read = Checkpoint.read

    def spoiling(self: Checkpoint, name: str) -> Tensor:
        tensor = read(self, name)
        os.utime(folder / SINGLE_FILE, ns=(0, 0))
        return tensor

    monkeypatch.setattr(Checkpoint, "read", spoiling)
    _refused(folder, "was changed", "1970")


def test_writing_into_a_parameter_changes_neither_the_file_nor_another_model(tmp_path: Path, tensors: Tensors) -> None:
    folder = _write(tmp_path / "x", tensors)
    before = (folder / SINGLE_FILE).read_bytes()
    model, other = load_model(folder), load_model(folder)
    for parameter in model.parameters():
        parameter.fill_(7)
    assert (folder / SINGLE_FILE).read_bytes() == before
    for found in (other, load_model(folder)):
        assert all(torch.equal(p.view(tensors[name].shape), tensors[name]) for name, p in _parameters(found).items())
    model(PROMPT)  # the model itself may be changed


def test_numbers_at_odd_places_of_a_file_are_moved(tmp_path: Path, tensors: Tensors) -> None:
    folder = _write(tmp_path / "x", tensors)
    content = (folder / SINGLE_FILE).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[8:end].rstrip()
    header += b" " * ((1 - len(header)) % 8)
    (folder / SINGLE_FILE).write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    for name, parameter in _parameters(load_model(folder)).items():
        assert parameter.data_ptr() % 4 == 0, name
        assert torch.equal(parameter.view(tensors[name].shape), tensors[name]), name


@pytest.mark.parametrize("shards", [0, 3])
@pytest.mark.parametrize("name", [EMBEDDING, NORM, CONV, "model.visual.patch_embed.proj.bias", "lm_head.weight"])
def test_a_missing_tensor_is_named(tmp_path: Path, tensors: Tensors, name: str, shards: int) -> None:
    folder = _write(tmp_path / "x", {key: value for key, value in tensors.items() if key != name}, shards=shards)
    _refused(folder, "1 missing", name)


@pytest.mark.parametrize("name", ["model.visual.blocks.6.norm1.weight", "other.bias", "model.visual.matrix"])
def test_an_extra_tensor_is_named(tmp_path: Path, tensors: Tensors, name: str) -> None:
    _refused(_write(tmp_path / "x", {**tensors, name: torch.ones(2)}), "1 unexpected", name)


@pytest.mark.parametrize(
    ("name", "shape", "shown"),
    [
        (NORM, (65,), "(65,), config says (64,)"),
        (EMBEDDING, (64, 701), "(64, 701), config says (701, 64)"),
        (CONV, (48, 1536), "(48, 1536), config says (48, 3, 2, 16, 16)"),
        (CONV, (48, 2, 3, 16, 16), "(48, 2, 3, 16, 16), config says (48, 3, 2, 16, 16)"),
    ],
)
def test_a_wrong_shape_is_named_with_both(
    tmp_path: Path, tensors: Tensors, name: str, shape: tuple[int, ...], shown: str
) -> None:
    _refused(_write(tmp_path / "x", {**tensors, name: torch.ones(shape)}), "1 of the wrong shape", f"{name} {shown}")


def test_missing_extra_and_wrong_are_reported_together(tmp_path: Path, tensors: Tensors) -> None:
    wrong = {**tensors, "more": torch.ones(1), NORM: torch.ones(3)}
    del wrong[EMBEDDING]
    _refused(_write(tmp_path / "x", wrong), f"1 missing: {EMBEDDING}", "1 unexpected: more", f"wrong shape: {NORM}")


def test_long_lists_are_cut_after_ten() -> None:
    mismatch = Mismatch(missing=[f"k{i:02d}" for i in range(13)])
    assert bool(mismatch)
    assert str(mismatch).endswith("k09 and 3 more")
    assert not Mismatch()


def test_a_missing_shard_is_named(tmp_path: Path, tensors: Tensors) -> None:
    folder = _write(tmp_path / "x", tensors, shards=3)
    gone = _shards(folder)[1]
    gone.unlink()
    _refused(folder, "1 of 3 shards are missing", gone.name)


@pytest.mark.parametrize("kept", [0, 4, 200, 0.5, 0.999])
@pytest.mark.parametrize("shards", [0, 3])
def test_a_truncated_file_is_named_with_its_size(tmp_path: Path, tensors: Tensors, shards: int, kept: float) -> None:
    folder = _write(tmp_path / "x", tensors, shards=shards)
    path = _shards(folder)[2] if shards else folder / SINGLE_FILE
    content = path.read_bytes()
    content = content[: int(kept * len(content)) if isinstance(kept, float) else kept]
    path.write_bytes(content)
    _refused(folder, path.name, f"({len(content)} bytes)", "truncated or damaged")


def test_an_index_that_lies_about_a_shard_is_caught_both_ways(tmp_path: Path, tensors: Tensors) -> None:
    folder = _write(tmp_path / "x", tensors, shards=3)
    load_model(folder)
    first, second = (path.name for path in _shards(folder)[:2])
    moved = next(iter(tensors))  # lies in the first shard

    def move(index: dict[str, object]) -> None:
        weight_map = index["weight_map"]
        assert isinstance(weight_map, dict)
        weight_map[moved] = second

    _edit_index(folder, move)
    _refused(folder, first, INDEX_FILE, "1 not listed", moved)


def test_a_tensor_that_only_the_index_has_is_named(tmp_path: Path, tensors: Tensors) -> None:
    folder = _write(tmp_path / "x", tensors, shards=2)

    def invent(index: dict[str, object]) -> None:
        weight_map = index["weight_map"]
        assert isinstance(weight_map, dict)
        weight_map["ghost"] = _shards(folder)[0].name

    _edit_index(folder, invent)
    _refused(folder, "1 tensors missing", "ghost")


def test_a_tensor_in_both_layouts_is_there_twice(tmp_path: Path, tensors: Tensors) -> None:
    for shards in (0, 2):
        folder = _write(tmp_path / f"x{shards}", {**tensors, _legacy(NORM): tensors[NORM].clone()}, shards=shards)
        _refused(folder, NORM, "there twice")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_single_number_that_is_not_finite_is_named(
    tmp_path: Path, tensors: Tensors, dtype: torch.dtype, bad: float
) -> None:
    spoiled = {name: tensor.to(dtype, copy=True) for name, tensor in tensors.items()}
    spoiled[NORM][63] = bad
    _refused(_write(tmp_path / "x", spoiled), NORM, "NaN or Inf")


def test_tied_checkpoints_may_repeat_the_embeddings_but_not_contradict_them(tmp_path: Path, tensors: Tensors) -> None:
    without = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    other = tensors[EMBEDDING].clone()
    other[700, 63] += 1e-3
    _refused(
        _write(tmp_path / "contradicts", {**without, "lm_head.weight": other}, tied=True), "tie_word_embeddings is true"
    )
    _refused(
        _write(tmp_path / "shape", {**without, "lm_head.weight": torch.ones(701, 63)}, tied=True), "(701, 63)"
    )  # fmt: skip
    for name, checkpoint in (
        ("absent", without),
        ("equal", {**without, "lm_head.weight": tensors[EMBEDDING].clone()}),
    ):
        model = load_model(_write(tmp_path / name, checkpoint, tied=True))
        assert _parameters(model).keys() == without.keys()
        assert torch.equal(model.output_weight(), tensors[EMBEDDING])


def test_an_untied_checkpoint_uses_its_own_head(tmp_path: Path, tensors: Tensors) -> None:
    model = load_model(_write(tmp_path / "x", tensors))
    assert torch.equal(model.output_weight(), tensors["lm_head.weight"])
    assert not torch.equal(model.output_weight(), tensors[EMBEDDING])


def test_pickles_are_not_opened(tmp_path: Path, tensors: Tensors) -> None:
    folder = _write(tmp_path / "x", tensors)
    (folder / SINGLE_FILE).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n(S'exit 1'\ntR.")
    _refused(folder, SINGLE_FILE, INDEX_FILE, "only safetensors")


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("kind", ["parent", "absolute"])
def test_an_index_may_not_point_outside_its_folder(tmp_path: Path, tensors: Tensors, kind: str, there: bool) -> None:
    folder = _write(tmp_path / "x", tensors, shards=2)
    outside = tmp_path / "model-00001-of-00002.safetensors"
    if there:
        shutil.move(_shards(folder)[0], outside)
    target = str(outside) if kind == "absolute" else f"../{outside.name}"

    def point(index: dict[str, object]) -> None:
        weight_map = index["weight_map"]
        assert isinstance(weight_map, dict)
        index["weight_map"] = {key: target if file == outside.name else file for key, file in weight_map.items()}

    _edit_index(folder, point)
    _refused(folder, "outside its folder")


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": 5}}', b'{"weight_map": {"a": ["b"]}}', b"\xff"],
)
def test_a_broken_index_is_named(tmp_path: Path, tensors: Tensors, content: bytes) -> None:
    folder = _write(tmp_path / "x", tensors, shards=2)
    (folder / INDEX_FILE).write_bytes(content)
    _refused(folder, INDEX_FILE, "not a safetensors index")


def test_an_index_that_lists_nothing_leaves_everything_missing(tmp_path: Path, tensors: Tensors) -> None:
    folder = _write(tmp_path / "x", tensors, shards=2)
    _edit_index(folder, lambda index: index.update(weight_map={}))
    _refused(folder, f"{len(tensors)} missing", "and")


def test_two_checkpoints_in_one_folder_are_refused(tmp_path: Path, tensors: Tensors) -> None:
    # The reference would read the single file, an index reader the shards.
    folder = _write(tmp_path / "x", tensors, shards=2)
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, folder / SINGLE_FILE)
    _refused(folder, SINGLE_FILE, INDEX_FILE)


def test_an_index_may_list_the_single_file(tmp_path: Path, tensors: Tensors) -> None:
    folder = _write(tmp_path / "x", tensors)
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, SINGLE_FILE)}), encoding="utf-8")
    assert torch.equal(load_model(folder).output_weight(), tensors["lm_head.weight"])


def test_a_folder_without_config_is_refused_before_its_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json does not exist"):
        load_model(tmp_path)


def test_names_of_both_layouts_map_to_the_published_ones(tensors: Tensors) -> None:
    for name in tensors:
        assert published_name(name) == name
        assert published_name(_legacy(name)) == name
    assert published_name("other.weight") == "other.weight"
    assert len({_legacy(name) for name in tensors}) == len(tensors)


def test_the_test_files_are_what_load_file_reads(tmp_path: Path, tensors: Tensors) -> None:
    folder = _write(tmp_path / "x", tensors)
    assert load_file(folder / SINGLE_FILE).keys() == tensors.keys()
