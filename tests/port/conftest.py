"""The tests of the port use one thread, because their matrix products are small."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from port import Qwen3VL
from reference.checkpoint import make_checkpoint
from tests.port import port_samples


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model() -> Qwen3VL:
    """Untied, float64."""
    return port_samples.make_model()


@pytest.fixture(scope="session")
def tied_model() -> Qwen3VL:
    return port_samples.make_model(tied=True)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded checkpoint. Tests must not change it."""
    return make_checkpoint(tmp_path_factory.mktemp("port") / "tiny", "tiny")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of its files without the weights, which tests may damage."""
    target = tmp_path / "copy"
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    return target
