"""Figures and floors, compared with simple loops."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.core.errors import TraceError
from parity.core.floors import Floors
from parity.core.gates import DEFAULT_GATE, FloatGate, ulp
from parity.core.metrics import as_rows, kl_divergence, pooled, row_distances, row_errors, row_norms
from parity.core.trace import PADDING
from tests.parity.core.samples import GATE, entry, floors, labels, memory_trace, nudged, values


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    data=st.data(),
)
def test_rows_are_the_token_axes_in_their_order(shape: list[int], data: st.DataObject) -> None:
    axes = tuple(data.draw(st.permutations(range(len(shape)))))[: data.draw(st.integers(0, len(shape)))]
    array = np.arange(math.prod(shape)).reshape(shape)
    rows = as_rows(array, axes)
    assert rows.dtype == np.float64
    others = [axis for axis in range(len(shape)) if axis not in axes]
    assert rows.shape == (math.prod(shape[a] for a in axes), math.prod(shape[a] for a in others))
    for row, place in enumerate(np.ndindex(*(shape[a] for a in axes))):
        index: list[int | slice] = [slice(None)] * len(shape)
        for axis, at in zip(axes, place, strict=True):
            index[axis] = at
        assert rows[row].tolist() == array[tuple(index)].reshape(-1).tolist()


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 5), size=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_row_errors_are_relative_norms(rows: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal((rows, size)) * 10.0 ** rng.integers(-6, 6, (rows, 1))
    subject = reference + rng.standard_normal((rows, size)) * 10.0 ** rng.integers(-6, 6, (rows, 1))
    for row, found in enumerate(row_errors(subject, reference)):
        distance = math.sqrt(sum((s - r) ** 2 for s, r in zip(subject[row], reference[row], strict=True)))
        assert found == pytest.approx(distance / math.sqrt(sum(r**2 for r in reference[row])), rel=1e-12)


def test_rows_of_zeros_are_equal_to_themselves_and_infinitely_far_from_all_else() -> None:
    reference = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
    subject = np.array([[0.0, 0.0], [0.0, 1e-30], [0.0, 0.0]])
    assert row_errors(subject, reference).tolist() == [0.0, np.inf, 1.0]


def test_one_bad_row_does_not_touch_another_rows_figure() -> None:
    reference = np.ones((3, 4))
    subject = reference.copy()
    subject[1] = -1
    assert row_errors(subject, reference).tolist() == [0.0, 2.0, 0.0]


def test_pooled_figures_by_hand() -> None:
    figures = pooled(np.array([[1.0, 2.0], [2.0, 0.0]]), np.array([[1.0, 0.0], [2.0, 0.0]]))
    assert figures.max_abs == 2.0
    assert figures.rmse == 1.0
    assert figures.cosine == pytest.approx(5 / (3 * math.sqrt(5)))
    assert pooled(np.zeros((2, 2)), np.ones((2, 2))).cosine is None


def test_kl_by_hand_and_the_right_way_round() -> None:
    reference, subject = np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]])
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert kl_divergence(subject, reference)[0] == pytest.approx(expected)
    other_way = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert abs(expected - other_way) > 0.1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), shift=st.floats(-1e4, 1e4))
def test_kl_is_never_negative_and_blind_to_a_shift(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    subject, reference = rng.standard_normal((2, 3, 9)) * 20
    divergence = kl_divergence(subject, reference)
    assert (divergence >= 0).all()
    assert np.allclose(kl_divergence(subject + shift, reference), divergence, atol=1e-8)
    assert kl_divergence(reference, reference).max() < 1e-12


def test_ulps_of_each_dtype() -> None:
    assert [ulp(name) for name in ("float64", "float32", "float16", "bfloat16")] == [2**-52, 2**-23, 2**-10, 2**-7]


def test_the_gate_is_a_multiple_of_the_floor_and_some_ulps() -> None:
    gate = FloatGate(m=3.0, ulps=2.0)
    assert gate.rows(np.array([0.0, 0.5]), "float32").tolist() == [2 * 2**-23, 1.5 + 2 * 2**-23]
    assert "3 x floor + 2 ulp" in gate.describe()
    assert DEFAULT_GATE.m >= 1


# -- floors ------------------------------------------------------------------------------------------------------


def _hidden(kinds: np.ndarray | None = None, **changes: np.ndarray) -> tuple[Floors, np.ndarray]:
    trace = memory_trace({"hidden": values()["hidden"]}, kinds)
    runs = [{"hidden": array} for array in changes.values()]
    item = next(iter(trace))
    measured = floors(trace, *runs)
    return measured, measured.rows(item, trace.labels(item.rows).reshape(-1) != PADDING) if item.rows else np.empty(0)


def test_the_floor_of_a_row_is_the_largest_distance_of_any_run() -> None:
    base = values()["hidden"]
    first, second = nudged(base, 1e-4), nudged(base, 1e-4)
    first[1, 2] = nudged(base, 1e-2)[1, 2]
    second[0, 3] = nudged(base, 1e-3)[0, 3]
    for runs in ({"a": first, "b": second}, {"a": second, "b": first}):
        _, rows = _hidden(**runs)
        assert rows[1 * 4 + 2] == pytest.approx(1e-2, rel=1e-3)
        assert rows[0 * 4 + 3] == pytest.approx(1e-3, rel=1e-3)


def test_no_floor_is_below_the_median_of_its_reading() -> None:
    base = values()["hidden"]
    run = nudged(base, 1e-3)
    run[1, 1] = base[1, 1]  # agrees by luck
    _, rows = _hidden(run=run)
    assert rows[1 * 4 + 1] == pytest.approx(1e-3, rel=1e-2)


def test_padding_does_not_enter_the_median() -> None:
    base, kinds = values()["hidden"], labels()
    kinds[:, :3] = PADDING  # six of eight rows
    run = nudged(base, 1e-6)
    run[:, :3] = 77.0
    _, rows = _hidden(kinds, run=run)
    assert rows[3] == pytest.approx(1e-6, rel=0.2)
    assert rows[7] == pytest.approx(1e-6, rel=0.2)


def test_runs_of_another_shape_are_refused_with_both() -> None:
    trace = memory_trace({"hidden": values()["hidden"]})
    with pytest.raises(TraceError, match=r"\[2, 5, 16\].*\[2, 4, 16\]"):
        Floors(trace).observe(next(iter(trace)), np.ones((2, 5, 16), np.float32))


def test_a_reading_that_no_run_measured_has_no_floor() -> None:
    trace = memory_trace({"hidden": values()["hidden"]})
    with pytest.raises(TraceError, match=r"no correct run has measured a floor for hidden\[0\]"):
        Floors(trace).rows(next(iter(trace)), np.ones(8, dtype=bool))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_run_that_is_not_finite_gives_no_floor(bad: float) -> None:
    # An infinite floor would let every subject through.
    base = values()["hidden"]
    run = nudged(base, 1e-6)
    run[1, 2, 3] = bad
    with pytest.raises(TraceError, match=r"hidden\[0\]"):
        _hidden(run=run)


def test_a_run_may_hold_anything_at_padding() -> None:
    run = nudged(values()["hidden"], 1e-6)
    run[0, 0] = np.nan
    _, rows = _hidden(run=run)
    assert np.isfinite(rows).all()
    assert np.isfinite(GATE.rows(rows, "float32")).all()


def test_a_reading_without_any_row_can_be_observed() -> None:
    empty = np.ones((2, 0, 3), np.float32)
    trace = memory_trace({}, labels(2, 0, 0))
    item = entry("x", empty)
    trace.add(item, empty)
    measured = Floors(trace)
    measured.observe(item, empty)
    assert measured.rows(item, np.ones(0, dtype=bool)).shape == (0,)


@pytest.mark.parametrize("scale", [1e-320, 1e-170, 1e-100, 1.0, 1e100, 1e200])
def test_rows_of_any_size_have_their_relative_error(scale: float) -> None:
    """The squares of 1e-170 are 0 and those of 1e200 are infinite, the rows are not."""
    reference = np.array([[3.0, 4.0, 0.0], [1.0, 1.0, 1.0]]) * scale
    errors = row_errors(reference * np.array([[6.0], [1.0]]), reference)
    assert errors[0] == pytest.approx(5.0, rel=1e-2 if scale < 1e-300 else 1e-12)
    assert errors[1] == 0


def test_a_faint_row_is_not_zero() -> None:
    assert row_errors(np.full((1, 4), 1e-170), np.zeros((1, 4)))[0] == np.inf


def test_norms_of_usual_rows_are_numpys_bit_for_bit() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 64)) * np.logspace(-100, 100, 50)[:, None]
    assert row_norms(rows).tobytes() == np.linalg.norm(rows, axis=1).tobytes()
    assert row_norms(np.zeros((3, 0))).tolist() == [0, 0, 0]
    assert np.isinf(row_norms(np.array([[np.inf, 1.0]]))).all()
    assert np.isnan(row_norms(np.array([[np.nan, 1.0]]))).all()


def _whole(subject: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances without blocks, as numpy's own functions give them."""
    left, right = subject.astype(np.float64), reference.astype(np.float64)
    with np.errstate(all="ignore"):
        difference = left - right
        return row_norms(difference), row_norms(right), np.abs(difference).max(axis=1, initial=0.0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(1, 70_001), (700, 97), (5, 40_000), (40_000, 1), (3, 0), (0, 5)])
