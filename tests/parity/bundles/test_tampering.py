"""A bundle that was changed judges nothing: not by accident, and not where somebody made new digests as well."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.core.trace import PADDING, SeamKey
from tests.parity.bundles.samples import (
    PICTURE,
    TEXT,
    Change,
    Golden,
    both,
    edited,
    in_bundle,
    in_case,
    in_seams,
    labels,
    link,
    number,
    of_seam,
    tensors,
    traced,
    without,
)
from tests.parity.cli.samples import call

Changed = Callable[..., Path]
PICTURES, TEXTS = f"{PICTURE}/reference", f"{TEXT}/reference"
LOGITS, NORM, IDS = SeamKey("logits", 0), SeamKey("text.norm", 0), SeamKey("input_ids", 0)


def _refused(bundle: Path, subject: Path, *words: str) -> None:
    """Neither the judge nor the check takes the bundle."""
    answer = call("judge", bundle, subject)
    answer.refuses(*words)
    answer = call("bundle", "check", bundle)
    assert answer.code == 2, answer.stdout
    for word in words:
        assert word in answer.stdout + answer.stderr
    assert "defect of the harness" not in answer.stderr


def test_the_bundle_is_sound_as_it_was_made(golden: Golden) -> None:
    answer = call("bundle", "check", golden.bundle, "--sha256", golden.sha256)
    answer.succeeds()
    assert "sound; 2 cases" in answer.stdout
    assert golden.sha256 in answer.stdout


def test_every_file_is_covered(golden: Golden, changed: Changed) -> None:
    """A flipped bit, a byte more and a byte less are found in each file."""
    names = sorted(path.relative_to(golden.bundle) for path in golden.bundle.rglob("*") if path.is_file())
    assert len(names) > 10
    bundle = changed(lambda _folder: None)
    for name in names:
        path, held = bundle / name, (golden.bundle / name).read_bytes()
        for wrong in (held[:-2] + bytes([held[-2] ^ 1]) + held[-1:], held + b" ", held[:-1]):
            if name == Path("bundle.json") and wrong in (held + b" ", held[:-1]):
                continue  # its digest is that of the JSON, not of the spaces around it
            path.write_bytes(wrong)
            answer = call("judge", bundle, golden.subject(TEXT))
            answer.refuses(str(name))
        path.write_bytes(held)
    call("judge", bundle, golden.subject(TEXT)).succeeds()


def _extra(folder: Path) -> None:
    (folder / "cases" / "more.txt").write_text("x", encoding="utf-8")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def _folder_link(folder: Path) -> None:
    (folder / "cases" / "again").symlink_to(folder / "cases" / TEXT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_extra, ("more.txt is not listed in bundle.json",)),
        (_pipe, ("pipe is a link, a pipe or a device",)),
        (_folder_link, ("again is a link, a pipe or a device",)),
        (link(f"cases/{TEXT}/inputs.safetensors"), ("inputs.safetensors is a link",)),
        (link("bundle.json"), ("bundle.json is not a regular file",)),
        (lambda folder: (folder / f"cases/{TEXT}/inputs.safetensors").unlink(), ("inputs.safetensors is missing",)),
        (lambda folder: shutil.rmtree(folder / f"cases/{TEXT}"), (f"cases/{TEXT}/", "is missing")),
        (lambda folder: (folder / "bundle.json").write_text("{", encoding="utf-8"), ("cannot be read",)),
        (lambda folder: (folder / "bundle.json").write_text("[" * 99999, encoding="utf-8"), ("bundle.json",)),
        (lambda folder: (folder / "bundle.json").write_bytes(b"\xff"), ("cannot be read",)),
        (in_bundle(lambda document: document["gate"].update(m=float("nan"))), ("NaN, which is not JSON",)),
        (in_bundle(lambda document: document["gate"].update(m=7.0)), ("bundle.json was changed", "sha256")),
        (in_bundle(lambda document: document.update(sha256="0" * 64)), ("bundle.json was changed",)),
    ],
)
def test_a_change_without_new_digests_is_named(
    change: Change, words: tuple[str, ...], changed: Changed, golden: Golden
) -> None:
    _refused(changed(change), golden.subject(TEXT), *words)


def test_the_pinned_digest_finds_every_change(changed: Changed, golden: Golden) -> None:
    """New digests hide a change that fits the rest, such as another title. --sha256 does not let it pass."""
    bundle = changed(in_case(TEXT, lambda case: case.update(title="mine")), forged=True)
    subject = golden.subject(TEXT)
    call("judge", bundle, subject).succeeds()
    for command in (("judge", bundle, subject), ("bundle", "check", bundle)):
        call(*command, "--sha256", golden.sha256).refuses(f"expected {golden.sha256}", "another bundle")
    call("judge", golden.bundle, subject, "--sha256", golden.sha256.upper()).succeeds()


def _set(value: Any, *path: Any) -> Callable[[Any], None]:
    def edit(document: Any) -> None:
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = value

    return edit


def _zeros(array: np.ndarray) -> np.ndarray:
    return np.zeros_like(array)


def _scaled(by: float) -> Callable[[dict[str, np.ndarray]], None]:
    def edit(held: dict[str, np.ndarray]) -> None:
        for name in held:
            held[name] = held[name] * np.float32(by)

    return edit


def _put(name: str, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def edit(held: dict[str, np.ndarray]) -> None:
        held[name] = held[name].copy()
        held[name][..., -1] = value

    return edit


def _row(at: Any, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[at] = value
        return array

    return change


def _coarse(folder: Path) -> None:
    """The floors of float32 become those of bfloat16."""
    place = folder / "cases" / TEXT
    shutil.copyfile(place / "floors-bfloat16.safetensors", place / "floors-float32.safetensors")


_TALL = np.array([[1], [1e4]], np.float32)
FLOORS = f"{TEXT}/floors-float32.safetensors"
FORGED: dict[str, tuple[Change, tuple[str, ...]]] = {
    # bundle.json
    "gate": (in_bundle(_set(60.0, "gate", "m")), ("the bundle's gate", "m 60", "make the bundle again")),
    "ulps": (in_bundle(_set(1000, "gate", "ulps")), ("the bundle's gate", "ulps 1000")),
    "rule": (in_bundle(_set("all pass", "gate", "rule")), ("'all pass'",)),
    "schema": (in_bundle(_set("9.9", "schema_version")), ("schema '9.9'",)),
    "field": (in_bundle(_set(1, "more")), ("bundle.json", "more")),
    "no cases": (in_bundle(_set([], "cases")), ("bundle.json", "cases")),
    "case twice": (in_bundle(lambda d: d["cases"].append(d["cases"][0])), ("has a case twice",)),
    "case renamed": (in_case(TEXT, _set("other", "name")), ("case",)),
    "steps": (in_case(TEXT, _set(3, "decode_steps")), ("has unknown seams", "logits[4]")),
    "tokens of fewer steps": (
        in_case(TEXT, _set([[], []], "model", "dtypes", "float32", "decode_tokens")),
        ("decode tokens are not 2 rows of 4",),
    ),
    "padding side": (in_case(TEXT, _set("right", "padding_side")), ("not padded on the right",)),
    "stage gone": (in_case(TEXT, _set(["model"], "stages")), ("stages", "processor")),
    "stage unknown": (in_case(TEXT, _set(["weights"], "stages")), ("weights",)),
    "rows": (in_case(TEXT, lambda case: case["rows"].pop()), ("2 rows, bundle.json 1",)),
    "picture gone": (in_case(PICTURE, _set([[{"type": "text", "text": "x"}]], "rows")), ("belongs to no case",)),
    "layers": (in_case(TEXT, _set(1, "model", "text_layers")), ("has unknown seams",)),
    "tokens": (
        in_case(TEXT, lambda case: case["model"]["dtypes"]["float32"]["decode_tokens"][0].__setitem__(1, 7)),
        ("not the likeliest",),
    ),
    "token too large": (
        in_case(TEXT, lambda case: case["model"]["dtypes"]["float32"]["decode_tokens"][0].__setitem__(1, 10**6)),
        ("not the likeliest",),
    ),
    "checkpoint": (in_case(TEXT, _set("0" * 64, "checkpoint", "sha256")), ("checkpoint", "0" * 64)),
    "floors of another": (
        in_case(TEXT, _set(f"cases/{PICTURE}/floors-float32.safetensors", "model", "dtypes", "float32", "floors")),
        ("belongs to no case",),
    ),
    "outside": (in_case(TEXT, _set("../../x", "model", "inputs")), ("inputs",)),
    "absolute": (in_case(TEXT, _set("/etc/passwd", "model", "inputs")), ("inputs",)),
    # seams.json
    "gate kind": (in_seams(PICTURES, of_seam("logits", gate="steps", unit=1e9)), ("logits[0]", "'steps'")),
    "exact to steps": (
        in_seams(TEXTS, of_seam("text.position_ids", gate="steps")),
        ("text.position_ids[0]", "'steps'"),
    ),
    "one row": (in_seams(TEXTS, of_seam("logits", token_axes=[], axis_names=[], rows=None)), ("token axes []",)),
    "no rows": (in_seams(TEXTS, of_seam("logits", rows=None)), ("row labels None",)),
    "other rows": (
        in_seams(TEXTS, of_seam("text.layers.0.out", rows={"name": "rows.tokens", "call": 1})),
        ("text.layers.0.out[0]",),
    ),
    "shape": (in_seams(TEXTS, of_seam("text.norm", shape=[2, 1, 1])), ("text.norm",)),
    "huge shape": (in_seams(TEXTS, of_seam("text.norm", shape=[2, 2**40, 2**40])), ("text.norm",)),
    "huge": (in_seams(TEXTS, of_seam("text.norm", shape=[2**40], rows=None)), ("text.norm[0]",)),
    "huge labels": (
        in_seams(TEXTS, lambda document: document["labels"][0].update(shape=[2**40, 2**40])),
        ("rows.tokens", "numbers are read"),
    ),
    "no axes": (in_seams(TEXTS, of_seam("text.norm", token_axes=[7])), ("token axes [7], but only 3 axes",)),
    "no tokens": (in_seams(TEXTS, of_seam("attention_mask", shape=[2, 0])), ("the bundle's model stage",)),
    "dtype": (in_seams(TEXTS, of_seam("logits", dtype="int64")), ("logits",)),
    "unknown dtype": (in_seams(TEXTS, of_seam("logits", dtype="object")), ("dtype",)),
    "pixel steps": (
        in_seams(f"{PICTURE}/reference-processor", of_seam("processor.images.0.patches", unit=1.0)),
        ("in steps of 1", "at most"),
    ),
    "exact pixels": (
        in_seams(f"{PICTURE}/reference-processor", of_seam("processor.images.0.decoded", gate="steps")),
        ("processor.images.0.decoded[0]", "'steps'"),
    ),
    "file outside": (in_seams(TEXTS, of_seam("logits", file="../inputs.safetensors")), ("file",)),
    "no file": (in_seams(TEXTS, of_seam("logits", file="seams-00009.safetensors")), ("seams-00009.safetensors",)),
    "checksum": (in_seams(TEXTS, of_seam("text.layers.0.attn.k_cache", crc32=1)), ("k_cache[0]", "checksum")),
    "checksum gone": (in_seams(TEXTS, of_seam("text.layers.0.attn.k_cache", crc32=None)), ("k_cache[0]", "checksum")),
    "producer": (in_seams(TEXTS, _set("mine", "producer", "name")), ("producer 'mine'",)),
    "case of the trace": (in_seams(TEXTS, _set(PICTURE, "case")), ("has the case",)),
    # the reference's numbers
    "zeros": (number(TEXTS, NORM, _zeros), ("all zero at text.norm[0]",)),
    "zeros and no floor": (
        both(number(TEXTS, NORM, _zeros), tensors(FLOORS, _scaled(0.0))),
        ("all zero at text.norm[0]",),
    ),
    "a row of zeros": (number(TEXTS, NORM, _row((0, -1), 0.0)), ("row of zeros at text.norm[0]",)),
    "NaN": (number(TEXTS, NORM, _row((0, -1, 3), np.nan)), ("NaN or Inf at text.norm[0]",)),
    "logits": (number(TEXTS, LOGITS, lambda array: -array), ("not the likeliest",)),
    "ids": (number(TEXTS, IDS, _row((0, -1), 5)), ("input_ids",)),
    "fed ids": (number(TEXTS, SeamKey("input_ids", 2), _row((0, 0), 5)), ("decode step 2",)),
    "padding": (labels(TEXTS, SeamKey("rows.tokens", 0), _row((..., slice(1, None)), PADDING)), ("rows.tokens",)),
    "padding of a step": (labels(TEXTS, SeamKey("rows.tokens", 2), _row((...,), PADDING)), ("rows.tokens",)),
    "padding of the processor": (
        labels(f"{TEXT}/reference-processor", SeamKey("rows.tokens", 0), _row((...,), PADDING)),
        ("padding of its tokens",),
    ),
    "processor ids": (
        number(f"{TEXT}/reference-processor", SeamKey("processor.input_ids", 0), _row((0, -1), 5)),
        ("input_ids",),
    ),
    # inputs and floors
    "inputs": (tensors(f"{TEXT}/inputs.safetensors", _put("input_ids", 5)), ("input_ids of inputs.safetensors",)),
    "inputs gone": (tensors(f"{TEXT}/inputs.safetensors", lambda t: t.pop("position_ids")), ("position_ids",)),
    "wide floors": (tensors(FLOORS, _scaled(1e6)), ("a floor run is", "no correct run")),
    "endless floors": (tensors(FLOORS, _put("logits[0]", np.inf)), ("logits[0]", "NaN or Inf")),
    "floors of NaN": (tensors(FLOORS, _put("logits[0]", np.nan)), ("logits[0]", "NaN or Inf")),
    "negative floors": (tensors(FLOORS, _put("logits[0]", -1.0)), ("logits[0]", "negative")),
    "a floor is missing": (tensors(FLOORS, lambda held: held.pop("logits[0]")), ("lacks the floors of ['logits[0]']",)),
    "a floor too many": (tensors(FLOORS, lambda held: held.update(x=held["logits[0]"])), ("has those of ['x']",)),
    "floors of other rows": (
        tensors(FLOORS, lambda held: held.update({"logits[0]": held["logits[0]"][:, :1].copy()})),
        ("logits[0]", "[2, 1]"),
    ),
    "no peaks": (
        tensors(FLOORS, lambda held: held.update({"logits[0]": held["logits[0]"][:1].copy()})),
        ("logits[0]", "[1, "),
    ),
    "wide peaks": (
        tensors(FLOORS, lambda held: held.update({"logits[0]": _TALL * held["logits[0]"]})),
        ("logits[0]", "peaks that are larger than the distance of the whole row"),
    ),
    "floors of bfloat16": (_coarse, ("no correct run",)),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_bundle_is_refused(name: str, changed: Changed, golden: Golden) -> None:
    change, words = FORGED[name]
    bundle = changed(change, forged=True)
    answer = call("judge", bundle, golden.traces, "--json")  # each stage of each case is looked at
    if not answer.stdout:
        answer.refuses(*words)
        return
    # Where the bundle names another checkpoint than the trace, the trace is refused before the bundle is looked at.
    assert answer.code == 2
    assert json.loads(answer.stdout)["verdict"]["value"] == "INVALID"
    checked = call("bundle", "check", bundle)
    assert checked.code == 2
    for word in words:
        assert word in checked.stdout + checked.stderr


DROPPED: dict[str, tuple[Callable[[dict[str, Any]], bool], str]] = {
    "a seam": (lambda seam: seam["name"] == "text.norm", "lacks"),
    "a call": (lambda seam: (seam["name"], seam["call"]) == ("text.layers.1.out", 2), "lacks"),
    "a layer": (lambda seam: seam["name"].startswith("text.layers.3."), "lacks"),
    "the logits": (lambda seam: seam["name"] == "logits", "lacks"),
    "the last step": (lambda seam: seam["step"] == "decode 4", "lacks"),
}


@pytest.mark.parametrize("name", DROPPED)
def test_seams_that_are_missing_from_both_sides_are_noticed(
    name: str, changed: Changed, golden: Golden, tmp_path: Path
) -> None:
    matches, word = DROPPED[name]
    subject = Path(shutil.copytree(golden.subject(TEXT), tmp_path / "subject"))
    edited(subject / "manifest.json", without(matches))
    bundle = changed(in_seams(TEXTS, without(matches)), forged=True)
    _refused(bundle, subject, word)


def test_a_zeroed_reference_does_not_pass_a_zeroed_subject(changed: Changed, golden: Golden, tmp_path: Path) -> None:
    subject = Path(shutil.copytree(golden.subject(TEXT), tmp_path / "subject"))
    traced(subject, NORM, _zeros)
    call("judge", golden.bundle, subject).succeeds(code=1)
    zeroed = both(number(TEXTS, NORM, _zeros), tensors(FLOORS, _scaled(0.0)))
    _refused(changed(zeroed, forged=True), subject, "all zero at text.norm[0]")


def test_the_checkpoint_in_the_bundle_is_the_one_that_it_names(changed: Changed, golden: Golden) -> None:
    def change(folder: Path) -> None:
        for path in (folder / "checkpoint").glob("*/config.json"):
            edited(path, _set("x", "x"))

    _refused(changed(change, forged=True), golden.subject(TEXT), "its checkpoint", "has the sha256")
