"""Margins over runs: noise is measured, a loss is found in the run that made it, and what is no run is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from parity.core.errors import ParityError
from parity.documents.history import history_document
from parity.milestones.history import LEAST, Run, Series, history, read_runs
from parity.milestones.records.difference import difference
from parity.milestones.records.record import dump
from parity.milestones.records.verify import Record, read_record
from reports import document as documents
from tests.parity.milestones.samples import PLAN, Stub, case_content, plan, record
from tests.reports.kind_samples import SIMPLE
from tests.reports.report_samples import environment, suite_document

PHOTO = "case:photo:float32"


def _runs(ratios: Sequence[float | None], codes: str = "") -> list[Run]:
    """Runs of one series; each letter is a code."""
    own = codes or "abcdefghij"[: len(ratios)]
    return [
        Run(f"run-{at}", "sign-off", f"2027-01-{at + 1:02}", "SIGNED OFF", "f" * 40, code * 64,
            {} if ratio is None else {"seam:text.norm": ratio})
        for at, (ratio, code) in enumerate(zip(ratios, own, strict=True))
    ]  # fmt: skip


def _series(ratios: Sequence[float | None], codes: str = "") -> Series:
    (found,) = history(_runs(ratios, codes))
    return found


def test_noise_is_the_largest_difference_between_runs_of_the_same_code() -> None:
    found = _series([0.30, 0.34, 0.33, 0.36], codes="aabb")
    assert found.noise == pytest.approx(0.04)
    assert found.noise_from == "same subject"
    assert found.shrank == 3  # 0.36 is 0.06 over the smallest before
    assert found.before == 0.30


def test_a_failure_is_no_noise() -> None:
    found = _series([0.30, 0.31, 25000.0], codes="aaa")
    assert found.noise == pytest.approx(0.01)
    assert found.shrank == 2


def test_without_two_runs_of_one_code_noise_is_three_times_the_median_change() -> None:
    found = _series([0.30, 0.32, 0.30, 0.32, 0.33])
    assert found.noise == pytest.approx(0.06)
    assert found.noise_from == "all series"
    assert found.shrank is None
    assert _series([0.30, 0.32, 0.30, 0.32, 0.37]).shrank == 4


def test_noise_is_never_below_a_hundredth_of_the_gate() -> None:
    assert _series([0.3, 0.3, 0.309], codes="aab").shrank is None
    assert _series([0.3, 0.3, 0.311], codes="aab").shrank == 2
    assert _series([0.3, 0.3, 0.3]).noise == LEAST


def test_a_slow_loss_is_noticed_and_a_gain_is_none() -> None:
    assert _series([0.30, 0.308, 0.316, 0.324, 0.324], codes="abcdd").shrank == 2
    assert _series([0.5, 0.4, 0.3, 0.2], codes="abcd").shrank is None
    assert _series([None, 0.3, None, 0.3, 0.9], codes="abcbd").shrank == 4


def test_the_first_run_that_lost_is_named_with_all_its_series() -> None:
    runs = _runs([0.3, 0.3, 0.3, 0.6], codes="aabc")
    runs = [
        Run(**{**run.__dict__, "ratios": {**run.ratios, "case:a": ratio}})
        for run, ratio in zip(runs, (0.2, 0.2, 0.5, 0.5), strict=True)
    ]
    document = history_document(runs, history(runs), [], environment=environment())
    documents.validate(document)
    assert document["first"] == {"run": 2, "series": ["case:a"]}
    assert [line["name"] for line in document["series"]] == ["case:a", "seam:text.norm"]


def test_runs_are_read_in_the_order_of_their_time(tmp_path: Path) -> None:
    milestones = plan(tmp_path)
    for name, day, figure in (("b", "01", 1e-7), ("a", "02", 3.5e-7)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        made = record(milestones, Stub(**{PHOTO: case_content(figure=figure)}), created=f"2027-01-{day}T00:00:00+00:00")
        (tmp_path / "runs" / name / "signoff.json").write_bytes(dump(made))
    suite = suite_document()
    suite["environment"]["created"] = "2027-01-03T00:00:00Z"
    for name, document in (("c", suite), ("d", SIMPLE["tokens"]()), ("e", {"kind": "suite"})):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "report.json").write_text(json.dumps(document), encoding="utf-8")
    changed = json.loads((tmp_path / "runs" / "a" / "signoff.json").read_text(encoding="utf-8"))
    changed["predicate"]["signoff"]["verdict"]["label"] = "SIGNED OFF at last"
    (tmp_path / "runs" / "f").mkdir()
    (tmp_path / "runs" / "f" / "signoff.json").write_text(json.dumps(changed), encoding="utf-8")
    runs, skipped = read_runs(tmp_path / "runs")
    assert [(run.folder, run.kind) for run in runs] == [("b", "sign-off"), ("a", "sign-off"), ("c", "suite")]
    assert runs[1].ratios["seam:text.norm"] == pytest.approx(0.875)
    assert [line["folder"] for line in skipped] == ["d", "e", "f"]
    assert "a report of the kind tokens" in skipped[0]["why"]
    assert "does not hold: verdict was changed" in skipped[2]["why"]


def test_a_folder_without_two_runs_is_refused(tmp_path: Path) -> None:
    for place, said in ((tmp_path / "none", "is not a folder"), (tmp_path, "has 0 sign-offs and suites")):
        with pytest.raises(ParityError, match=said):
            read_runs(place)


def _record(folder: Path, name: str, stub: Stub | None = None) -> Record:
    path = folder / f"{name}.json"
    path.write_bytes(dump(record(plan(folder, PLAN), stub)))
    return read_record(path)


def test_two_records_of_the_same_evidence_do_not_differ(tmp_path: Path) -> None:
    found = difference(_record(tmp_path, "a"), _record(tmp_path, "b"))
    assert found["verdict"] == {
        "value": "PARITY", "exit_code": 0, "reason": "the same verdicts and discrete figures"
    }  # fmt: skip
    assert (found["discrete"], found["settings"], found["seams"]) == ([], [], [])


def test_a_margin_that_changed_is_shown_and_no_verdict(tmp_path: Path) -> None:
    found = difference(
        _record(tmp_path, "a"), _record(tmp_path, "b", Stub(**{PHOTO: case_content(figure=2e-7, alone=6e-8)}))
    )
    assert found["verdict"]["value"] == "PARITY"
    assert found["seams"] == [{"seam": "text.norm", "before": 0.25, "after": pytest.approx(0.6)}]


def test_a_verdict_that_changed_is_the_reason(tmp_path: Path) -> None:
    found = difference(_record(tmp_path, "a"), _record(tmp_path, "b", Stub(**{PHOTO: case_content(figure=9e-7)})))
    assert found["verdict"]["exit_code"] == 1
    assert "first phase 1: SIGNED OFF before, REFUSED after" in found["verdict"]["reason"]
    assert f"first {PHOTO}: PARITY before, DIVERGED after" in found["verdict"]["reason"]
    assert {line["place"] for line in found["discrete"]} == {"text.norm[0]"}
