"""Sample documents for the tests of the reports; see report_samples.py."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reports import report_samples
from tests.reports.kind_samples import SIMPLE

Document = dict[str, Any]


@pytest.fixture(scope="session")
def _originals() -> dict[str, Document]:
    return {
        # Smaller than the samples' default of 8 steps and 649 findings, which the page tests use.
        "parity": report_samples.run_document(decode_steps=2),
        "diverged": report_samples.run_document(diverged=True, decode_steps=2),
        "suite": report_samples.suite_document(),
        **{name: make() for name, make in SIMPLE.items()},
    }


@pytest.fixture
def document_of(_originals: dict[str, Document]) -> Callable[[str], Document]:
    """A fresh copy of a sample document by name: parity or diverged (both runs), or a kind."""
    return lambda name: copy.deepcopy(_originals[name])


@pytest.fixture
def parity(document_of: Callable[[str], Document]) -> Document:
    return document_of("parity")


@pytest.fixture
def diverged(document_of: Callable[[str], Document]) -> Document:
    return document_of("diverged")


@pytest.fixture
def suite(document_of: Callable[[str], Document]) -> Document:
    return document_of("suite")


@pytest.fixture(scope="session")
def _pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pictures")
    report_samples.write_pictures(made)
    return made


@pytest.fixture
def folder(tmp_path: Path, _pictures: Path) -> Path:
    """A report folder that holds the sample pictures."""
    return Path(shutil.copytree(_pictures, tmp_path / "out"))
