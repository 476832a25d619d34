"""The gate that counts steps, for 8-bit pixels and for tensors made from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parity.core.compare import Comparison, Finding
from parity.core.errors import TraceError
from parity.core.floors import Floors
from parity.core.folder import FolderTrace, TraceWriter
from parity.core.gates import DEFAULT_GATE
from parity.core.trace import Description, Entry, MemoryTrace, SeamKey, dtype_name
from parity.core.verdict import Verdict, judge

KEY = SeamKey("pixels", 0)
ABOUT = Description("a", "b", "float32", "c")
UNIT = 1 / 127.5


def entry(array: np.ndarray, unit: float = 1.0) -> Entry:
    return Entry(KEY, "processor", "processor", "steps", array.shape, dtype_name(array), (0, 1), ("y", "x"), unit=unit)


def finding(subject: np.ndarray, reference: np.ndarray, unit: float = 1.0) -> Finding:
    trace = MemoryTrace(ABOUT)
    trace.add(entry(reference, unit), reference)
    return Comparison(trace, Floors(trace), DEFAULT_GATE).judge(KEY, subject)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, (20, 30, 3), dtype=np.uint8)


def test_equal_pixels_are_exact(pixels: np.ndarray) -> None:
    found = finding(pixels.copy(), pixels)
    assert (found.status, found.figure, found.exact_share, found.mismatches) == ("ok", 0.0, 1.0, 0)
    assert found.rows == 600


def test_single_steps_to_both_sides_are_noise_and_counted(pixels: np.ndarray) -> None:
    off = pixels.copy()
    off[0, 0, 0] += 1
    off[5, 7, 2] -= 1
    found = finding(off, pixels)
    assert (found.status, found.figure, found.mismatches) == ("ok", 1.0, 2)
    assert found.exact_share == pytest.approx(1 - 2 / pixels.size)


def test_two_steps_in_one_number_fail_and_name_the_pixel(pixels: np.ndarray) -> None:
    off = pixels.astype(np.int64)
    off[5, 7, 2] += 2 if off[5, 7, 2] < 200 else -2
    found = finding(off.astype(np.uint8), pixels)
    assert (found.status, found.rows_failed, found.worst_row) == ("diverged", 1, "y 5, x 7")
    verdict = judge([found])
    assert verdict.verdict is Verdict.DIVERGED
    assert "y 5, x 7 is off by 2 steps" in verdict.reason


def test_a_step_that_always_goes_the_same_way_fails(pixels: np.ndarray) -> None:
    # What truncating in the place of rounding does: no number is more than a step off.
    off = pixels - (np.random.default_rng(1).random(pixels.shape) < 0.5).astype(np.uint8)
    found = finding(off, pixels)
    assert found.figure == 1.0
    assert found.status == "diverged"
    assert "-0.5" in found.note
    assert "-0.5" in judge([found]).reason


def test_normalised_pixels_are_counted_in_their_own_steps(pixels: np.ndarray) -> None:
    reference = (pixels.astype(np.float32) - 127.5) * np.float32(UNIT)
    rounded = np.nextafter(reference, np.float32(2))
    assert finding(rounded, reference, UNIT).exact_share == 1.0
    one, two = reference.copy(), reference.copy()
    one[3, 4, 0] += np.float32(UNIT)
    two[3, 4, 0] += np.float32(2 * UNIT)
    assert finding(one, reference, UNIT).status == "ok"
    found = finding(two, reference, UNIT)
    assert found.status == "diverged"
    assert found.figure == pytest.approx(2, abs=1e-3)


def test_whole_numbers_do_not_pass_for_normalised_ones(pixels: np.ndarray) -> None:
    assert finding(pixels.astype(np.float32), pixels).status == "shape_mismatch"


def test_nan_fails(pixels: np.ndarray) -> None:
    reference = pixels.astype(np.float32)
    broken = reference.copy()
    broken[0, 0, 0] = np.nan
    assert finding(broken, reference).status == "nonfinite"


@pytest.mark.parametrize("unit", [0.0, -1.0])
def test_a_step_of_no_size_is_refused(pixels: np.ndarray, unit: float) -> None:
    with pytest.raises(TraceError, match="larger than 0"):
        MemoryTrace(ABOUT).add(entry(pixels, unit), pixels)


def test_the_unit_survives_a_folder(pixels: np.ndarray, tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t", ABOUT) as writer:
        writer.add(entry(pixels, UNIT), pixels)
    read = FolderTrace(tmp_path / "t").entries()[KEY]
    assert (read.gate, read.unit) == ("steps", UNIT)


def test_opposite_biases_of_two_channels_do_not_cancel_out(pixels: np.ndarray) -> None:
    """Red one step too bright and green one too dark, everywhere: no number is more than a step off."""
    found = finding((pixels + np.array([1, -1, 0])).astype(np.uint8), pixels)
    assert (found.status, found.figure) == ("diverged", 1.0)
    assert "on average in channel" in found.note


def test_a_bias_of_one_patch_among_many_fails() -> None:
    reference = np.random.default_rng(0).random((40, 1, 1536)).astype(np.float32)
    off = reference.copy()
    off[17] += np.float32(UNIT)
    found = finding(off, reference, UNIT)
    assert found.status == "diverged"
    assert found.figure == pytest.approx(1, abs=1e-3)
    assert "on average in row 17" in found.note


@pytest.mark.parametrize("share", [0.001, 0.02, 0.16])
def test_chance_is_no_bias(share: float) -> None:
    """Steps to both sides at random, as often as correct kernels differ."""
    rng = np.random.default_rng(3)
    for shape in ((30, 40, 3), (24, 1, 1536), (400, 1, 1536)):
        reference = rng.integers(5, 250, shape).astype(np.uint8)
        step = rng.choice([-1, 0, 1], shape, p=[share / 2, 1 - share, share / 2])
        assert finding((reference + step).astype(np.uint8), reference).status == "ok"


@pytest.mark.parametrize(("ours", "theirs"), [(2**24 + 2, 2**24), (2**53 + 1, 2**53), (2**62 + 5, 2**62)])
def test_large_whole_numbers_are_told_apart(ours: int, theirs: int) -> None:
    """float32 takes 2^24 + 1 for 2^24, float64 2^53 + 1 for 2^53."""
    found = finding(np.full((2, 2, 1), ours), np.full((2, 2, 1), theirs))
    assert found.status == "diverged"
    assert found.mismatches == 4


def test_numbers_beyond_float32_are_compared() -> None:
    found = finding(np.full((2, 2, 1), 3e200), np.full((2, 2, 1), 1e200))
    assert found.status == "diverged"
