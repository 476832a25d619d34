"""``parity bundle make`` and ``show``: what a bundle holds, and what is refused without leaving anything behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from parity.bundles.bundle import Bundle
from parity.bundles.checks import check_stage
from parity.core.digest import checkpoint_digest
from parity.core.folder import FolderTrace
from parity.core.trace import SeamKey
from tests.parity.bundles.samples import PICTURE, TEXT, Golden, forge, in_case
from tests.parity.cli.samples import call


def test_the_bundle_describes_itself(golden: Golden) -> None:
    bundle = Bundle(golden.bundle)
    assert list(bundle.cases) == [TEXT, PICTURE]
    case = bundle.cases[PICTURE]
    assert case.dtypes == ("float32", "bfloat16")
    assert checkpoint_digest(golden.bundle / case.record["checkpoint"]["folder"]) == case.checkpoint
    (row,) = case.record["rows"]
    assert [part["type"] for part in row] == ["text", "image", "text"]
    with Image.open(golden.bundle / row[1]["file"]) as picture:
        assert np.array_equal(
            np.asarray(picture.convert("RGB")),
            case.reference("processor", "").read(SeamKey("processor.images.0.decoded", 0)),
        )


def test_an_engine_is_fed_what_the_reference_was(golden: Golden) -> None:
    reference = FolderTrace(golden.traces / PICTURE / "reference")
    inputs = load_file(golden.bundle / "cases" / PICTURE / "inputs.safetensors")
    seams = {
        "input_ids": "input_ids",
        "attention_mask": "attention_mask",
        "pixel_values": "image_pixels",
        "image_grid_thw": "image_grid_thw",
        "position_ids": "text.position_ids",
    }
    assert set(inputs) == set(seams)
    for name, seam in seams.items():
        assert np.array_equal(inputs[name], reference.read(SeamKey(seam, 0)))
    tokens = Bundle(golden.bundle).cases[PICTURE].part("float32")["decode_tokens"]
    assert [[int(reference.read(SeamKey("input_ids", step)).item()) for step in range(1, 5)]] == tokens


@pytest.mark.parametrize("case", [TEXT, PICTURE])
def test_the_reference_is_that_of_the_run(case: str, golden: Golden) -> None:
    """Every compared row is the yardstick's, rounded once to float32; the caches and pixels are bit-equal too."""
    stored = Bundle(golden.bundle).cases[case].reference("model", "float32")
    full = FolderTrace(golden.traces / case / "reference")
    assert list(stored.entries()) == list(full.entries())
    for entry in full:
        wanted = full.read(entry.key)
        wanted = wanted.astype(np.float32) if wanted.dtype == np.float64 else wanted
        found = stored.read(entry.key)
        assert found.dtype == wanted.dtype
        axes = entry.token_axes
        used = np.ones(entry.token_shape, bool) if entry.rows is None else full.labels(entry.rows) != 255
        front = range(len(axes))
        assert np.array_equal(np.moveaxis(found, axes, front)[used], np.moveaxis(wanted, axes, front)[used]), entry.key


def test_floors_are_those_of_the_runs_rounded_up(golden: Golden) -> None:
    bundle = Bundle(golden.bundle).cases[TEXT]
    reference, floors = check_stage(bundle, "model", "float32")
    full = FolderTrace(golden.traces / TEXT / "reference")
    runs = [FolderTrace(folder) for folder in sorted((golden.traces / TEXT).glob("floor-*"))]
    assert len(bundle.part("float32")["floor_runs"]) == len(runs) == 4
    for key in (SeamKey("logits", 0), SeamKey("text.layers.0.out", 3)):
        exact = full.read(key)
        norms = np.linalg.norm(exact, axis=-1)
        spread = np.max([np.linalg.norm(run.read(key) - exact, axis=-1) / norms for run in runs], axis=0).reshape(-1)
        entry = reference.entries()[key]
        used = (full.labels(entry.rows) if entry.rows else np.zeros(1)).reshape(-1) != 255
        found = floors.spread(entry)[used]
        assert (found >= spread[used] * (1 - 1e-12)).all()
        assert np.allclose(found, spread[used], rtol=2e-7)


