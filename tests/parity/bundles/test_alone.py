"""Engines are judged where torch, transformers, the port and the reference cannot be imported."""

from __future__ import annotations

import json
from pathlib import Path

from tests.parity.bundles.samples import PICTURE, TEXT, Golden
from tests.parity.core.test_alone import parity_alone


def test_a_bundle_is_used_without_torch(golden: Golden, tmp_path: Path) -> None:
    for command in (("bundle", "check", golden.bundle), ("bundle", "show", golden.bundle)):
        done = parity_alone(*command)
        assert done.returncode == 0, done.stderr
    out = tmp_path / "report"
    done = parity_alone("judge", golden.bundle, golden.traces, "--sha256", golden.sha256, "--json", "--out", out)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["verdict"]["value"] == "PARITY"
    assert {case["name"] for case in document["cases"]} == {TEXT, PICTURE}
    assert (out / "report.html").exists()


def test_a_bundle_cannot_be_made_without_torch(tmp_path: Path) -> None:
    done = parity_alone("bundle", "make", "--case", TEXT, "--out", tmp_path / "bundle")
    assert done.returncode == 2
    assert not (tmp_path / "bundle").exists()
