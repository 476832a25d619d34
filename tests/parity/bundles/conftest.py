"""One bundle of small cases and the port's own traces of them; both are made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.parity.bundles.samples import PICTURE, TEXT, Change, Golden, forge, traces
from tests.parity.cli.samples import Answer, call


@contextmanager
def _quick(cache: Path) -> Iterator[None]:
    """Use a cache of checkpoints, and one thread: the models are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QWEN3VL_PARITY_CACHE", str(cache))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bundles_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def quick(bundles_cache: Path) -> Iterator[None]:
    with _quick(bundles_cache):
        yield


@pytest.fixture(scope="session")
def golden(bundles_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    place = tmp_path_factory.mktemp("golden")
    cases = ("--case", TEXT, "--case", PICTURE)
    with _quick(bundles_cache):
        call("bundle", "make", *cases, "--dtype", "float32", "--dtype", "bfloat16", "--out", place / "bundle",
             "--with-checkpoint").succeeds()  # fmt: skip
        for case in (TEXT, PICTURE):
            traces(case, place / "traces" / case)
    return Golden(place / "bundle", place / "traces")


@pytest.fixture
def judge(golden: Golden) -> Callable[..., Answer]:
    """Judge a folder by the golden bundle."""
    return lambda subject, *options: call("judge", golden.bundle, subject, *options)


@pytest.fixture
def changed(golden: Golden, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the bundle with a change; ``forged``: with new digests as well."""

    def make(change: Change, *, forged: bool = False) -> Path:
        folder = Path(shutil.copytree(golden.bundle, tmp_path / "bundle"))
        change(folder)
        if forged:
            forge(folder)
        return folder

    return make
