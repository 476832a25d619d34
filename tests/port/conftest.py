"""The tests of the port run on one thread: they are many small products, and cores are shared."""

from __future__ import annotations

from collections.abc import Iterator

import port_samples
import pytest
import torch

from port import Qwen3VL


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
