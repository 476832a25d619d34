"""Each gate rejects wrong values, and accepts right ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.core.compare import Comparison, Finding, compare
from parity.core.errors import TraceError
from parity.core.floors import Floors
from parity.core.trace import PADDING, MemoryTrace, SeamKey
from parity.core.verdict import Judgement, Verdict, combine, judge
from tests.parity.core.samples import (
    GATE,
    ROWS,
    comparison,
    description,
    entry,
    floors,
    judged,
    labels,
    memory_trace,
    nudged,
    values,
)

FLOOR = 1e-4
LIMIT = 8 * FLOOR + 8 * 2**-23  # the gate of every row of a float32 value whose floor is FLOOR


def _verdict(arrays: dict[str, np.ndarray], trace: MemoryTrace, spread: float = FLOOR) -> Judgement:
    return judge(list(judged(arrays, trace, spread).values()))


@pytest.fixture
def trace() -> MemoryTrace:
    return memory_trace(values())


def test_a_row_just_over_its_gate_diverges_and_one_just_under_passes(trace: MemoryTrace) -> None:
    for factor, status in ((1.02, "diverged"), (0.98, "ok")):
        arrays = values()
        arrays["hidden"][1, 2] = nudged(arrays["hidden"], factor * LIMIT)[1, 2]
        finding = judged(arrays, trace, FLOOR)["hidden"]
        assert finding.status == status
        assert finding.ratio == pytest.approx(factor, rel=5e-3)
        assert finding.gate == pytest.approx(LIMIT, rel=5e-3)
        assert finding.figure == pytest.approx(factor * LIMIT, rel=5e-3)
        assert finding.floor == pytest.approx(FLOOR, rel=5e-3)
        assert finding.worst_row == "batch 1, token 2 (text)"
        assert finding.rows_failed == (status == "diverged")
        assert finding.rows == 7, "eight less the padding"
        verdict = _verdict(arrays, trace)
        assert verdict.verdict is (Verdict.DIVERGED if status == "diverged" else Verdict.PARITY)


def test_every_row_has_its_own_gate(trace: MemoryTrace) -> None:
    base = values()
    run = {name: nudged(array, FLOOR) for name, array in base.items()}
    run["hidden"][1, 2] = nudged(base["hidden"], 1e-2)[1, 2]
    measured = floors(trace, run)
    for place, status in (((1, 2), "ok"), ((1, 1), "diverged")):
        subject = base["hidden"].copy()
        subject[place] = nudged(base["hidden"], 2e-2)[place]
        assert Comparison(trace, measured, GATE).judge(SeamKey("hidden", 0), subject).status == status


def test_one_bad_row_of_4096_is_caught_where_the_pooled_cosine_is_not_moved() -> None:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((1, 4096, 64)).astype(np.float32)
    subject = reference.copy()
    subject[0, 1234] = -0.4 * reference[0, 1234]  # 140 % wrong
    # A quiet token: its wrongness is a drop in the pooled figure.
    for array in (reference, subject):
        array[0, 1234] *= 0.3
    trace = MemoryTrace(description())
    trace.add_labels(ROWS, np.zeros((1, 4096), np.uint8))
    item = entry("hidden", reference)
    trace.add(item, reference)
    finding = comparison(trace, 1e-6).judge(item.key, subject)
    assert finding.cosine is not None
    assert finding.cosine > 0.9999
    assert finding.status == "diverged"
    assert finding.rows_failed == 1
    assert finding.worst_row == "batch 0, token 1234 (text)"
    assert finding.figure == pytest.approx(1.4, rel=1e-6)
    assert comparison(trace, 1e-6).judge(item.key, reference.copy()).status == "ok"


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 0.0])
@pytest.mark.parametrize("side", ["subject", "reference", "floor", "all"])
def test_whatever_stands_at_padding_is_not_compared(side: str, value: float) -> None:
    arrays = {name: values() for name in ("reference", "subject", "floor")}
    arrays["floor"] = {name: nudged(array, FLOOR) for name, array in arrays["floor"].items()}
    for name, held in arrays.items():
        if side in (name, "all"):
            held["hidden"][0, 0] = value
            held["scores"][0, 0] = value
            held["ids"][0, 0] = 999_999
    trace = memory_trace(arrays["reference"])
    findings = compare(
        memory_trace(arrays["subject"]),
        Comparison(trace, floors(trace, arrays["floor"]), GATE, keep_rows=lambda _: True),
    )
    assert [finding.status for finding in findings] == ["ok"] * 3
    assert judge(findings).verdict is Verdict.PARITY
    for finding in findings:
        assert finding.rows == 7
        assert finding.worst_row is None or "padding" not in finding.worst_row
        assert "padding" not in finding.by_kind
        assert finding.max_abs == 0
    assert findings[1].row_figures is not None
    assert findings[1].row_figures[0] == 0


def test_the_same_row_without_the_label_is_compared() -> None:
    arrays = values()
    trace = memory_trace(arrays, labels(padding=0))
    subject = values()
    subject["hidden"][0, 0] = 7
    finding = judged(subject, trace, FLOOR)["hidden"]
    assert finding.status == "diverged"
    assert finding.worst_row == "batch 0, token 0 (text)"


def test_only_padding_is_not_a_comparison() -> None:
    kinds = np.full((2, 4), PADDING, np.uint8)
    trace = memory_trace(values(), kinds)
    findings = list(judged(values(), trace, FLOOR).values())
    assert {finding.status for finding in findings} == {"not_compared"}
    judgement = judge(findings)
    assert judgement.verdict is Verdict.INCOMPLETE
    assert (judgement.seams_compared, judgement.rows_compared) == (0, 0)


def test_a_reading_without_rows_is_not_compared() -> None:
    empty = np.ones((2, 0, 3), np.float32)
    trace = memory_trace({}, labels(2, 0, 0))
    item = entry("x", empty)
    trace.add(item, empty)
    assert comparison(trace).judge(item.key, empty).status == "not_compared"


def test_a_missing_reading_is_incomplete(trace: MemoryTrace) -> None:
    arrays = values()
    del arrays["hidden"]
    findings = judged(arrays, trace)
    assert findings["hidden"].status == "missing"
    assert not findings["hidden"].compared
    judgement = judge(list(findings.values()))
    assert judgement.verdict is Verdict.INCOMPLETE
    assert "hidden[0]" in judgement.reason
    assert (judgement.seams_expected, judgement.seams_compared, judgement.not_compared) == (3, 2, 1)


def test_findings_are_in_the_yardsticks_order_whatever_the_subjects(trace: MemoryTrace) -> None:
    arrays = dict(reversed(values().items()))
    assert list(judged(arrays, trace)) == ["ids", "hidden", "scores"]


def test_a_reading_too_many_diverges(trace: MemoryTrace) -> None:
    arrays = {**values(), "extra": np.ones((2, 4, 3), np.float32)}
    findings = judged(arrays, trace)
    assert findings["extra"].status == "unexpected"
    judgement = judge(list(findings.values()))
    assert judgement.verdict is Verdict.DIVERGED
    assert "extra" in judgement.reason
    assert judgement.seams_expected == 3


def test_a_reading_given_twice_is_an_error(trace: MemoryTrace) -> None:
    subject = comparison(trace)
    subject.judge(SeamKey("ids", 0), values()["ids"])
    with pytest.raises(TraceError, match=r"ids\[0\] twice"):
        subject.judge(SeamKey("ids", 0), values()["ids"])


@pytest.mark.parametrize("shape", [(2, 4, 15), (2, 4, 16, 1), (4, 2, 16), (2, 4)])
def test_another_shape_diverges_and_shows_both(trace: MemoryTrace, shape: tuple[int, ...]) -> None:
    finding = comparison(trace).judge(SeamKey("hidden", 0), np.ones(shape, np.float32))
    assert finding.status == "shape_mismatch"
    assert str(list(shape)) in finding.note
    assert "[2, 4, 16]" in finding.note
    assert judge([finding]).verdict is Verdict.DIVERGED


@pytest.mark.parametrize(
    ("name", "dtype"), [("ids", np.float32), ("ids", np.float64), ("hidden", np.int64), ("hidden", np.bool_)]
)
def test_whole_numbers_for_floats_or_the_reverse_diverge(trace: MemoryTrace, name: str, dtype: type) -> None:
    finding = comparison(trace).judge(SeamKey(name, 0), values()[name].astype(dtype))
    assert finding.status == "shape_mismatch"
    assert np.dtype(dtype).name in finding.note
    assert judge([finding]).verdict is Verdict.DIVERGED


def test_the_width_of_whole_numbers_does_not_matter(trace: MemoryTrace) -> None:
    assert comparison(trace).judge(SeamKey("ids", 0), values()["ids"].astype(np.int32)).status == "ok"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_subject_that_is_not_finite_diverges(trace: MemoryTrace, bad: float) -> None:
    arrays = values()
    arrays["hidden"][1, 3, 15] = bad
    findings = judged(arrays, trace)
    assert findings["hidden"].status == "nonfinite"
    assert findings["hidden"].worst_row == "batch 1, token 3 (image)"
    assert findings["hidden"].rows_failed == 1
    judgement = judge(list(findings.values()))
    assert judgement.verdict is Verdict.DIVERGED
    assert judgement.first_divergence == 1
    assert "subject" in judgement.reason


@pytest.mark.parametrize("gate", ["float", "exact"])
@pytest.mark.parametrize("both", [True, False])
def test_a_reference_that_is_not_finite_is_invalid(gate: str, both: bool) -> None:
    arrays = values()
    reference = arrays["hidden"].copy()
    reference[1, 1, 0] = np.nan
    trace = MemoryTrace(description())
    trace.add_labels(ROWS, labels())
    item = entry("hidden", reference, gate=gate)
    trace.add(item, reference)
    measured = floors(trace, {"hidden": nudged(arrays["hidden"], FLOOR)})
    finding = Comparison(trace, measured, GATE).judge(item.key, reference.copy() if both else arrays["hidden"])
    assert finding.status == "nonfinite"
    assert judge([finding]).verdict is Verdict.INVALID


def test_a_zero_row_of_the_reference_takes_zeros_only() -> None:
    base = values()["hidden"]
    base[1, 1] = 0
    trace = memory_trace({"hidden": base})
    subject = base.copy()
    subject[1, 1, 4] = 1e-30
    finding = comparison(trace).judge(SeamKey("hidden", 0), subject)
    assert finding.status == "diverged"
    assert finding.worst_row == "batch 1, token 1 (text)"
    assert "all zero" in finding.note
    assert comparison(trace).judge(SeamKey("hidden", 0), base.copy()).status == "ok"


# -- exact gates -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    row=st.integers(0, 1),
    token=st.integers(0, 3),
    base=st.sampled_from([0, 1, 2**31, 2**53, 2**53 + 2, -(2**62)]),
    step=st.sampled_from([1, -1, 1000]),
)
def test_one_wrong_id_names_its_row_however_large_the_ids(row: int, token: int, base: int, step: int) -> None:
    ids = np.full((2, 4), base)
    trace = memory_trace({"ids": ids}, labels(padding=0))
    subject = ids.copy()
    subject[row, token] += step
    finding = comparison(trace).judge(SeamKey("ids", 0), subject)
    assert finding.status == "diverged"
    kind = "image" if token == 3 else "text"
    assert finding.worst_row == f"batch {row}, token {token} ({kind})"
    assert (finding.mismatches, finding.rows_failed, finding.gate) == (1, 1, 0.0)
    judgement = judge([finding])
    assert judgement.verdict is Verdict.DIVERGED
    assert "1 numbers differ" in judgement.reason
    assert comparison(trace).judge(SeamKey("ids", 0), ids.copy()).status == "ok"


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.float32])
def test_exact_readings_of_any_dtype_are_exact(dtype: type) -> None:
    array: np.ndarray = (np.arange(8).reshape(2, 4) % 2).astype(dtype)
    trace = MemoryTrace(description())
    trace.add_labels(ROWS, labels(padding=0))
    item = entry("x", array, gate="exact")
    trace.add(item, array)
    subject = array.copy()
    subject[1, 0] = np.nextafter(subject[1, 0], 9) if dtype is np.float32 else 1
    finding = comparison(trace).judge(item.key, subject)
    assert (finding.status, finding.mismatches) == ("diverged", 1)
    assert comparison(trace).judge(item.key, array.copy()).status == "ok"


def test_without_token_axes_the_whole_tensor_is_one_row() -> None:
    array = np.arange(5)
    trace = MemoryTrace(description())
    item = entry("bounds", array, token_axes=(), axis_names=(), rows=None)
    trace.add(item, array)
    finding = comparison(trace).judge(item.key, array + np.array([0, 0, 1, 1, 0]))
    assert (finding.rows, finding.mismatches, finding.worst_row) == (1, 2, "whole tensor")


def test_labels_of_another_shape_end_the_comparison() -> None:
    trace = memory_trace(values(), labels(2, 5))
    with pytest.raises(TraceError, match="its labels"):
        comparison(trace).judge(SeamKey("ids", 0), values()["ids"])


def test_no_floor_ends_the_comparison(trace: MemoryTrace) -> None:
    with pytest.raises(TraceError, match="no correct run"):
        Comparison(trace, floors(trace), GATE).judge(SeamKey("hidden", 0), values()["hidden"])


# -- figures for people ------------------------------------------------------------------------------------------


def test_the_worst_ratio_of_each_kind_is_reported(trace: MemoryTrace) -> None:
    arrays = values()
    arrays["hidden"][1, 3] = nudged(arrays["hidden"], 5 * LIMIT)[1, 3]
    arrays["hidden"][1, 0] = nudged(arrays["hidden"], 0.5 * LIMIT)[1, 0]
    finding = judged(arrays, trace, FLOOR)["hidden"]
    assert finding.by_kind == pytest.approx({"text": 0.5, "image": 5}, rel=5e-3)
    assert finding.worst_kind == "image"


def test_rows_are_kept_where_asked_for(trace: MemoryTrace) -> None:
    key = SeamKey("hidden", 0)
    subject = nudged(values()["hidden"], 1e-3, seed=9)
    assert comparison(trace).judge(key, subject).row_figures is None
    kept = comparison(trace, keep_rows=lambda item: item.key == key).judge(key, subject).row_figures
    assert kept is not None
    assert kept.shape == (8,)
    assert kept[1:] == pytest.approx([1e-3] * 7, rel=1e-3)


def test_logits_say_what_the_difference_means(trace: MemoryTrace) -> None:
    arrays = values()
    place = (1, 2)
    row = arrays["scores"][place].astype(np.float64)
    top, other = row.argsort()[[-1, 0]]
    arrays["scores"][place][other] = row[top] + 1  # another token wins
    changed = arrays["scores"][place].astype(np.float64)
    logits = judged(arrays, trace)["scores"].logits
    p, q = (np.exp(x) / np.exp(x).sum() for x in (row, changed))
    assert logits is not None
    assert (logits.top1_agree, logits.top1_total) == (6, 7)
    assert logits.kl_max == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-6)
    assert logits.kl_row == "prefill, batch 1, token 2 (text)"
    same = judged(values(), trace)
    assert same["scores"].logits is not None
    assert (same["scores"].logits.kl_max, same["scores"].logits.top1_agree) == (0.0, 7)
    assert same["hidden"].logits is None


def _flipped(by: float) -> Finding:
    """The finding of a row of many logits in which another token wins. Its yardstick margin is ``by``."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((1, 1, 100_000)).astype(np.float32)
    logits[0, 0, 7] = 9.0
    logits[0, 0, 8] = 9.0 - by
    trace = MemoryTrace(description())
    item = entry("logits", logits, group="output", rows=None)
    trace.add(item, logits)
    subject = logits.copy()
    subject[0, 0, 8] = 9.0001
    measured = Floors(trace)
    measured.observe(item, nudged(logits, 3e-3, seed=2))
    return Comparison(trace, measured, GATE).judge(item.key, subject)


