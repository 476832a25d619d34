"""The core, ``parity compare`` and ``parity trace check`` run where torch and transformers cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.parity.core.samples import nudged, values, write_folder

FORBIDDEN = ("torch", "transformers", "torchvision", "tokenizers", "port", "reference")
BLOCKER = f"""
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN!r}:
            raise ImportError("blocked: " + name)
        return None
sys.meta_path.insert(0, Blocker())
"""
LIBRARY = """
import importlib, pkgutil
from pathlib import Path
import parity.core
for module in pkgutil.walk_packages(parity.core.__path__, "parity.core."):
    importlib.import_module(module.name)
from parity.core.compare import Comparison, compare
from parity.core.floors import Floors
from parity.core.folder import FolderTrace
from parity.core.gates import DEFAULT_GATE
from parity.core.verdict import judge
reference, run, subject = (FolderTrace(Path(folder)) for folder in sys.argv[1:])
floors = Floors(reference)
for entry in reference:
    if entry.gate == "float":
        floors.observe(entry, run.read(entry.key))
verdict = judge(compare(subject, Comparison(reference, floors, DEFAULT_GATE))).verdict
print(verdict.name)
sys.exit(verdict.exit_code)
"""


def _python(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKER + code, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def parity_alone(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command where none of ``FORBIDDEN`` can be imported."""
    return _python("from parity.cli.main import main; main()", *arguments)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trace folders: a reference, a correct run, and subjects."""
    root, base = tmp_path_factory.mktemp("traces"), values()
    wrong = {name: array.copy() for name, array in base.items()}
    wrong["hidden"][1, 2] *= -1
    less = {name: array for name, array in base.items() if name != "scores"}
    broken = {name: array.copy() for name, array in base.items()}
    broken["hidden"][1, 1, 1] = np.nan
    arrays = {
        "reference": base,
        "run": {name: nudged(array, 1e-6, seed=1) for name, array in base.items()},
        "good": {name: nudged(array, 1e-6, seed=2) for name, array in base.items()},
        "wrong": wrong,
        "less": less,
        "broken": broken,
    }
    return {name: write_folder(root / name, held) for name, held in arrays.items()}


@pytest.mark.parametrize("name", ["torch", "transformers", "port"])
def test_the_blocker_blocks(name: str) -> None:
    done = _python(f"import {name}")
    assert done.returncode == 1
    assert f"blocked: {name}" in done.stderr


@pytest.mark.parametrize(("subject", "verdict", "code"), [("wrong", "DIVERGED", 1), ("good", "PARITY", 0)])
def test_the_core_compares_folders_without_torch(
    folders: dict[str, Path], subject: str, verdict: str, code: int
) -> None:
    done = _python(LIBRARY, folders["reference"], folders["run"], folders[subject])
    assert (done.stdout.strip(), done.returncode) == (verdict, code), done.stderr


@pytest.mark.parametrize(
    ("subject", "reference", "verdict", "code"),
    [
        ("wrong", "reference", "DIVERGED", 1),
        ("less", "reference", "INCOMPLETE", 3),
        ("broken", "reference", "DIVERGED", 1),
        ("good", "broken", "INVALID", 2),
        ("good", "reference", "PARITY", 0),
    ],
)
def test_compare_gives_the_verdict_and_its_exit_code(
    folders: dict[str, Path], subject: str, reference: str, verdict: str, code: int
) -> None:
    done = parity_alone("compare", folders[subject], folders[reference], "--floor", folders["run"], "--json")
    # A correct run has no say where the reference is broken.
    assert done.returncode == code, done.stderr
    document = json.loads(done.stdout)
    assert document["verdict"]["value"] == verdict
    assert document["verdict"]["exit_code"] == code


def test_compare_shows_the_first_divergence_and_where(folders: dict[str, Path]) -> None:
    done = parity_alone("compare", folders["wrong"], folders["reference"], "--floor", folders["run"])
    assert done.returncode == 1
    assert "DIVERGED" in done.stdout
    assert "first divergence at hidden (prefill)" in done.stdout
    assert "batch 1, token 2" in done.stdout


def test_compare_asks_for_a_floor(folders: dict[str, Path]) -> None:
    done = parity_alone("compare", folders["good"], folders["reference"])
    assert done.returncode == 2
    assert "--floor" in done.stderr
    assert "Traceback" not in done.stderr


def test_compare_names_a_folder_that_is_none(folders: dict[str, Path], tmp_path: Path) -> None:
    done = parity_alone("compare", tmp_path / "nowhere", folders["reference"], "--floor", folders["run"])
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_tighter_multiple_finds_what_the_projects_lets_pass(folders: dict[str, Path], tmp_path: Path) -> None:
    subject = write_folder(tmp_path / "x", {name: nudged(array, 5e-6) for name, array in values().items()})
    arguments = ("compare", subject, folders["reference"], "--floor", folders["run"])
    assert parity_alone(*arguments, "-m", "1").returncode == 1
    assert parity_alone(*arguments).returncode == 0


def test_check_says_what_is_wrong_and_passes_what_is_sound(folders: dict[str, Path], tmp_path: Path) -> None:
    assert parity_alone("trace", "check", folders["good"]).returncode == 0
    done = parity_alone("trace", "check", folders["good"], folders["broken"], tmp_path)
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert f"{folders['good']}: sound" in lines
    assert any("hidden[0] holds NaN or Inf" in line for line in lines)
    assert any("manifest.json does not exist" in line for line in lines)
