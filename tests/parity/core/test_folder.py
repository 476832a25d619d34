"""Trace folders can be written and read again, and all problems of a folder are reported."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from parity.core import folder as folder_module
from parity.core.errors import TraceError
from parity.core.folder import FolderTrace, TraceWriter, check_folder, manifest_schema
from parity.core.trace import DTYPES, Description, MemoryTrace, SeamKey
from tests.parity.core.samples import ROWS, description, entries, entry, labels, memory_trace, values, write_folder

Manifest = dict[str, Any]


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    folder = write_folder(tmp_path / "trace", values())
    assert check_folder(folder) == []
    return folder


def _edit(folder: Path, change: Callable[[Manifest], object]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def _rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    path = folder / "seams-00000.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _one(folder: Path, *words: str) -> None:
    problems = check_folder(folder)
    assert len(problems) == 1, problems
    assert all(word in problems[0] for word in words), problems


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_every_dtype_comes_back_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    values = np.array([[0, 1, 0, 1], [1, 1, 0, 2.6]]).astype(DTYPES[dtype])
    item = entry("x", values)
    with TraceWriter(tmp_path / "t", description()) as writer:
        writer.add_labels(ROWS, labels())
        writer.add(item, values)
    assert check_folder(tmp_path / "t") == []
    trace = FolderTrace(tmp_path / "t")
    back = trace.read(item.key)
    assert back.dtype == values.dtype == DTYPES[dtype]
    assert back.tobytes() == values.tobytes()
    assert trace.entries() == {item.key: item}


def test_bfloat16_keeps_numbers_that_float16_cannot_hold(tmp_path: Path) -> None:
    values = np.array([[1e38, -1e-38], [3.140625, 0]]).astype(ml_dtypes.bfloat16)
    with TraceWriter(tmp_path / "t", description(dtype="bfloat16")) as writer:
        writer.add(entry("x", values, rows=None), values)
    back = FolderTrace(tmp_path / "t").read(SeamKey("x", 0))
    assert back.tobytes() == values.tobytes()
    assert float(back[0, 0]) > 9e37


def test_a_whole_trace_comes_back(sound: Path) -> None:
    trace, arrays = FolderTrace(sound), values()
    assert trace.description == description()
    assert list(trace) == entries(arrays), "in order, with every field"
    assert len(trace) == 3
    for name, array in arrays.items():
        assert np.array_equal(trace.read(SeamKey(name, 0)), array)
    assert np.array_equal(trace.labels(ROWS), labels())


def test_big_traces_come_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_SHARD_BYTES", 300)
    folder = write_folder(tmp_path / "t", values())
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert check_folder(folder) == []
    trace = FolderTrace(folder)
    assert all(np.array_equal(trace.read(SeamKey(name, 0)), array) for name, array in values().items())


def test_a_view_with_strides_is_written_as_it_reads(tmp_path: Path) -> None:
    values = np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)
    with TraceWriter(tmp_path / "t", description()) as writer:
        writer.add(entry("x", values, rows=None), values)
    assert np.array_equal(FolderTrace(tmp_path / "t").read(SeamKey("x", 0)), values)


def test_one_seam_may_have_several_calls(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t", description()) as writer:
        for call in range(3):
            array = np.full((1, 2, 2), float(call))
            writer.add(entry("x", array, call=call, rows=None), array)
    trace = FolderTrace(tmp_path / "t")
    assert [trace.read(SeamKey("x", call)).max() for call in range(3)] == [0, 1, 2]
    with pytest.raises(TraceError, match=r"x\[3\]"):
        trace.read(SeamKey("x", 3))


# -- the writer --------------------------------------------------------------------------------------------------


def test_a_failed_run_leaves_nothing(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "out" / "t", description())
    array = np.ones((1, 2, 3))
    with pytest.raises(KeyError), writer:
        _add_then_fail(writer, array)
    assert list((tmp_path / "out").iterdir()) == []


def _add_then_fail(writer: TraceWriter, array: np.ndarray) -> None:
    writer.add(entry("x", array, rows=None), array)
    raise KeyError("the run broke")


def test_the_folder_is_not_there_before_the_end(tmp_path: Path) -> None:
    array = np.ones((1, 2, 3))
    with TraceWriter(tmp_path / "t", description()) as writer:
        writer.add(entry("x", array, rows=None), array)
        assert not (tmp_path / "t").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_an_existing_folder_is_left_as_it_is(sound: Path) -> None:
    before = {path.name: path.read_bytes() for path in sound.iterdir()}
    with pytest.raises(TraceError, match="exists already"):
        TraceWriter(sound, description()).__enter__()
    assert {path.name: path.read_bytes() for path in sound.iterdir()} == before
    assert [path.name for path in sound.parent.iterdir()] == [sound.name]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="cannot be written"):
        TraceWriter(tmp_path / "file" / "t", description()).__enter__()


@pytest.mark.parametrize("shard_bytes", [1, 2**20])
def test_the_same_reading_twice_is_refused_when_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int
) -> None:
    monkeypatch.setattr(folder_module, "_SHARD_BYTES", shard_bytes)
    array = np.ones((1, 2, 3))
    with TraceWriter(tmp_path / "t", description()) as writer:
        writer.add(entry("x", array, rows=None), array)
        with pytest.raises(TraceError, match=r"x\[0\] is there twice"):
            writer.add(entry("x", array, rows=None), array)


@pytest.mark.parametrize(
    "change",
    [{"shape": (1, 2, 4)}, {"dtype": "float32"}, {"token_axes": (0, 3)}, {"axis_names": ("batch",)}],
)
def test_an_entry_that_does_not_fit_its_tensor_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    array = np.ones((1, 2, 3))
    with TraceWriter(tmp_path / "t", description()) as writer:
        writer.add(entry("sound", array, rows=None), array)
        with pytest.raises(TraceError, match=r"x\[0\]"):
            writer.add(entry("x", array, rows=None, **change), array)
    with pytest.raises(TraceError, match=r"x\[0\]"):
        MemoryTrace(description()).add(entry("x", array, rows=None, **change), array)


def test_a_trace_without_seams_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no seam"), TraceWriter(tmp_path / "t", description()):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_float_gate_needs_floats(tmp_path: Path) -> None:
    array = np.ones((1, 2), dtype=np.int64)
    with pytest.raises(TraceError, match="gate"):
        MemoryTrace(description()).add(entry("x", array, gate="float", rows=None), array)


def test_a_dtype_without_a_place_is_refused() -> None:
    with pytest.raises(TraceError, match="complex128"):
        entry("x", np.ones((1, 2), dtype=complex))


def test_memory_traces_refuse_what_is_twice_and_name_what_is_absent() -> None:
    trace = memory_trace(values())
    with pytest.raises(TraceError, match=r"ids\[0\] is there twice"):
        trace.add(entries(values())[0], values()["ids"])
    with pytest.raises(TraceError, match=r"nothing\[0\]"):
        trace.read(SeamKey("nothing", 0))
    with pytest.raises(TraceError, match=r"rows\.keys\[0\]"):
        trace.labels(SeamKey("rows.keys", 0))


# -- what can be wrong with a folder -----------------------------------------------------------------------------


def test_no_folder_and_no_manifest_are_named(tmp_path: Path) -> None:
    _one(tmp_path / "nowhere", "manifest.json", "does not exist")
    _one(tmp_path, "manifest.json", "does not exist")
    with pytest.raises(TraceError, match="does not exist"):
        FolderTrace(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe"])
def test_a_manifest_that_is_no_json_is_named(sound: Path, content: bytes) -> None:
    (sound / "manifest.json").write_bytes(content)
    _one(sound, "manifest.json", "cannot be read")


@pytest.mark.parametrize("content", ["[]", "null", "3"])
def test_a_manifest_that_is_no_object_is_named(sound: Path, content: str) -> None:
    (sound / "manifest.json").write_text(content)
    _one(sound, "is not of type 'object'")


def test_a_missing_tensor_file_is_named(sound: Path) -> None:
    (sound / "seams-00000.safetensors").unlink()
    problems = check_folder(sound)
    assert len(problems) == 3
    assert all("seams-00000.safetensors" in problem for problem in problems)


def test_a_truncated_tensor_file_is_named(sound: Path) -> None:
    path = sound / "seams-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    assert all("seams-00000.safetensors" in problem for problem in check_folder(sound))
    assert check_folder(sound)


def test_a_missing_tensor_is_named(sound: Path) -> None:
    _rewrite(sound, lambda tensors: tensors.pop("hidden#0"))
    _one(sound, "hidden#0")


def test_an_extra_tensor_is_named(sound: Path) -> None:
    _rewrite(sound, lambda tensors: tensors.update(more=np.ones(2)))
    _one(sound, "1 tensors that no seam lists: more")


def test_a_wrong_shape_is_named_with_both(sound: Path) -> None:
    _rewrite(sound, lambda tensors: tensors.update({"hidden#0": np.ones((2, 4, 15), np.float32)}))
    _one(sound, "hidden[0]", "[2, 4, 16]", "[2, 4, 15]")


def test_a_wrong_dtype_is_named_with_both(sound: Path) -> None:
    _rewrite(sound, lambda tensors: tensors.update({"hidden#0": np.ones((2, 4, 16), np.float16)}))
    _one(sound, "hidden[0]", "float32", "float16")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_number_that_is_not_finite_is_found(tmp_path: Path, dtype: str, bad: float) -> None:
    arrays = {"hidden": values()["hidden"].astype(DTYPES[dtype])}
    assert check_folder(write_folder(tmp_path / "good", arrays)) == []
    arrays["hidden"][1, 2, 3] = bad
    _one(write_folder(tmp_path / "bad", arrays), "hidden[0]", "NaN or Inf")


def test_numbers_at_padding_may_be_anything(tmp_path: Path) -> None:
    arrays = values()
    arrays["hidden"][0, 0] = np.nan  # padding, see labels()
    assert check_folder(write_folder(tmp_path / "t", arrays)) == []


def test_a_seam_listed_twice_is_named(sound: Path) -> None:
    _edit(sound, lambda manifest: manifest["seams"].append(manifest["seams"][1]))
    _one(sound, "hidden[0]", "listed twice")


@pytest.mark.parametrize("name", ["rows.tokens", "hidden"])
def test_labels_listed_twice_or_under_a_seams_name_are_named(sound: Path, name: str) -> None:
    _edit(sound, lambda manifest: manifest["labels"].append({**manifest["labels"][0], "name": name}))
    _one(sound, f"{name}[0]", "listed twice")


def test_labels_of_another_shape_are_named_with_both(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "t", values(), kinds=labels(2, 5))
    problems = check_folder(folder)
    assert len(problems) == 3
    assert all("[2, 4]" in problem and "[2, 5]" in problem for problem in problems)


def test_labels_of_another_dtype_are_named(sound: Path) -> None:
    _rewrite(sound, lambda tensors: tensors.update({"rows.tokens#0": labels().astype(np.int64)}))
    assert all("must be uint8" in problem for problem in check_folder(sound))
    assert check_folder(sound)


def test_labels_that_no_seam_uses_are_checked_too(sound: Path) -> None:
    _edit(sound, lambda m: m["labels"].append({**m["labels"][0], "call": 7, "tensor": "rows.tokens#7"}))
    _one(sound, "rows.tokens[7]")


def test_rows_without_labels_are_named(sound: Path) -> None:
    _edit(sound, lambda manifest: manifest["labels"].clear())
    assert any("rows.tokens[0]" in problem for problem in check_folder(sound))


@pytest.mark.parametrize(
    "file",
    [
        "seams.pkl", "seams.bin", "seams.pt", "/etc/seams.safetensors", "../seams.safetensors",
        "a/seams.safetensors", "a\\seams.safetensors", "", ".safetensors.pkl",
    ],
)  # fmt: skip
@pytest.mark.parametrize("part", ["seams", "labels"])
def test_tensors_lie_in_safetensors_files_of_the_folder_itself(sound: Path, part: str, file: str) -> None:
    _edit(sound, lambda manifest: manifest[part][0].update(file=file))
    _one(sound, f"$.{part}[0].file", "does not match")
    with pytest.raises(TraceError, match="does not match"):
        FolderTrace(sound)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda m: m.update(schema_version="2.0"), "schema_version"),
        (lambda m: m.pop("case"), "'case' is a required property"),
        (lambda m: m.update(more=1), "'more' was unexpected"),
        (lambda m: m.update(seams=[]), "$.seams"),
        (lambda m: m.update(dtype="float8"), "$.dtype"),
        (lambda m: m["seams"][0].update(dtype="complex64"), "$.seams[0].dtype"),
        (lambda m: m["seams"][0].update(gate="loose"), "$.seams[0].gate"),
        (lambda m: m["seams"][0].update(call=-1), "$.seams[0].call"),
        (lambda m: m["seams"][0].update(call="0"), "$.seams[0].call"),
        (lambda m: m["seams"][0].update(shape=[2, -4]), "$.seams[0].shape[1]"),
        (lambda m: m["seams"][0].update(token_axes=[0, 0]), "$.seams[0].token_axes"),
        (lambda m: m["seams"][0].pop("tensor"), "'tensor' is a required property"),
        (lambda m: m["model"].update(checkpoint_sha256="abc"), "$.model.checkpoint_sha256"),
        (lambda m: m.update(kinds={"x": "text"}), "$.kinds"),
    ],
)
def test_faults_of_the_manifest_are_named_by_their_place(
    sound: Path, change: Callable[[Manifest], object], place: str
) -> None:
    _edit(sound, change)
    _one(sound, place)
    with pytest.raises(TraceError):
        FolderTrace(sound)


@pytest.mark.parametrize(
    "change",
    [
        {"token_axes": [0, 9], "axis_names": ["batch", "token"]},
        {"axis_names": ["batch"]},
        {"axis_names": ["batch", "token", "channel"]},
        {"gate": "float"},
    ],
)
def test_faults_that_a_schema_cannot_say_are_found_too(sound: Path, change: Manifest) -> None:
    _edit(sound, lambda manifest: manifest["seams"][0].update(change))
    _one(sound, "ids[0]")
    with pytest.raises(TraceError, match=r"ids\[0\]"):
        FolderTrace(sound).read(SeamKey("ids", 0))


def test_all_problems_are_listed_at_once(sound: Path) -> None:
    _edit(sound, lambda manifest: manifest["seams"][0].update(call=-1, gate="loose"))
    assert len(check_folder(sound)) == 2
    with pytest.raises(TraceError, match="and 1 more"):
        FolderTrace(sound)


def test_the_schema_is_itself_sound_and_lists_the_dtypes() -> None:
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(manifest_schema())
    assert manifest_schema()["$defs"]["dtype"]["enum"] == list(DTYPES)


def test_a_checkpoint_hash_may_be_unknown(tmp_path: Path) -> None:
    array = values()["hidden"]
    with TraceWriter(tmp_path / "t", Description("engine", "", "float32", "case")) as writer:
        writer.add(entry("x", array, rows=None), array)
    assert check_folder(tmp_path / "t") == []
    assert FolderTrace(tmp_path / "t").description.checkpoint is None


# Hostile folders: a clear error, at once, in little memory.


def test_a_manifest_that_is_a_pipe_or_a_device_is_not_read(sound: Path) -> None:
    (sound / "manifest.json").unlink()
    os.mkfifo(sound / "manifest.json")
    _one(sound, "not a regular file")
    (sound / "manifest.json").unlink()
    (sound / "manifest.json").symlink_to("/dev/zero")
    _one(sound, "not a regular file")


def test_tensors_in_a_pipe_are_not_read(sound: Path) -> None:
    file = next(sound.glob("*.safetensors"))
    file.unlink()
    os.mkfifo(file)
    assert all("not a regular file" in problem for problem in check_folder(sound))
    with pytest.raises(TraceError, match="not a regular file"):
        FolderTrace(sound).read(next(iter(FolderTrace(sound).entries())))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "too deeply"),
        ('{"schema_version": ' + "9" * 5000 + "}", "cannot be read"),
        (json.dumps({"seams": [0] * 200_000, "labels": []}), "lists 200,000 seams, at most 50,000"),
        (json.dumps({"seams": [], "labels": [0] * 60_000}), "lists 60,000 labels"),
    ],
    ids=["deep", "digits", "seams", "labels"],
)
def test_a_manifest_made_to_be_slow_is_refused_at_once(content: str, words: str, sound: Path) -> None:
    (sound / "manifest.json").write_text(content, encoding="utf-8")
    start = time.process_time()
    _one(sound, words)
    assert time.process_time() - start < 2


def test_a_manifest_that_is_too_large_is_not_read(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_MANIFEST_BYTES", 100)
    _one(sound, "bytes, at most 100 are read")


def test_many_seams_are_written_in_linear_time(tmp_path: Path) -> None:
    """Sixteen times as many take about 16 times as long, and not 256 times."""
    seconds = []
    for count in (2_000, 32_000):
        array = np.ones((1, 1, 1), np.float32)
        start = time.process_time()
        with TraceWriter(tmp_path / str(count), description()) as writer:
            for index in range(count):
                writer.add(entry(f"x.{index}", array, rows=None), array)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 64 * seconds[0], seconds


def test_a_tensor_of_another_shape_is_not_read(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(manifest: Manifest) -> None:
        manifest["seams"][0]["shape"][0] += 1

    _edit(sound, change)
    trace = FolderTrace(sound)
    key = next(iter(trace.entries()))
    with pytest.raises(TraceError, match=r"is declared .*, its tensor in .* is"):
        trace.read(key)

    class Handle:
        """A file of the declared header whose numbers must not be touched."""

        def get_slice(self, _name: str) -> Handle:
            return self

        def get_shape(self) -> list[int]:
            return [10**6, 10**6]

        def get_tensor(self, _name: str) -> np.ndarray:
            raise AssertionError("it was read")

    trace._handles = dict.fromkeys(trace._handles, Handle())
    with pytest.raises(TraceError, match="its tensor in"):
        trace.read(key)


def test_a_dtype_that_numpy_lacks_is_named(sound: Path) -> None:
    file = next(sound.glob("*.safetensors"))
    header_bytes = int.from_bytes(file.read_bytes()[:8], "little")
    raw = file.read_bytes()
    header = json.loads(raw[8 : 8 + header_bytes])
    name = next(key for key, value in header.items() if key != "__metadata__" and value["dtype"] == "F32")
    for dtype in ("F8_E4M3", "F4", "nonsense"):
        header[name]["dtype"] = dtype
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + header_bytes :])
        problems = check_folder(sound)
        assert problems
        assert all("Traceback" not in problem for problem in problems)