def test_another_likeliest_token_is_a_failure_if_the_margin_is_wide() -> None:
    finding = _flipped(6.0)
    # The row as a whole is within its gate.
    assert finding.figure is not None
    assert finding.gate is not None
    assert finding.figure < finding.gate
    assert finding.status == "diverged"
    assert "the most likely token is 8, the reference's is 7 by a margin of 6; correct runs" in finding.note
    verdict = judge([finding])
    assert verdict.verdict is Verdict.DIVERGED
    assert "the most likely token is 8" in verdict.reason


def test_another_likeliest_token_is_noise_if_the_margin_is_narrow() -> None:
    finding = _flipped(1e-3)
    assert finding.passed
    assert finding.logits is not None
    assert finding.logits.top1_agree == 0


# -- verdicts ----------------------------------------------------------------------------------------------------


def _finding(status: str, note: str = "", rows: int = 1) -> Finding:
    item = entry(f"x.{status}", np.ones((1, 1, 1)), rows=None)
    return Finding(entry=item, status=status, note=note, rows=rows)  # type: ignore[arg-type]


OK = _finding("ok")
NAN_REFERENCE = replace(_finding("nonfinite"), side="reference")
NAN_SUBJECT = _finding("nonfinite", "NaN or Inf in the subject, 1 rows")
BAD = {status: _finding(status) for status in ("diverged", "shape_mismatch", "unexpected")}


