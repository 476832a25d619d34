"""Kept yardsticks: they give the same findings, and one that is stale or was changed is never used."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from parity.cases.registry import every_case
from parity.core.errors import ParityError
from parity.documents.base import finding_sections
from parity.engines.base import Sink, TensorMap
from parity.engines.port import PortEngine
from parity.runs import kept as kept_module
from parity.runs.inputs import CaseInputs
from parity.runs.kept import KeptYardsticks, yardstick_key
from parity.runs.loader import Loader
from parity.runs.sealed import ENTRY, SECRET_VARIABLE
from parity.runs.stages.model_stage import ModelStage, model_stage
from parity.runs.stages.stage import judge_stage
from reference.model import ReferenceModel


class Ready(NamedTuple):
    inputs: CaseInputs
    model: ReferenceModel
    kept: KeptYardsticks
    measured: ModelStage
    subject: PortEngine

    @property
    def key(self) -> str:
        (folder,) = (path for path in self.kept.folder.iterdir() if not path.name.startswith("."))
        return folder.name


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET_VARIABLE, str(tmp_path_factory.mktemp("secret") / "seal"))
        yield


@pytest.fixture(scope="module")
def ready(secret: None, loader: Loader, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    case = replace(every_case()["text"], decode_steps=1)
    folder = loader.checkpoint(case.checkpoint)
    inputs = loader.inputs(case, folder, digest=True)
    model = loader.reference(folder, "float32")
    kept = KeptYardsticks(tmp_path_factory.mktemp("kept"), code="as it is now")
    measured = model_stage(inputs, model, kept=kept)
    return Ready(inputs, model, kept, measured, PortEngine(loader.port(folder, "float32")))


@pytest.fixture
def copied(ready: Ready, tmp_path: Path) -> KeptYardsticks:
    """The kept yardstick in a folder of its own, for a test to damage."""
    shutil.copytree(ready.kept.folder, tmp_path / "kept")
    return replace(ready.kept, folder=tmp_path / "kept")


def test_a_kept_yardstick_gives_the_same_findings_without_a_pass_of_the_reference(ready: Ready) -> None:
    again = model_stage(ready.inputs, ready.model, kept=ready.kept)
    assert (ready.measured.kept, again.kept) == (None, ready.key)
    assert (len(ready.measured.yardstick.passes), len(again.yardstick.passes)) == (9, 0)
    assert torch.equal(again.tokens, ready.measured.tokens)
    first, second = (finding_sections(judge_stage(stage, ready.subject).findings) for stage in (ready.measured, again))
    assert first == second
    assert all(finding["isolated"] is not None for finding in second if finding["gate_kind"] == "float")


class _Wrong(PortEngine):
    """A port with one logit that is too large."""

    def trace(self, inputs: TensorMap, tokens: Tensor | None, *, steps: int, sink: Sink) -> Tensor:
        def altered(name: str, tensor: Tensor) -> Tensor | None:
            if name == "logits":
                tensor = tensor.clone()
                tensor[0, -1, 0] += 1
            return sink(name, tensor)

        return super().trace(inputs, tokens, steps=steps, sink=altered)


def test_a_kept_yardstick_still_catches_a_wrong_port(ready: Ready) -> None:
    stage = model_stage(ready.inputs, ready.model, kept=ready.kept)
    found = judge_stage(stage, _Wrong(ready.subject.model)).findings
    assert {f.entry.key.name for f in found if f.status == "diverged"} == {"logits"}


FILES = (
    "floors.safetensors",
    "isolated.safetensors",
    "tokens.safetensors",
    "reference/manifest.json",
    "reference/seams-00000.safetensors",
)


def _flip(path: Path) -> None:
    """Change the last byte, which is a number of a tensor."""
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)


@pytest.mark.parametrize("name", FILES)
def test_one_changed_bit_is_noticed(name: str, ready: Ready, copied: KeptYardsticks) -> None:
    _flip(copied.folder / ready.key / name)
    assert copied.find(ready.key) is None
    assert not (copied.folder / ready.key).exists()


def test_a_changed_file_with_a_new_digest_is_noticed(ready: Ready, copied: KeptYardsticks) -> None:
    place = copied.folder / ready.key
    _flip(place / "floors.safetensors")
    entry = json.loads((place / ENTRY).read_text(encoding="utf-8"))
    entry["files"]["floors.safetensors"]["sha256"] = kept_module._file_digest(place / "floors.safetensors")
    (place / ENTRY).write_text(json.dumps(entry), encoding="utf-8")
    assert copied.find(ready.key) is None


def _longer(place: Path) -> None:
    (place / "more.safetensors").write_bytes(b"x")


def _shorter(place: Path) -> None:
    (place / "isolated.safetensors").unlink()


def _linked(place: Path) -> None:
    (place / "tokens.safetensors").rename(place.parent / "elsewhere")
    (place / "tokens.safetensors").symlink_to(place.parent / "elsewhere")


def _no_entry(place: Path) -> None:
    (place / ENTRY).unlink()


def _nested(place: Path) -> None:
    (place / ENTRY).write_text("[" * 100_000, encoding="utf-8")


def _other_runs(place: Path) -> None:
    text = (place / ENTRY).read_text(encoding="utf-8")
    (place / ENTRY).write_text(text.replace("plain order", "any order"), encoding="utf-8")


@pytest.mark.parametrize("change", [_longer, _shorter, _linked, _no_entry, _nested, _other_runs])
def test_a_changed_folder_is_not_used(change: Callable[[Path], None], ready: Ready, copied: KeptYardsticks) -> None:
    change(copied.folder / ready.key)
    assert copied.find(ready.key) is None


def test_a_yardstick_under_another_name_is_not_used(ready: Ready, copied: KeptYardsticks) -> None:
    (copied.folder / ready.key).rename(copied.folder / ("0" * 64))
    assert copied.find("0" * 64) is None


def test_a_yardstick_of_another_user_is_not_used(
    ready: Ready, copied: KeptYardsticks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert copied.find(ready.key) is not None
    monkeypatch.setenv(SECRET_VARIABLE, str(tmp_path / "other"))
    assert copied.find(ready.key) is None


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
def test_a_secret_that_others_can_read_is_refused(
    ready: Ready, copied: KeptYardsticks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").write_bytes(b"x" * 32)
    (tmp_path / "open").chmod(0o644)
    monkeypatch.setenv(SECRET_VARIABLE, str(tmp_path / "open"))
    with pytest.raises(ParityError, match="only you can read"):
        copied.find(ready.key)


def test_whatever_a_yardstick_depends_on_is_in_its_key(ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(inputs: CaseInputs = ready.inputs, kept: KeptYardsticks = ready.kept, variant: str = "eager") -> str:
        return yardstick_key(kept, ready.model, inputs, variants=[variant])

    tensors = dict(ready.inputs.tensors)
    ids = tensors["input_ids"].clone()
    ids[0, -1] += 1
    found = {
        "now": key(),
        "code": key(kept=replace(ready.kept, code="other")),
        "checkpoint": key(replace(ready.inputs, checkpoint="0" * 64)),
        "input": key(replace(ready.inputs, tensors={**tensors, "input_ids": ids})),
        "dtype of an input": key(replace(ready.inputs, tensors={**tensors, "input_ids": tensors["input_ids"].int()})),
        "case": key(replace(ready.inputs, name="other")),
        "steps": key(replace(ready.inputs, decode_steps=2)),
        "variants": key(variant="sdpa"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 77)
        found["threads"] = key()
    with monkeypatch.context() as patch:
        patch.setenv("ATEN_CPU_CAPABILITY", "default")
        found["variable"] = key()
    with monkeypatch.context() as patch:
        patch.setattr(kept_module, "version", lambda name: "9.9" if name == "torch" else "1.0")
        found["versions"] = key()
    with monkeypatch.context() as patch:
        patch.setattr(ready.model.model, "name_or_path", "elsewhere", raising=False)
        found["files"] = key()
    assert len(set(found.values())) == len(found), found
    assert key() == found["now"]


def test_the_dtype_is_in_the_key(ready: Ready, loader: Loader) -> None:
    folder = loader.checkpoint(every_case()["text"].checkpoint)
    narrow = loader.reference(folder, "bfloat16")
    assert yardstick_key(ready.kept, narrow, ready.inputs, variants=[]) != yardstick_key(
        ready.kept, ready.model, ready.inputs, variants=[]
    )


def test_inputs_without_a_checkpoints_digest_are_refused(ready: Ready) -> None:
    with pytest.raises(ParityError, match="does not know its checkpoint's sha256"):
        yardstick_key(ready.kept, ready.model, replace(ready.inputs, checkpoint=None), variants=[])


def test_the_oldest_makes_room_and_folders_of_others_stay(ready: Ready, copied: KeptYardsticks) -> None:
    (copied.folder / "holiday").mkdir()
    old = copied.folder / ("0" * 64)
    (copied.folder / ready.key).rename(old)
    os.utime(old / ENTRY, (1, 1))
    size = sum(path.stat().st_size for path in old.rglob("*") if path.is_file())
    for most, left in ((3 * size, {old.name, ready.key}), (size + 1000, {ready.key}), (size // 2, set())):
        replace(copied, most_bytes=most).keep(ready.key, ready.measured.yardstick, ready.measured.tokens)
        assert {path.name for path in copied.folder.iterdir()} == {"holiday", *left}


def test_a_folder_that_cannot_be_written_is_named(ready: Ready, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ParityError, match="cannot keep the yardstick"):
        replace(ready.kept, folder=tmp_path / "file").keep(ready.key, ready.measured.yardstick, ready.measured.tokens)
