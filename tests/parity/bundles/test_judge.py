"""``parity judge``: the port passes, planted mistakes do not, and traces of something else are not judged at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.core.trace import SeamKey
from parity.mutants.registry import chosen
from reports.write import render
from tests.parity.bundles.samples import PICTURE, TEXT, Golden, edited, traced, traces, without
from tests.parity.cli.samples import Answer, call

Judge = Callable[..., Answer]
ZEROS = "0" * 64


def _document(answer: Answer) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(answer.stdout)
    assert document["verdict"]["exit_code"] == answer.code
    return document


def _copy(golden: Golden, tmp_path: Path, case: str, stage: str = "model") -> Path:
    return Path(shutil.copytree(golden.subject(case, stage), tmp_path / "subject"))


def _says(folder: Path, **fields: Any) -> None:
    """Change what a trace says of itself. ``checkpoint`` is its sha256."""

    def edit(manifest: Any) -> None:
        if "checkpoint" in fields:
            manifest["model"]["checkpoint_sha256"] = fields.pop("checkpoint")
        manifest.update(fields)

    edited(folder / "manifest.json", edit)


def test_the_port_passes_every_case_and_stage(judge: Judge, golden: Golden) -> None:
    answer = judge(golden.traces, "--sha256", golden.sha256, "--json")
    answer.succeeds()
    document = _document(answer)
    assert document["verdict"]["value"] == "PARITY"
    assert document["bundle"]["pinned"]
    assert {(case["name"], case["stage"]) for case in document["cases"]} == {
        (name, stage) for name in (TEXT, PICTURE) for stage in ("processor", "model")
    }
    assert all(case["verdict"]["not_compared"] == 0 for case in document["cases"])
    assert document["cases"][0]["checkpoint"]["subject"] == document["cases"][0]["checkpoint"]["bundle"]


@pytest.mark.parametrize("case", [TEXT, PICTURE])
def test_the_verdict_is_that_of_the_full_run(case: str, judge: Judge, golden: Golden) -> None:
    """Storing the reference as float32 changes no finding, and moves no ratio by more than a tenth of a gate."""
    reference = golden.traces / case / "reference"
    floors = [word for folder in sorted((golden.traces / case).glob("floor-*")) for word in ("--floor", folder)]
    full = json.loads(call("compare", golden.subject(case), reference, *floors, "--json").stdout)["findings"]
    found = _document(judge(golden.subject(case), "--json"))["cases"][0]["findings"]
    assert [(item["seam"], item["call"], item["status"], item["rows"]) for item in found] == [
        (item["seam"], item["call"], item["status"], item["rows"]) for item in full
    ]
    moved = [abs((a["ratio"] or 0) - (b["ratio"] or 0)) for a, b in zip(found, full, strict=True)]
    assert max(moved) < 0.1


def test_a_bfloat16_trace_has_floors_of_its_own(judge: Judge, golden: Golden, tmp_path: Path) -> None:
    folder = traces(TEXT, tmp_path / "traces", "--dtype", "bfloat16")
    judge(folder / "subject", "--dtype", "bfloat16").succeeds()
    answer = judge(folder / "subject", "--dtype", "float32")
    answer.succeeds(code=2)
    assert "the subject has the dtype bfloat16, --dtype asks for float32" in answer.stdout


@pytest.mark.parametrize(
    ("mutant", "case", "stage", "seam"),
    [
        ("merger-gelu-tanh", PICTURE, "model", "vision.deepstack.0"),
        ("decode-without-rope-delta", PICTURE, "model", "text.position_ids"),
        ("picture-bgr", PICTURE, "processor", "processor.images.0.decoded"),
    ],
)
def test_a_planted_mistake_diverges(
    mutant: str, case: str, stage: str, seam: str, judge: Judge, golden: Golden, tmp_path: Path
) -> None:
    (planted,) = chosen([mutant])
    with planted.plant():
        folder = traces(case, tmp_path / "traces")
    answer = judge(folder, "--case", case, "--json")
    answer.succeeds(code=1)
    line = next(item for item in _document(answer)["cases"] if item["stage"] == stage)
    assert line["verdict"]["value"] == "DIVERGED"
    assert line["findings"][line["verdict"]["first_divergence"]]["seam"] == seam


@pytest.mark.parametrize("key", [SeamKey("logits", 0), SeamKey("text.layers.1.mlp.out", 3), SeamKey("text.norm", 0)])
def test_one_row_that_is_slightly_wrong_diverges(key: SeamKey, judge: Judge, golden: Golden, tmp_path: Path) -> None:
    subject = _copy(golden, tmp_path, TEXT)

    def change(array: np.ndarray) -> np.ndarray:
        array[-1, -1] *= np.float32(1 + 1e-4)
        return array

    traced(subject, key, change)
    answer = judge(subject)
    answer.succeeds(code=1)
    assert f"first divergence at {key.name}" in answer.stdout


def test_what_is_missing_is_incomplete(judge: Judge, golden: Golden, tmp_path: Path) -> None:
    subject = _copy(golden, tmp_path, TEXT)
    edited(subject / "manifest.json", without(lambda seam: seam["name"] == "text.norm"))
    answer = judge(subject)
    answer.succeeds(code=3)
    assert "text.norm" in answer.stdout.splitlines()[-1]
    # A single trace is judged alone. With a folder, every case and stage is expected.
    answer = judge(golden.traces / TEXT)
    answer.succeeds(code=3)
    assert f"has no processor trace of {PICTURE}" in answer.stdout
    judge(golden.traces / TEXT, "--case", TEXT).succeeds()
    shutil.copytree(golden.subject(TEXT), tmp_path / "one" / "subject")
    judge(tmp_path / "one", "--case", TEXT).succeeds(code=3)
    judge(tmp_path / "one", "--case", TEXT, "--stage", "model").succeeds()


def _another_case(subject: Path) -> None:
    _says(subject, case=PICTURE)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({"checkpoint": ZEROS}, (f"the subject has the checkpoint {ZEROS}, the bundle ",)),
        ({"dtype": "float16"}, ("the subject has the dtype float16, the bundle has floors for float32, bfloat16",)),
        ({"case": "unheard-of"}, ("the subject has the case 'unheard-of', the bundle", TEXT, "--case")),
        ({"case": PICTURE}, ("the subject has the checkpoint", "the bundle ")),
        ({"case": PICTURE, "checkpoint": None}, ("input_ids[0] is not the bundle's; another prompt or checkpoint?",)),
    ],
    ids=["checkpoint", "dtype", "unknown case", "another case", "another case without a checkpoint"],
)
def test_a_trace_of_something_else_is_invalid(
    says: dict[str, Any], words: tuple[str, ...], judge: Judge, golden: Golden, tmp_path: Path
) -> None:
    subject = _copy(golden, tmp_path, TEXT)
    _says(subject, **says)
    answer = judge(subject, "--json")
    answer.succeeds(code=2)
    document = _document(answer)
    assert document["verdict"]["value"] == "INVALID"
    for word in words:
        assert word in document["verdict"]["reason"]
    assert document["cases"][0]["findings"] == [], "no number was judged"


def test_a_case_that_is_not_asked_for_is_invalid(judge: Judge, golden: Golden) -> None:
    answer = judge(golden.subject(TEXT), "--case", PICTURE)
    answer.succeeds(code=2)
    assert f"the subject has the case '{TEXT}', --case asks for '{PICTURE}'" in answer.stdout
    judge(golden.subject(TEXT), "--case", "nowhere").refuses("the bundle has no case nowhere", TEXT)
    answer = judge(golden.subject(TEXT), "--stage", "processor")
    answer.succeeds(code=2)
    assert "the subject has the stage model, --stage asks for processor" in answer.stdout


def test_case_names_the_case_of_a_trace_that_has_none_of_the_bundle(
    judge: Judge, golden: Golden, tmp_path: Path
) -> None:
    subject = _copy(golden, tmp_path, TEXT)
    _says(subject, case="my test")
    judge(subject, "--case", TEXT).succeeds()
    answer = judge(subject, "--case", PICTURE)
    answer.succeeds(code=2)
    assert "the subject has the checkpoint" in answer.stdout


def _is_called(name: str, seam: dict[str, Any]) -> bool:
    return bool(seam["name"] == name)


def test_without_a_checkpoint_the_values_decide(judge: Judge, golden: Golden, tmp_path: Path) -> None:
    subject = _copy(golden, tmp_path, PICTURE)
    _says(subject, checkpoint=None)
    judge(subject).succeeds()
    for key, words in (
        (SeamKey("input_ids", 0), "another prompt or checkpoint?"),
        (SeamKey("text.embed_tokens", 0), "another prompt or checkpoint?"),
        (SeamKey("image_pixels", 0), "another prompt or checkpoint?"),
    ):
        wrong = Path(shutil.copytree(subject, tmp_path / key.name))
        traced(wrong, key, lambda array: array[..., ::-1].copy())
        answer = judge(wrong)
        answer.succeeds(code=2)
        assert answer.stdout.splitlines()[-1].endswith(words)
        assert key.name in answer.stdout
    for name in ("input_ids", "attention_mask", "text.embed_tokens"):
        less = Path(shutil.copytree(subject, tmp_path / f"no {name}"))
        edited(less / "manifest.json", without(partial(_is_called, name)))
        answer = judge(less)
        answer.succeeds(code=2)
        assert f"does not give {name}[0]" in answer.stdout
    grids = Path(shutil.copytree(subject, tmp_path / "no pixels"))
    edited(grids / "manifest.json", without(lambda seam: seam["name"] == "image_pixels"))
    judge(grids).succeeds(code=3)  # the grids bind it, and the pixels are missing
    traced(grids, SeamKey("image_grid_thw", 0), lambda array: array + 1)
    judge(grids).succeeds(code=2)


def test_two_traces_of_one_case_are_refused(judge: Judge, golden: Golden, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(golden.subject(TEXT), tmp_path / "both" / name)
    judge(tmp_path / "both").refuses("are both model traces of", TEXT)


def test_folders_that_are_no_traces(judge: Judge, golden: Golden, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    judge(tmp_path / "empty").refuses("empty has no trace", "manifest.json")
    judge(tmp_path / "nowhere").refuses("nowhere has no trace")
    call("judge", tmp_path / "empty", golden.traces).refuses("bundle.json does not exist")
    call("judge", tmp_path / "nowhere", golden.traces).refuses("is not a folder")


def test_the_report_has_every_trace_and_can_be_made_again(judge: Judge, golden: Golden, tmp_path: Path) -> None:
    out = tmp_path / "report"
    answer = judge(golden.traces, "--out", out)
    answer.succeeds()
    assert answer.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"
    html = (out / "report.html").read_text(encoding="utf-8")
    for words in (golden.sha256, "was not given with --sha256", "eager", TEXT, PICTURE):
        assert words in html
    assert {path.name for path in (out / "cases").iterdir()} == {
        f"{case}-{stage}" for case in (TEXT, PICTURE) for stage in ("processor", "model-float32")
    }
    assert (out / "cases" / f"{PICTURE}-model-float32" / "report.html").exists()
    assert f'href="cases/{PICTURE}-model-float32/report.html"' in html
    rows = (out / "findings.csv").read_text(encoding="utf-8").splitlines()
    document = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert len(rows) == 1 + sum(len(case["findings"]) for case in document["cases"])
    (out / "report.md").unlink()
    render(out / "report.json")
    assert "PARITY" in (out / "report.md").read_text(encoding="utf-8")


def test_names_in_a_trace_cannot_control_the_terminal(judge: Judge, golden: Golden, tmp_path: Path) -> None:
    subject = _copy(golden, tmp_path, TEXT)
    _says(subject, case="x\x1b[2J\x9b1m")
    answer = judge(subject)
    answer.succeeds(code=2)
    assert "\x1b" not in answer.stdout
    assert "\x9b" not in answer.stdout
