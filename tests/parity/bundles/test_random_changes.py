"""A sample of the random changes that `nox -s tampering` tries, and faults that it must notice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import parity.bundles.bundle as bundle_module
import tests.parity.bundles.random_changes as module
from parity.core.gates import FloatGate
from tests.parity.bundles.random_changes import SHARES, Changes, Place, passed, prepare, work


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return prepare(tmp_path_factory.mktemp("changes"))


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if "beyond" in kind else []) for kind in SHARES]
)
def test_no_random_change_hides_a_difference(kind: str, place: Place) -> None:
    found = work(place, (kind, 15, 1))
    assert found.total() == 15
    assert passed(found) == 0, found
    # Most changes are judged or refused; few change nothing.
    assert sum(count for (_, outcome), count in found.items() if outcome.startswith("no ")) < 8


def test_a_judge_that_checks_no_files_would_be_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the digests, some changed bundle is judged as if it were sound."""
    monkeypatch.setattr(bundle_module, "check_files", lambda _folder, _files: None)
    found = work(place, ("bytes of the bundle", 30, 2))
    assert found["bytes of the bundle", "DIVERGED"] > 0


@pytest.mark.slow
def test_a_gate_that_is_too_wide_would_be_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import parity.bundles.judging as judging

    monkeypatch.setattr(judging, "DEFAULT_GATE", FloatGate(m=1e9, ulps=1.0))
    assert passed(work(place, ("numbers beyond the gate", 40, 3))) > 0


def test_changes_are_undone(place: Place, tmp_path: Path) -> None:
    changes, rng = Changes(place, tmp_path), np.random.default_rng(0)
    before = {path: path.read_bytes() for path in changes.files}
    for _ in range(5):
        changes.bytes_of_bundle(rng)
        changes.forged(rng)
    assert {path: path.read_bytes() for path in changes.files} == before
    assert module.judged(changes.bundle, place.right) == "PARITY"
