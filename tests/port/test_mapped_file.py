"""A mapped tensor that is let go leaves the memory of this process, and is read again when it is used."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from port import load_model
from port.mapped_file import MappedFile
from reference.trained import trained_checkpoint

MIB = 2**20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems keep what was read in memory")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    numbers = torch.arange(16 * MIB // 4, dtype=torch.float32)
    save_file({"before": torch.ones(3), "large": numbers, "after": numbers + 1}, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def _resident() -> float:
    return psutil.Process().memory_info().rss / MIB


def test_it_leaves_memory_and_comes_back(path: Path) -> None:
    large, file = _read(path, "large"), MappedFile(path)
    total = large.sum()
    with_it = _resident()
    file.let_go([large])
    assert _resident() < with_it - 15
    assert torch.equal(large.sum(), total)
    assert _resident() > with_it - 1


def test_its_neighbours_stay(path: Path) -> None:
    large, after, file = _read(path, "large"), _read(path, "after"), MappedFile(path)
    assert float(large.sum() + after.sum()) > 0
    with_both = _resident()
    file.let_go([large])
    assert with_both - 17 < _resident() < with_both - 15
    assert torch.equal(after, torch.arange(len(after)) + 1.0)


@pytest.mark.parametrize("mapped_from_another", [False, True])
def test_what_is_not_mapped_from_this_file_is_left_alone(path: Path, mapped_from_another: bool) -> None:
    other = path.with_name("other.safetensors")
    other.write_bytes(path.read_bytes())
    tensor = _read(other, "large") if mapped_from_another else _read(path, "large").clone()
    total, before = tensor.sum(), _resident()
    MappedFile(path).let_go([tensor])
    assert _resident() > before - 1
    assert torch.equal(tensor.sum(), total)


def test_without_a_list_of_mappings_nothing_is_done(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("port.mapped_file._MAPS", path.with_name("none"))
    large = _read(path, "large")
    total, before = large.sum(), _resident()
    MappedFile(path).let_go([large])
    assert _resident() > before - 1
    assert torch.equal(large.sum(), total)


def test_a_loaded_model_has_let_its_vision_tower_go(tmp_path: Path) -> None:
    folder = shutil.copytree(trained_checkpoint(), tmp_path / "copy")
    model = load_model(folder, dtype=torch.bfloat16)

    def resident() -> int:
        return sum(
            each.rss for each in psutil.Process().memory_maps(grouped=False) if each.path.startswith(str(folder))
        )

    vision, whole = (sum(2 * each.numel() for each in part.parameters()) for part in (model.model.visual, model))
    # Tensors that share a page with others stay.
    assert whole - vision < resident() < whole - 0.7 * vision
    assert all(torch.isfinite(each).all() for each in model.model.visual.parameters())
    assert resident() > 0.95 * whole
