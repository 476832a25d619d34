"""Shards of a suite and of a sign-off: merged, they are what one run gives, field by field. And `parity quick`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from parity.core.errors import ParityError
from parity.milestones import quick
from parity.milestones.kept import FINISHED
from parity.milestones.keys import Checkout
from parity.mutants.registry import chosen
from tests.parity.cli.samples import Parity, call, change_json

# Cases that only read weights take a tenth of a second each.
CASES = ("conv3d-tiny", "conv3d-odd", "conv3d-bfloat16", "tied-weights")
SELECTED = tuple(word for case in CASES for word in ("--case", case))
PLAN = """
schema_version = "1.0"
[subject]
engine = "port"
evidence = "run"
[[phase]]
number = 2
title = "weights"
cases = [{ dtypes = ["float32"], names = ["conv3d-tiny", "conv3d-odd", "tied-weights"] }]
mistakes = { mutants = ["conv3d-weight-frames-reversed"] }
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite as a whole, and in two shards. Tests must not change them."""
    folder = tmp_path_factory.mktemp("shards")
    call("suite", *SELECTED, "--out", folder / "whole").succeeds(3)
    for index in (1, 2):
        call("suite", *SELECTED, "--shard", f"{index}/2", "--out", folder / f"shard-{index}").succeeds(3)
    return folder


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def without_times(value: Any) -> Any:
    """A document without what differs from run to run."""
    if isinstance(value, dict):
        return {
            name: without_times(part)
            for name, part in value.items()
            if name not in ("seconds", "created", "command", "peak_bytes")
        }
    return [without_times(part) for part in value] if isinstance(value, list) else value


def test_the_merged_suite_equals_that_of_one_run(shards: Path, parity: Parity, tmp_path: Path) -> None:
    answer = parity("merge", shards / "shard-2", shards / "shard-1", "--out", tmp_path / "merged")
    answer.succeeds(3)  # not every case of the suite was selected, as in the whole run
    whole, merged = document(shards / "whole"), document(tmp_path / "merged")
    for name in whole:
        assert without_times(merged[name]) == without_times(whole[name]), name
    for case in CASES:
        own, other = (document(folder / "cases" / case) for folder in (tmp_path / "merged", shards / "whole"))
        assert without_times(own) == without_times(other)
    names = {path.relative_to(tmp_path / "merged") for path in (tmp_path / "merged").rglob("*")}
    whole_names = {path.relative_to(shards / "whole") for path in (shards / "whole").rglob("*")}
    assert names == {name for name in whole_names if name.parts[0] != FINISHED}


def test_a_missing_shard_is_incomplete_and_names_its_cases(shards: Path, parity: Parity, tmp_path: Path) -> None:
    answer = parity("merge", shards / "shard-1", "--out", tmp_path / "merged", "--json")
    answer.succeeds(3)
    verdict = json.loads(answer.stdout)["verdict"]
    assert verdict["value"] == "INCOMPLETE"
    assert "2 of 4 cases were not run: conv3d-odd, tied-weights (missing: shard 2/2)" in verdict["reason"]


def test_a_shard_of_other_code_is_refused(shards: Path, parity: Parity, tmp_path: Path) -> None:
    other = Path(shutil.copytree(shards / "shard-2", tmp_path / "other"))
    for keys, value, said in (
        (("made_with", "code"), "d" * 64, "code is dddd"),
        (("made_with", "versions", "torch"), "1.0", "version of torch is 1.0"),
        (("shard",), {"index": 1, "count": 2}, "are both shard 1/2"),
    ):
        shutil.copy(shards / "shard-2" / "report.json", other / "report.json")
        change_json(other / "report.json", keys, value)
        parity("merge", shards / "shard-1", other, "--out", tmp_path / "merged").refuses(said)
    assert not (tmp_path / "merged").exists()
    parity("merge", shards / "whole", "--out", tmp_path / "merged").refuses("is no shard")


def test_a_failing_case_is_an_annotation(parity: Parity, tmp_path: Path) -> None:
    with chosen(["conv3d-weight-frames-reversed"])[0].plant():
        answer = parity("suite", "--case", "conv3d-odd", "--annotations", "--out", tmp_path / "out")
    answer.succeeds(1)
    lines = [line for line in answer.stdout.splitlines() if line.startswith("::")]
    assert lines[0].startswith("::error title=conv3d-odd%3A DIVERGED::first divergence at")
    assert lines[-1].startswith("::error title=parity%3A DIVERGED::")


def test_the_merged_sign_off_has_the_digest_of_one_run(
    parity: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parity.cli.commands.signoff.checkout", lambda: Checkout("f" * 40, True))
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN, encoding="utf-8")
    parity("signoff", "--milestones", plan, "--out", tmp_path / "whole").succeeds()
    for index in (1, 2, 3):
        parity("signoff", "--milestones", plan, "--shard", f"{index}/3", "--out", tmp_path / f"{index}").succeeds(3)
    parts = [tmp_path / str(index) for index in (1, 2, 3)]
    parity("merge", *parts, "--milestones", plan, "--out", tmp_path / "merged").succeeds()
    whole, merged = (json.loads((tmp_path / name / "signoff.json").read_text("utf-8")) for name in ("whole", "merged"))
    assert without_times(merged["predicate"]["signoff"] | {"run": 0}) == without_times(
        whole["predicate"]["signoff"] | {"run": 0}
    )
    assert merged["predicate"]["signoff"]["digest"] == whole["predicate"]["signoff"]["digest"]
    parity("signoff", "diff", tmp_path / "whole", tmp_path / "merged").succeeds()
    answer = parity("merge", *parts[:2], "--milestones", plan, "--out", tmp_path / "less", "--annotations")
    answer.succeeds(3)
    assert "in no shard: case:tied-weights:float32" in answer.stdout
    assert "::error title=phase 2%3A case%3Atied-weights%3Afloat32 INCOMPLETE::it was not run" in answer.stdout
    parity("signoff", "diff", tmp_path / "whole", tmp_path / "less", "--out", tmp_path / "diff").succeeds(1)
    assert (tmp_path / "diff" / "report.html").is_file()
    answer = parity("history", tmp_path, "--out", tmp_path / "history")
    answer.succeeds()
    assert "no margin shrank by more than its noise" in answer.stdout
    parity("merge", tmp_path / "1", tmp_path, "--out", tmp_path / "x").refuses(
        "has neither signoff.json nor report.json"
    )


def test_quick_judges_the_port_by_a_bundle_that_is_kept(
    parity: Parity, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick, "CASE", "text")
    monkeypatch.setattr("parity.cli.commands.quick.CASE", "text")
    first = parity("quick")
    assert first.code == 0, first
    assert "it is kept" in first.stderr
    (kept,) = (cache / "quick").iterdir()
    again = parity("quick", "--json")
    again.succeeds()
    assert json.loads(again.stdout)["verdict"]["value"] == "PARITY"
    with chosen(["final-norm-skipped"])[0].plant():
        wrong = parity("quick")
    wrong.succeeds(1)
    assert wrong.stdout.startswith("text.norm (prefill): diverged")
    # A kept bundle that was changed is made again.
    (kept / "cases" / "text" / "inputs.safetensors").write_bytes(b"x")
    made: list[str] = []
    with pytest.raises(ParityError):
        quick.kept_bundle(kept, lambda case, _folder: made.append(case.name))
    assert made == ["text"]
