"""``parity trace check`` and ``parity compare`` on saved traces, both valid and damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.parity.cli.samples import Answer, Parity

NORM = "text.norm"


@pytest.fixture
def subject(traces: Path, tmp_path: Path) -> Path:
    """The subject's trace, to damage."""
    return Path(shutil.copytree(traces / "subject", tmp_path / "subject"))


def _compare(parity: Parity, traces: Path, subject: Path, *options: object) -> Answer:
    floors = [word for folder in sorted(traces.glob("floor-*")) for word in ("--floor", folder)]
    return parity("compare", subject, traces / "reference", *floors, *options)


def _change(folder: Path, seam: str, change: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    place = next(item for item in manifest["seams"] if item["name"] == seam)
    tensors = load_file(folder / place["file"])
    tensors[place["tensor"]] = change(tensors[place["tensor"]])
    save_file(tensors, folder / place["file"])


def _drop(folder: Path, seam: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["seams"] = [item for item in manifest["seams"] if item["name"] != seam]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_kept_traces_are_sound(parity: Parity, traces: Path) -> None:
    folders = sorted(traces.iterdir())
    assert {"reference", "subject", "floor-1", "floor-2", "floor-3"} <= {folder.name for folder in folders}
    answer = parity("trace", "check", *folders)
    answer.succeeds()
    assert answer.stdout.splitlines() == [f"{folder}: sound" for folder in folders]


def test_kept_traces_are_at_parity(parity: Parity, traces: Path) -> None:
    answer = _compare(parity, traces, traces / "subject")
    answer.succeeds()
    assert answer.stdout.splitlines()[-1].startswith("PARITY")


def test_one_wrong_tensor_diverges(parity: Parity, traces: Path, subject: Path) -> None:
    _change(subject, NORM, lambda array: array * np.float32(1.01))
    answer = _compare(parity, traces, subject, "--json")
    answer.succeeds(code=1)
    document = json.loads(answer.stdout)
    assert document["verdict"]["value"] == "DIVERGED"
    assert document["findings"][document["verdict"]["first_divergence"]]["seam"] == NORM


def test_a_dropped_seam_is_incomplete(parity: Parity, traces: Path, subject: Path) -> None:
    _drop(subject, NORM)
    answer = _compare(parity, traces, subject)
    answer.succeeds(code=3)
    assert "INCOMPLETE" in answer.stdout
    assert NORM in answer.stdout.splitlines()[-1]
    # What no seam lists is left over in the file.
    checked = parity("trace", "check", subject)
    checked.succeeds(code=2)
    assert "no seam lists" in checked.stdout


def test_a_trace_file_cut_short_is_named(parity: Parity, traces: Path, subject: Path) -> None:
    file = next(subject.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    _compare(parity, traces, subject).refuses(file.name)
    checked = parity("trace", "check", subject)
    checked.succeeds(code=2)
    assert file.name in checked.stdout


def test_folders_that_are_no_traces(parity: Parity, traces: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for name in ("none", "empty", "file"):
        folder = tmp_path / name
        _compare(parity, traces, folder).refuses(f"{name}/manifest.json")
        checked = parity("trace", "check", folder)
        checked.succeeds(code=2)
        assert f"{name}/manifest.json" in checked.stdout
    parity("compare", traces / "subject", traces / "reference").refuses("no floor", "--floor", "floor-1")


def test_a_manifest_that_is_not_what_the_contract_says(parity: Parity, traces: Path, subject: Path) -> None:
    (subject / "manifest.json").write_text("{}", encoding="utf-8")
    _compare(parity, traces, subject).refuses("manifest.json", "required")
    (subject / "manifest.json").write_text("{", encoding="utf-8")
    _compare(parity, traces, subject).refuses("manifest.json cannot be read")


def test_names_in_a_trace_cannot_control_the_terminal(parity: Parity, traces: Path, tmp_path: Path) -> None:
    subject = Path(shutil.copytree(traces / "subject", tmp_path / "subject"))
    path = subject / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["seams"][-1]["name"] = "logits\x1b[2J\x9b1m"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    answers = [
        parity("compare", subject, traces / "reference", "--floor", traces / "floor-1", "--every-seam"),
        parity("trace", "check", subject),
    ]
    for answer in answers:
        assert "\x1b" not in answer.stdout + answer.stderr
        assert "\x9b" not in answer.stdout + answer.stderr
    assert "has a name that no seam has: 'logits" in answers[0].stderr


# Floors and references that would let anything pass.


def _says(folder: Path, place: Path, change: Any) -> Path:
    """A copy of a trace whose manifest is changed."""
    made = Path(shutil.copytree(folder, place))
    manifest = json.loads((made / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    (made / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return made


def _set(*path: str, value: Any) -> Any:
    def change(manifest: dict[str, Any]) -> None:
        for name in path[:-1]:
            manifest = manifest[name]
        manifest[path[-1]] = value

    return change


def _seams(name: str, **fields: Any) -> Any:
    def change(manifest: dict[str, Any]) -> None:
        found = [seam for seam in manifest["seams"] if seam["name"] == name]
        assert found
        for seam in found:
            seam.update(fields)

    return change


@pytest.fixture
def broken(traces: Path, tmp_path: Path) -> Path:
    """A subject whose logits are wrong."""
    folder = Path(shutil.copytree(traces / "subject", tmp_path / "broken"))
    _change(folder, "logits", lambda array: array[..., ::-1].copy())
    return folder


def test_a_broken_subject_is_not_its_own_floor(parity: Parity, traces: Path, broken: Path, tmp_path: Path) -> None:
    copy = _says(broken, tmp_path / "copy", _set("producer", "name", value="transformers"))
    for floor in (broken, copy):
        parity("compare", broken, traces / "reference", "--floor", floor).refuses("floor")
    parity("compare", broken, traces / "reference", "--floor", copy).refuses("the subject's own trace")
    _compare(parity, traces, broken).succeeds(code=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("case", value="another"), ("the floor has the case 'another'", "do not belong together")),
        (_set("model", "checkpoint_sha256", value="0" * 64), ("the floor has the checkpoint",)),
        (_set("dtype", value="float16"), ("the floor is float16, the subject float32",)),
        (_set("producer", "name", value="mine"), ("the floor has the producer 'mine'",)),
    ],
    ids=["case", "checkpoint", "dtype", "producer"],
)
def test_a_floor_of_another_run_is_refused(
    change: Any, words: tuple[str, ...], parity: Parity, traces: Path, broken: Path, tmp_path: Path
) -> None:
    floor = _says(traces / "floor-1", tmp_path / "floor", change)
    parity("compare", broken, traces / "reference", "--floor", floor).refuses(*words)


@pytest.mark.parametrize("field", ["case", "checkpoint_sha256"])
def test_a_subject_of_another_run_is_refused(field: str, parity: Parity, traces: Path, tmp_path: Path) -> None:
    change = _set("case", value="another") if field == "case" else _set("model", field, value="0" * 64)
    subject = _says(traces / "subject", tmp_path / "subject", change)
    _compare(parity, traces, subject).refuses("the subject has", "do not belong together")


def test_a_subject_that_does_not_know_its_checkpoint_is_judged(parity: Parity, traces: Path, tmp_path: Path) -> None:
    subject = _says(traces / "subject", tmp_path / "subject", _set("model", "checkpoint_sha256", value=None))
    _compare(parity, traces, subject).succeeds()


def test_traces_say_which_checkpoint_they_are_of(traces: Path) -> None:
    digests = {
        json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["model"]["checkpoint_sha256"]
        for folder in traces.iterdir()
    }
    assert len(digests) == 1
    assert None not in digests


@pytest.mark.parametrize("seam", ["logits", "vision.merger", NORM])
@pytest.mark.parametrize("by", [1.01, 0.0, -1.0, 1e30])
def test_a_floor_wider_than_rounding_is_refused(
    seam: str, by: float, parity: Parity, traces: Path, broken: Path, tmp_path: Path
) -> None:
    floor = Path(shutil.copytree(traces / "floor-1", tmp_path / "floor"))
    _change(floor, seam, lambda array: array * np.float32(by))
    parity("compare", broken, traces / "reference", "--floor", floor).refuses(seam, "no correct run")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_seams("logits", gate="steps", unit=1e9), ("logits", "the gate 'steps'")),
        (_seams("image_pixels", gate="steps", unit=1e9), ("image_pixels", "the gate 'steps'")),
        (_seams("text.position_ids", gate="steps", unit=1.0), ("text.position_ids", "the gate 'steps'")),
        (_seams("logits", token_axes=[], axis_names=[], rows=None), ("logits", "token axes []")),
        (_seams("logits", rows=None), ("logits", "row labels None")),
    ],
    ids=["steps", "pixels", "positions", "one row", "no labels"],
)
def test_a_reference_with_other_gates_is_refused(
    change: Any, words: tuple[str, ...], parity: Parity, traces: Path, broken: Path, tmp_path: Path
) -> None:
    reference = _says(traces / "reference", tmp_path / "reference", change)
    parity("compare", broken, reference, "--floor", traces / "floor-1").refuses(*words)


def test_rows_called_padding_are_noticed(parity: Parity, traces: Path, broken: Path, tmp_path: Path) -> None:
    reference = Path(shutil.copytree(traces / "reference", tmp_path / "reference"))
    manifest = json.loads((reference / "manifest.json").read_text(encoding="utf-8"))
    place = next(item for item in manifest["labels"] if item["name"] == "rows.tokens" and item["call"] == 0)
    tensors = load_file(reference / place["file"])
    tensors[place["tensor"]][:, 1:] = 255
    save_file(tensors, reference / place["file"])
    answer = parity("compare", broken, reference, "--floor", traces / "floor-1")
    answer.refuses("rows.tokens", "rows padding, the attention mask 0")


@pytest.mark.parametrize("seam", ["logits", NORM, "vision.blocks.2.attn.context", "text.layers.1.deepstack"])
def test_a_seam_that_is_missing_from_both_sides_is_noticed(
    seam: str, parity: Parity, traces: Path, broken: Path, tmp_path: Path
) -> None:
    reference = Path(shutil.copytree(traces / "reference", tmp_path / "reference"))

    def drop(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        manifest["seams"] = [item for item in manifest["seams"] if (item["name"], item["call"]) != (seam, 0)]
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

    for folder in (reference, broken):
        drop(folder)
    parity("compare", broken, reference, "--floor", traces / "floor-1").refuses("the reference lacks", seam)
