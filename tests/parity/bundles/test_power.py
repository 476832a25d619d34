"""``parity diagnose --power``: a mistake counts as shown exactly if a value that was given would have failed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from parity.bundles.bundle import Bundle
from parity.bundles.checks import check_stage
from parity.core.trace import SeamKey
from parity.diagnosis import power as measured
from parity.diagnosis.planted import PlantedRuns
from parity.diagnosis.power import Power, power
from parity.mutants.registry import chosen
from tests.parity.bundles.samples import PICTURE, TEXT, Golden
from tests.parity.cli.samples import call

_GIVEN = ("input_ids", "attention_mask", "text.embed_tokens", "logits")
LIBRARY = chosen(["merger-gelu-tanh", "text-v-turned", "decode-without-rope-delta", "picture-bgr"])


def _runs(golden: Golden, case: str) -> PlantedRuns:
    opened = Bundle(golden.bundle).cases[case]
    return PlantedRuns(opened, opened.folder / opened.record["checkpoint"]["folder"], dtype="float32")


@pytest.mark.parametrize(
    ("case", "seams", "shown"),
    [
        (PICTURE, {("logits", 0), ("logits", 1)}, {"merger-gelu-tanh", "text-v-turned", "decode-without-rope-delta"}),
        (PICTURE, {("logits", 0)}, {"merger-gelu-tanh", "text-v-turned"}),
        (PICTURE, {("vision.merger", 0)}, {"merger-gelu-tanh"}),
        (PICTURE, {("input_ids", 0)}, set()),
        (TEXT, {("logits", 0), ("logits", 1)}, {"text-v-turned"}),
    ],
)
def test_a_mistake_is_shown_by_the_seams_that_it_changes(
    case: str, seams: set[tuple[str, int]], shown: set[str], golden: Golden
) -> None:
    runs = _runs(golden, case)
    reference, floors = check_stage(runs.case, "model", "float32")
    found = power(runs, "model", {SeamKey(*seam) for seam in seams}, reference, floors, LIBRARY)
    assert set(found.shown) == shown
    assert {*found.shown, *found.hidden} == {mutant.id for mutant in LIBRARY if mutant.stage == "model"}


def test_the_terminal_and_the_document_say_it(golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = _runs(golden, TEXT).values((), "model")
    path = tmp_path / "logits.safetensors"
    kept = {f"{key.name}#{key.call}": np.ascontiguousarray(a) for key, a in values.items() if key.name in _GIVEN}
    save_file(kept, path, metadata={"case": TEXT, "producer": "my engine"})
    monkeypatch.setattr(measured.power, "__defaults__", (LIBRARY,))
    words = ("diagnose", golden.bundle, path, "--expect", "logits", "--power")
    assert f"{TEXT}, model: of 3 known mistakes this evidence would have shown 1" in call(*words).stdout
    (one,) = json.loads(call(*words, "--json").stdout)["power"]
    assert one["shown"] == ["text-v-turned"]


def test_it_is_refused_for_tokens(golden: Golden, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.jsonl"
    tokens.write_text('{"row": 0, "step": 0, "token": 1, "logprobs": {"1": -0.5}}\n', encoding="utf-8")
    answer = call("diagnose", golden.bundle, "--tokens", tmp_path / "t", "--power")
    assert answer.code == 2
    assert "--power is for traces" in answer.stderr


def test_the_sentence() -> None:
    assert "of 3 known mistakes this evidence would have shown 2" in Power("c", "model", ("a", "b"), ("c",)).sentence()
