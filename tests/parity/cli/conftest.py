"""Fixtures for the tests of the command: a seeded checkpoint, saved traces, an empty folder to run in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from parity.runs.seeded import make_seeded
from tests.parity.cli.samples import QUICK, Answer, Parity, call, picture, video


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QWEN3VL_PARITY_CACHE", str(folder))
        patch.delenv("FORCE_COLOR", raising=False)
        patch.delenv("NO_COLOR", raising=False)
        yield folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread. The models are tiny, and on a busy machine several threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # for the commands that run in processes of their own
        yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the command. It is empty, so that files left behind are noticed."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def parity() -> Parity:
    return call


@pytest.fixture
def run() -> Parity:
    """A short ``parity run``. It uses the seeded checkpoint unless the first argument is a model."""

    def run(*arguments: object) -> Answer:
        named = bool(arguments) and not str(arguments[0]).startswith("--")
        return call("run", *(() if named else ("seeded",)), *arguments, *QUICK)

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_seeded(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that tests may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


@pytest.fixture(scope="session")
def traces(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The traces of a run on a small picture. Tests must not change them."""
    place = tmp_path_factory.mktemp("traces")
    picture(place / "small.png")
    answer = call(
        "run", "seeded", *QUICK, "--image", place / "small.png", "--traces", place / "kept", "--out", place / "report"
    )
    answer.succeeds()
    return place / "kept"


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good.png and good.mp4."""
    folder = tmp_path_factory.mktemp("media")
    picture(folder / "good.png")
    video(folder / "good.mp4", 6)
    return folder
