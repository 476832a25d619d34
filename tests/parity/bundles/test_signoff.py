"""The worked example of a port that hands in traces: signed off by a golden bundle, without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.core.trace import SeamKey
from parity.milestones.plan import STANDARD
from tests.parity.bundles.samples import PICTURE, TEXT, Golden, traced
from tests.parity.cli.samples import Answer, call

Made = Callable[..., Path]


@pytest.fixture
def made(golden: Golden, tmp_path: Path) -> Made:
    """A folder with the bundle, the traces and the example's milestones, with the bundle's digest."""

    def make(*edits: tuple[str, str]) -> Path:
        (tmp_path / "golden").symlink_to(golden.bundle)
        shutil.copytree(golden.traces, tmp_path / "traces")
        text = (STANDARD.parent / "example-rust.toml").read_text(encoding="utf-8")
        for old, new in (("0" * 64, golden.sha256), *edits):
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "milestones.toml").write_text(text, encoding="utf-8")
        return tmp_path

    return make


def sign(folder: Path, *options: object) -> tuple[Answer, dict[str, Any]]:
    answer = call("signoff", "--milestones", folder / "milestones.toml", "--out", folder / "signed", *options)
    found: dict[str, Any] = json.loads((folder / "signed" / "report.json").read_text(encoding="utf-8"))
    return answer, found


def test_the_example_is_signed_off(made: Made, golden: Golden) -> None:
    folder = made()
    answer, document = sign(folder)
    answer.succeeds()
    assert [milestone["verdict"] for milestone in document["milestones"]] == ["SIGNED OFF"] * 2
    assert document["subject"]["engine"] == "my-rust-port"
    assert document["subject"]["bundle"] == golden.sha256
    assert "requires 1 of the standard's 7 cases" in document["milestones"][0]["requires_less"]
    record = folder / "signed" / "signoff.json"
    held = call("signoff", "verify", record, "--milestones", folder / "milestones.toml", "--again", "2")
    held.succeeds()
    assert held.stdout.count("the same verdict and discrete figures") == 2


def test_a_wrong_trace_refuses_its_milestone_alone(made: Made) -> None:
    folder = made()
    sign(folder)[0].succeeds()
    traced(folder / "traces" / TEXT / "subject", SeamKey("text.norm", 0), lambda numbers: numbers * np.float32(1.01))
    answer, document = sign(folder, "--reuse", folder / "signed")
    assert answer.code == 1
    assert [milestone["verdict"] for milestone in document["milestones"]] == ["SIGNED OFF", "REFUSED"]
    assert "text.norm" in document["milestones"][1]["reason"]
    assert document["run"]["stale"][f"case:{TEXT}:float32"] == "the traces have changed"
    held = call("signoff", "verify", folder / "signed" / "signoff.json", "--milestones", folder / "milestones.toml")
    assert held.code == 1
    assert "VERIFIED  REFUSED" in held.stdout  # the record is sound, and says REFUSED


def test_a_trace_that_is_missing_is_incomplete(made: Made) -> None:
    folder = made()
    shutil.rmtree(folder / "traces" / PICTURE / "subject-processor")
    answer, document = sign(folder)
    assert answer.code == 3
    assert [milestone["verdict"] for milestone in document["milestones"]] == ["INCOMPLETE", "SIGNED OFF"]
    assert f"no processor trace of {PICTURE}" in document["milestones"][0]["reason"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ((f'names = ["{TEXT}"]', 'names = ["batch-8"]'), "the bundle has no case batch-8"),
        (
            (f'dtypes = ["float32"], names = ["{TEXT}"]', f'dtypes = ["float16"], names = ["{TEXT}"]'),
            "the bundle has no floors for batch-2-text in float16; it has float32, bfloat16",
        ),
        (
            (f'dtypes = ["float32"], names = ["{TEXT}"]', f'dtypes = ["bfloat16"], names = ["{TEXT}"]'),
            "has no model trace of batch-2-text in bfloat16",
        ),
    ],
)
def test_what_the_bundle_or_the_port_lacks_is_incomplete(edit: tuple[str, str], said: str, made: Made) -> None:
    answer, document = sign(made(edit))
    assert answer.code == 3
    assert said in document["milestones"][1]["reason"]


def test_another_bundle_is_refused(made: Made, golden: Golden) -> None:
    folder = made((golden.sha256, "1" * 64))
    answer = call("signoff", "--milestones", folder / "milestones.toml", "--out", folder / "signed")
    answer.refuses("expected " + "1" * 64)


def test_traces_of_another_checkpoint_are_invalid(made: Made) -> None:
    folder = made()
    manifest = folder / "traces" / TEXT / "subject" / "manifest.json"
    found = json.loads(manifest.read_text(encoding="utf-8"))
    found["model"]["checkpoint_sha256"] = "2" * 64
    manifest.write_text(json.dumps(found), encoding="utf-8")
    answer, document = sign(folder)
    assert answer.code == 2
    assert document["milestones"][1]["verdict"] == "INVALID"
    assert "judge one checkpoint" in document["milestones"][1]["reason"]


def test_a_sign_off_by_a_bundle_needs_no_torch(made: Made) -> None:
    folder = made()
    script = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'tokenizers']))\n"
        "from parity.cli.main import main; main(sys.argv[1:])"
    )
    words = ("signoff", "--milestones", folder / "milestones.toml", "--out", folder / "signed")
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