def test_exit_codes() -> None:
    assert {verdict.name: verdict.exit_code for verdict in Verdict} == {
        "PARITY": 0,
        "DIVERGED": 1,
        "INVALID": 2,
        "INCOMPLETE": 3,
    }


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ([OK], Verdict.PARITY),
        ([], Verdict.INVALID),
        ([BAD["unexpected"]], Verdict.INVALID),
        ([_finding("missing")], Verdict.INCOMPLETE),
        ([_finding("not_compared")], Verdict.INCOMPLETE),
        ([OK, _finding("missing")], Verdict.INCOMPLETE),
        ([OK, _finding("not_compared")], Verdict.INCOMPLETE),
        ([_finding("ok", rows=0)], Verdict.INCOMPLETE),
        *(([OK, bad], Verdict.DIVERGED) for bad in BAD.values()),
        ([OK, NAN_SUBJECT], Verdict.DIVERGED),
        ([_finding("missing"), BAD["diverged"]], Verdict.DIVERGED),
        ([NAN_REFERENCE], Verdict.INVALID),
        ([BAD["diverged"], _finding("missing"), NAN_REFERENCE], Verdict.INVALID),
    ],
)
def test_verdicts_by_precedence(findings: list[Finding], verdict: Verdict) -> None:
    assert judge(findings).verdict is verdict


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([OK, NAN_SUBJECT, *BAD.values(), _finding("missing"), _finding("not_compared")])))
def test_parity_means_that_everything_expected_was_compared_and_passed(findings: list[Finding]) -> None:
    judgement = judge(findings)
    everything = bool(findings) and all(finding.status == "ok" for finding in findings)
    assert (judgement.verdict is Verdict.PARITY) is everything


