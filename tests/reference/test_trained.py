"""The trained model: its training.json is correct, and it answers the exam."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import reference.trained as subject
from reference.errors import ReferenceModelError
from reference.model import ReferenceModel
from reference.processor import ReferenceProcessor
from reference.shapes import TRAINED
from reference.trained import trained_checkpoint
from reference.training.__main__ import EXAM, WANTED
from reference.training.evaluate import reference_answers
from reference.training.export import PROVENANCE
from reference.training.model import write_small_files
from reference.training.recipe import Recipe
from reference.world.exam import exam

WORLD = "10054086c637a940010fce7da41ae623822a2f51d6ad51a83f1de28dde132fda"


@pytest.fixture(scope="module")
def provenance() -> dict[str, Any]:
    return json.loads((trained_checkpoint() / PROVENANCE).read_text(encoding="utf-8"))


def test_it_is_what_the_run_wrote(provenance: dict[str, Any]) -> None:
    files = {path.name: path for path in trained_checkpoint().iterdir() if path.name != PROVENANCE}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == provenance["files"]
    assert sum(path.stat().st_size for path in files.values()) < 10 * 2**20


def test_its_small_files_are_those_that_the_code_makes(tmp_path: Path) -> None:
    write_small_files(tmp_path, TRAINED)
    for path in tmp_path.iterdir():
        assert (trained_checkpoint() / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_recipe_is_the_one_that_made_it(provenance: dict[str, Any]) -> None:
    assert provenance["recipe"] == json.loads(json.dumps(asdict(Recipe())))
    assert provenance["exam"] == {**EXAM, "questions": 4 * (EXAM["pictures"] + EXAM["clips"])}
    assert provenance["accuracy"] >= WANTED
    assert provenance["seconds"]["all"] < 15 * 60


def test_the_world_is_the_one_that_it_was_trained_on() -> None:
    """Another split, other words or other shapes, and its held-out scenes may be ones that it has seen."""
    items = exam(pictures=12, clips=8, seed=1)
    text = "\n".join(
        f"{item.number} {sorted(thing.identity for thing in item.scene.things)} {item.scene.direction} "
        f"{item.question.text} {item.question.answer}"
        for item in items
    )
    assert hashlib.sha256(text.encode()).hexdigest() == WORLD


def test_it_sees() -> None:
    """A sample of the exam on the way to its full length, which ``nox -s train`` and ``parity exam`` ask."""
    folder = trained_checkpoint()
    items = exam(pictures=20, clips=10, seed=77)
    answers = reference_answers(ReferenceModel.load(folder), ReferenceProcessor.load(folder), items)
    right = sum(answer == item.question.answer for answer, item in zip(answers, items, strict=True))
    assert right >= WANTED * len(items), f"{right} of {len(items)}"


def test_an_install_without_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subject, "_FOLDER", tmp_path)
    with pytest.raises(ReferenceModelError, match="the trained model is not in"):
        trained_checkpoint()