def test_dtypes_share_a_reference_only_if_it_is_the_same(golden: Golden, tmp_path: Path) -> None:
    """bfloat16 rounds the weights of a float32 checkpoint; the trained model's are bfloat16 already."""
    parts = Bundle(golden.bundle).cases[TEXT].record["model"]["dtypes"]
    assert {dtype: part["reference"] for dtype, part in parts.items()} == {
        "float32": f"cases/{TEXT}/reference",
        "bfloat16": f"cases/{TEXT}/reference-bfloat16",
    }
    out = tmp_path / "trained"
    dtypes = ("--dtype", "float32", "--dtype", "bfloat16")
    call("bundle", "make", "--case", "trained-picture", *dtypes, "--out", out).succeeds()
    parts = Bundle(out).cases["trained-picture"].record["model"]["dtypes"]
    assert {part["reference"] for part in parts.values()} == {"cases/trained-picture/reference"}
    assert not (out / "checkpoint").exists()


def test_a_bundle_is_shown_to_a_human(golden: Golden) -> None:
    answer = call("bundle", "show", golden.bundle)
    answer.succeeds()
    for words in (TEXT, PICTURE, "bfloat16", "decode tokens", "inputs.safetensors", "parity judge", golden.sha256):
        assert words in answer.stdout
    answer = call("bundle", "show", golden.bundle, "--json")
    answer.succeeds()
    assert json.loads(answer.stdout)["sha256"] == golden.sha256


def test_other_requests_are_in_the_bundle(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    call("bundle", "make", "--case", "other-requests", "--out", out).succeeds()
    record = Bundle(out).cases["other-requests"].record
    assert (len(record["before"]), len(record["between"])) == (3, 1)
    files = [part["file"] for part in record["between"][0]["rows"][0] if "file" in part]
    assert len(files) == 2
    assert all((out / file).is_file() for file in files)
    answer = call("bundle", "show", out)
    assert "first serve" in answer.stdout
    assert "serve in turn" in answer.stdout


def test_a_case_of_the_processor_alone(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    call("bundle", "make", "--case", "processor", "--out", out).succeeds()
    assert {path.name for path in (out / "cases" / "processor").iterdir()} == {"media", "reference-processor"}
    call("bundle", "check", out).succeeds()
    call("bundle", "show", out).succeeds()
    run = ("run", "--case", "processor", "--no-timing", "--traces", tmp_path / "traces", "--out", tmp_path / "report")
    call(*run).succeeds()
    call("judge", out, tmp_path / "traces").succeeds()
    # Without the model's pixels, patches are predicted from the resized frames, which depends on the merge.
    in_case("processor", lambda case: case.update(merge=1))(out)
    forge(out)
    call("judge", out, tmp_path / "traces").refuses("processor.images.0.patches[0]", "checksum")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("--case", "--suite")),
        (("--case", TEXT, "--suite"), ("not both",)),
        (("--case", "nowhere"), ("no case 'nowhere'",)),
        (("--case", "conv3d-odd"), ("no case is left", "weights")),
        (("--case", TEXT, "--limit", "0.1MB"), ("--limit is 0.1 MB",)),
        (("--case", TEXT, "--with-checkpoint", "--checkpoint-limit", "1MB"), ("at most 1.0 MB", "--checkpoint-limit")),
        (("nowhere", "--case", TEXT), ("nowhere",)),
    ],
)
def test_what_cannot_be_made_leaves_nothing(options: tuple[str, ...], words: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "place" / "bundle"
    out.parent.mkdir()
    call("bundle", "make", *options, "--out", out).refuses(*words)
    assert list(out.parent.iterdir()) == []


def test_an_existing_folder_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    call("bundle", "make", "--case", TEXT, "--out", tmp_path / "kept").refuses("kept exists already")
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("size", ["50 parsecs", "-1", "1e9MB", ""])
def test_sizes_are_checked(size: str, tmp_path: Path) -> None:
    answer = call("bundle", "make", "--case", TEXT, "--out", tmp_path / "x", "--limit", size)
    assert answer.code == 2
    assert "is not a size" in answer.stderr


def test_weights_are_left_out_and_named(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    answer = call("bundle", "make", "--case", TEXT, "--case", "conv3d-odd", "--out", out)
    answer.succeeds()
    assert "not in the bundle: conv3d-odd, weights" in answer.stdout
    assert [item["name"] for item in Bundle(out).document["left_out"]] == ["conv3d-odd, weights"]