def test_blocks_of_rows_give_the_same_bits_as_the_whole(shape: tuple[int, int], dtype: Any) -> None:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal(shape)
    subject = (reference * 1.01).astype(dtype)
    if shape[0] > 2 and shape[1] > 2:
        reference[0], subject[1], reference[2, 1], subject[2, 2] = 0, 0, 1e-200, np.nan
        subject[0, 0] = np.inf
    found = row_distances(subject, reference, peaks=True)
    expected = _whole(subject, reference)
    assert found.peaks is not None
    for ours, theirs in zip((found.distance, found.scale, found.peaks), expected, strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_rows_that_lie_across_the_memory_are_added_as_before() -> None:
    reference = np.random.default_rng(1).standard_normal((300, 400)).T
    subject = np.asfortranarray(reference * 1.5)
    assert not subject.flags.c_contiguous
    found = row_distances(subject, reference, peaks=True)
    assert found.distance.tobytes() == np.linalg.norm(subject - reference, axis=1).tobytes()


def test_logits_in_blocks_give_the_same_divergence() -> None:
    rng = np.random.default_rng(2)
    reference = rng.standard_normal((30, 9_000))
    subject = reference + 0.1 * rng.standard_normal(reference.shape)
    rows = [kl_divergence(subject[row : row + 1], reference[row : row + 1])[0] for row in range(30)]
    assert kl_divergence(subject, reference).tolist() == rows