def test_a_subject_that_raised_has_diverged_even_where_nothing_else_failed() -> None:
    judgement = judge([OK, _finding("missing")], subject_error="RuntimeError: boom")
    assert judgement.verdict is Verdict.DIVERGED
    assert "boom" in judgement.reason
    assert judgement.first_divergence == 1
    assert judge([OK], subject_error="late").verdict is Verdict.DIVERGED
    assert judge([BAD["diverged"]], subject_error="x").first_divergence == 0


def test_the_first_divergence_is_the_first() -> None:
    findings = [OK, BAD["diverged"], BAD["shape_mismatch"]]
    judgement = judge(findings)
    assert judgement.first_divergence == 1
    assert "x.diverged" in judgement.reason


@pytest.mark.parametrize(
    ("verdicts", "combined"),
    [
        ([], "INCOMPLETE"),
        (["PARITY"], "PARITY"),
        (["PARITY", "INCOMPLETE"], "INCOMPLETE"),
        (["INCOMPLETE", "DIVERGED", "PARITY"], "DIVERGED"),
        (["DIVERGED", "INVALID", "INCOMPLETE"], "INVALID"),
    ],
)
def test_a_set_is_as_good_as_its_worst_member(verdicts: list[str], combined: str) -> None:
    assert combine([Verdict[name] for name in verdicts]) is Verdict[combined]


def test_the_ulp_is_that_of_the_correct_runs_not_of_the_yardstick() -> None:
    # A float64 yardstick whose correct float32 runs agree to the last bit still leaves a subject 8 float32 ulps.
    base = values()["hidden"].astype(np.float64)
    trace = memory_trace({"hidden": base})
    measured = floors(trace, {"hidden": base.astype(np.float32).astype(np.float64).astype(np.float32)})
    for ulps, status in ((4, "ok"), (40, "diverged")):
        subject = nudged(base, ulps * 2**-23)
        finding = Comparison(trace, measured, GATE).judge(SeamKey("hidden", 0), subject)
        assert finding.status == status
