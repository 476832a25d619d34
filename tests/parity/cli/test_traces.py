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
    assert "logits\ufffd[2J" in answers[0].stdout
