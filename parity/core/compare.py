"""Compares a subject's values with the reference's and returns findings. Nothing is printed or written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from parity.core.errors import TraceError
from parity.core.floors import Floors
from parity.core.gates import PIXEL_GATE, FloatGate
from parity.core.metrics import as_rows, kl_divergence, pooled, row_distances
from parity.core.trace import PADDING, Entry, SeamKey, Trace

Status = Literal["ok", "diverged", "missing", "unexpected", "shape_mismatch", "nonfinite", "not_compared"]
Side = Literal["reference", "subject"]
# The possible origins: results of the accumulated and the isolated comparison of a value.
STARTS_HERE, FROM_UPSTREAM, NOISE = "starts here", "comes from upstream", "noise"


_STEP_ROUNDING = 1e-3


@dataclass(frozen=True)
class Logits:
    """The effect of a difference in logits: KL in nats, and whether the most likely token is the same."""

    kl_max: float
    kl_row: str
    top1_agree: int
    top1_total: int


@dataclass(frozen=True)
class Isolated:
    """The isolated comparison, in which this part was fed the reference's inputs. Fields as in Finding."""

    status: Status
    figure: float | None
    gate: float | None
    ratio: float | None
    worst_row: str | None


@dataclass(frozen=True)
class Finding:
    """The comparison of one value. Figures are None if nothing could be measured.

    ``figure`` is the relative error of the worst row (float gates), the number of differing numbers (exact gates)
    or the largest difference in steps (step gates). ``gate`` and ``floor`` are those of the same row; ``ratio`` is
    figure over gate. ``floor_runs`` is the largest distance of any row in each correct run. ``exact_share`` is the
    share of equal numbers, for step gates.
    """

    entry: Entry
    status: Status
    note: str = ""
    subject_shape: tuple[int, ...] | None = None
    rows: int = 0
    rows_failed: int = 0
    worst_row: str | None = None
    worst_kind: str | None = None
    figure: float | None = None
    gate: float | None = None
    floor: float | None = None
    floor_runs: tuple[float, ...] = ()
    ratio: float | None = None
    max_abs: float | None = None
    rmse: float | None = None
    cosine: float | None = None
    mismatches: int | None = None
    exact_share: float | None = None
    by_kind: Mapping[str, float] = field(default_factory=dict)
    logits: Logits | None = None
    row_figures: np.ndarray | None = None  # (rows,) relative errors, if they are kept
    side: Side | None = None  # the side that has NaN or Inf
    isolated: Isolated | None = None
    origin: str = ""  # STARTS_HERE, FROM_UPSTREAM or NOISE, if there is an isolated comparison

    @property
    def compared(self) -> bool:
        return self.status in ("ok", "diverged", "nonfinite", "shape_mismatch")

    @property
    def passed(self) -> bool:
        return self.status == "ok"


class Comparison:
    """Judges a subject's values one by one, against a yardstick trace with measured floors.

    Call ``judge`` for each value while the subject runs, or use ``compare`` for a whole trace. ``findings`` then lists
    every expected value in the yardstick's order, followed by unexpected values of the subject.

    Without ``shown``, figures that decide nothing are left out: pooled ones, those by kind, and the effect on logits.
    """

    def __init__(
        self,
        yardstick: Trace,
        floors: Floors,
        gate: FloatGate,
        *,
        keep_rows: Callable[[Entry], bool] = lambda _entry: False,
        shown: bool = True,
    ) -> None:
        self.yardstick = yardstick
        self.floors = floors
        self.gate = gate
        self.keep_rows = keep_rows
        self.shown = shown
        self._found: dict[SeamKey, Finding] = {}

    def judge(self, key: SeamKey, array: np.ndarray) -> Finding:
        """Judge one value of the subject. Raises TraceError if it was given before."""
        if key in self._found:
            raise TraceError(f"the subject gives {key} twice")
        entry = self.yardstick.entries().get(key)
        if entry is None:
            finding = _unexpected(key, array)
        else:
            finding = self._judge(entry, array)
        self._found[key] = finding
        return finding

    def findings(self, *, why_missing: str = "the subject did not give this seam") -> list[Finding]:
        """Return all findings, in the yardstick's order. A value that the subject did not give is ``missing``."""
        ordered = [
            self._found.get(entry.key) or Finding(entry=entry, status="missing", note=why_missing)
            for entry in self.yardstick
        ]
        expected = self.yardstick.entries()
        return ordered + [finding for key, finding in self._found.items() if key not in expected]

    def _judge(self, entry: Entry, array: np.ndarray) -> Finding:
        if tuple(array.shape) != entry.shape:
            return Finding(
                entry=entry,
                status="shape_mismatch",
                subject_shape=tuple(array.shape),
                note=f"subject {list(array.shape)}, reference {list(entry.shape)}",
            )
        if (array.dtype.kind in "biu") != _discrete(entry):
            return Finding(
                entry=entry,
                status="shape_mismatch",
                subject_shape=tuple(array.shape),
                note=f"dtype of the subject {array.dtype}, of the reference {entry.dtype}",
            )
        reference = self.yardstick.read(entry.key)
        kinds = self._kinds(entry)
        compared = kinds != PADDING
        if not compared.any():
            return Finding(entry=entry, status="not_compared", note="every row is padding")
        if 0 in entry.shape:
            return Finding(entry=entry, status="not_compared", note=f"the shape {list(entry.shape)} holds no numbers")
        if entry.gate == "float":
            left, right = (as_rows(side, entry.token_axes, widen=False) for side in (array, reference))
            return self._float(entry, left, right, kinds, compared)
        widen = not _discrete(entry)
        left, right = (as_rows(side, entry.token_axes, widen=widen) for side in (array, reference))
        broken = self._nonfinite(entry, left, right, kinds, compared)
        if broken is not None:
            return broken
        if entry.gate == "exact":
            return self._exact(entry, left, right, kinds, compared)
        return self._steps(entry, left, right, kinds, compared)

    def _kinds(self, entry: Entry) -> np.ndarray:
        rows = int(np.prod(entry.token_shape, dtype=np.int64))
        if entry.rows is None:
            return np.zeros(rows, dtype=np.uint8)
        kinds = self.yardstick.labels(entry.rows)
        if kinds.shape != entry.token_shape:
            raise TraceError(f"{entry.key} has rows {entry.token_shape}, its labels {entry.rows} are {kinds.shape}")
        return kinds.reshape(-1)

    def _exact(
        self, entry: Entry, left: np.ndarray, right: np.ndarray, kinds: np.ndarray, compared: np.ndarray
    ) -> Finding:
        differing = (left != right).sum(axis=1)
        differing[~compared] = 0
        worst = int(differing.argmax())
        total = int(differing.sum())
        return Finding(
            entry=entry,
            status="ok" if total == 0 else "diverged",
            subject_shape=entry.shape,
            rows=int(compared.sum()),
            rows_failed=int((differing > 0).sum()),
            worst_row=self._row_name(entry, worst, kinds) if total else None,
            worst_kind=self._kind_name(kinds[worst]) if total else None,
            figure=float(total),
            gate=0.0,
            max_abs=pooled(left[compared].astype(np.float64), right[compared].astype(np.float64)).max_abs,
            mismatches=total,
        )

    def _steps(
        self, entry: Entry, left: np.ndarray, right: np.ndarray, kinds: np.ndarray, compared: np.ndarray
    ) -> Finding:
        # float64 holds every float32, and whole numbers up to 2^53. Larger ones that differ count as at least one step.
        off = (left.astype(np.float64) - right.astype(np.float64)) / entry.unit
        off[(off == 0) & (left != right)] = 1 / entry.unit
        off[~compared] = 0.0
        distances = np.abs(off).max(axis=1, initial=0.0)
        # Normalised pixels are steps times a float32 number. Less than a thousandth of a step is float32 rounding.
        differing = np.abs(off) > _STEP_ROUNDING
        worst, numbers = int(distances.argmax()), int(compared.sum()) * off.shape[1]
        figure, (bias, where) = float(distances[worst]), PIXEL_GATE.largest_bias(off[compared])
        failed = distances > PIXEL_GATE.steps + _STEP_ROUNDING
        biased = bias > 1
        return Finding(
            entry=entry,
            status="diverged" if biased or failed.any() else "ok",
            note=f"off by {where}, at most {PIXEL_GATE.bias:g} is noise" if biased else "",
            subject_shape=entry.shape,
            rows=int(compared.sum()),
            rows_failed=int(failed.sum()),
            worst_row=self._row_name(entry, worst, kinds),
            worst_kind=self._kind_name(kinds[worst]),
            figure=figure,
            gate=PIXEL_GATE.steps,
            ratio=max(figure / (PIXEL_GATE.steps + _STEP_ROUNDING), bias),
            max_abs=figure * entry.unit,
            mismatches=int(differing.sum()),
            exact_share=1.0 - float(differing.sum()) / numbers if numbers else 1.0,
        )

    def _nonfinite(
        self,
        entry: Entry,
        left: np.ndarray,
        right: np.ndarray,
        kinds: np.ndarray,
        compared: np.ndarray,
        *,
        at: np.ndarray | None = None,
    ) -> Finding | None:
        """Return the finding of NaN or Inf in a row that is compared. ``at`` are the places of the given rows."""
        # The reference is checked first: if it is broken, the subject cannot be judged.
        sides: tuple[tuple[Side, np.ndarray], ...] = (("reference", right), ("subject", left))
        for side, values in sides:
            bad = np.zeros(len(compared), dtype=bool)
            bad[slice(None) if at is None else at] = ~np.isfinite(values).all(axis=1)
            bad &= compared
            if bad.any():
                row = int(bad.argmax())
                return Finding(
                    entry=entry,
                    status="nonfinite",
                    subject_shape=entry.shape,
                    rows=int(compared.sum()),
                    rows_failed=int(bad.sum()),
                    worst_row=self._row_name(entry, row, kinds),
                    worst_kind=self._kind_name(kinds[row]),
                    note=f"NaN or Inf in the {side}, {int(bad.sum())} rows",
                    side=side,
                )
        return None

    def _float(
        self, entry: Entry, left: np.ndarray, right: np.ndarray, kinds: np.ndarray, compared: np.ndarray
    ) -> Finding:
        distances = row_distances(left, right)
        odd = ~(np.isfinite(distances.distance) & np.isfinite(distances.scale))
        if odd.any():  # a row with NaN or Inf has no finite norm
            broken = self._nonfinite(entry, *_only(odd, left, right), kinds, compared, at=np.flatnonzero(odd))
            if broken is not None:
                return broken
        figures = np.where(compared, distances.relative, 0.0)
        floors = self.floors.rows(entry, compared)
        gates = self.gate.of(entry.key.name).rows(floors, self.floors.dtype(entry))
        ratios = np.where(compared, figures / gates, -1.0)  # padding is never the worst row
        logits: Logits | None = None
        output = entry.group == "output"
        if output:
            left, right = (side.astype(np.float64, copy=False) for side in (left, right))
            logits = self._logits(entry, left, right, kinds, compared) if self.shown else None
            flips = self._flips(entry, left, right)
            ratios = np.where(compared, np.maximum(ratios, flips), ratios)
        worst = int(ratios.argmax())
        # A reference row of zeros has no relative error. Any difference from it is a failure.
        from_zero = bool(np.isinf(figures[worst]))
        note = "the reference's row is all zero, the subject's is not" if from_zero else ""
        if output and ratios[worst] > 1 and flips[worst] == ratios[worst]:
            note = _flip_note(left[worst], right[worst], self.floors.peaks(entry)[worst])
        summary = pooled(*_only(compared, left, right)) if self.shown else None
        return Finding(
            entry=entry,
            status="ok" if ratios[worst] <= 1 else "diverged",
            note=note,
            subject_shape=entry.shape,
            rows=int(compared.sum()),
            rows_failed=int((ratios > 1).sum()),
            worst_row=self._row_name(entry, worst, kinds),
            worst_kind=self._kind_name(kinds[worst]),
            figure=None if from_zero else float(figures[worst]),
            gate=float(gates[worst]),
            floor=float(floors[worst]),
            floor_runs=self.floors.runs(entry),
            ratio=None if from_zero else float(ratios[worst]),
            max_abs=None if summary is None else summary.max_abs,
            rmse=None if summary is None else summary.rmse,
            cosine=None if summary is None else summary.cosine,
            by_kind=self._by_kind(ratios, kinds) if self.shown else {},
            logits=logits,
            row_figures=figures if self.keep_rows(entry) else None,
        )

    def _flips(self, entry: Entry, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return, for every row (rows,), the yardstick's margin of a changed top-1 over what noise can bridge.

        A row of many logits can pass its gate while the likeliest token changes. That is noise only if the yardstick's
        margin between the two tokens is small: correct runs move each of them by at most the row's peak, and the gate
        allows m times that. 0 where the top-1 is the same.
        """
        rows = np.arange(len(right))
        with np.errstate(invalid="ignore"):  # padding may hold anything
            margins = right.max(axis=1) - right[rows, left.argmax(axis=1)]
            peaks = np.maximum(np.abs(right.max(axis=1)), np.abs(right.min(axis=1)))
        rounding = self.gate.ulp_floor(self.floors.dtype(entry)) * peaks
        limits = 2 * (self.gate.m * self.floors.peaks(entry) + rounding)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(margins > 0, margins / limits, 0.0)

    def _logits(
        self, entry: Entry, left: np.ndarray, right: np.ndarray, kinds: np.ndarray, compared: np.ndarray
    ) -> Logits:
        divergence = np.where(compared, 0.0, -1.0)
        left, right = _only(compared, left, right)
        divergence[compared] = kl_divergence(left, right)
        worst = int(divergence.argmax())
        agree = left.argmax(axis=1) == right.argmax(axis=1)
        return Logits(
            kl_max=float(divergence[worst]),
            kl_row=f"{entry.step}, {self._row_name(entry, worst, kinds)}",
            top1_agree=int(agree.sum()),
            top1_total=int(agree.size),
        )

    def _by_kind(self, ratios: np.ndarray, kinds: np.ndarray) -> dict[str, float]:
        worst = {self._kind_name(kind): float(ratios[kinds == kind].max()) for kind in np.unique(kinds)}
        return {name: value for name, value in worst.items() if name != "padding" and np.isfinite(value)}

    def _kind_name(self, kind: int) -> str:
        return "padding" if kind == PADDING else self.yardstick.description.kinds.get(int(kind), f"kind {kind}")

    def _row_name(self, entry: Entry, row: int, kinds: np.ndarray) -> str:
        if not entry.token_axes:
            return "whole tensor"
        place = np.unravel_index(row, entry.token_shape)
        names = entry.axis_names or tuple(f"axis {axis}" for axis in entry.token_axes)
        text = ", ".join(f"{name} {int(index)}" for name, index in zip(names, place, strict=True))
        return f"{text} ({self._kind_name(kinds[row])})" if entry.rows is not None else text


def compare(subject: Trace, comparison: Comparison) -> list[Finding]:
    """Judge a whole trace. Only one value is in memory at a time."""
    for entry in subject:
        comparison.judge(entry.key, subject.read(entry.key))
    return comparison.findings()


def _only(rows: np.ndarray, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the marked rows of both sides in float64, without a copy of what can be used as it is."""
    if not rows.all():
        left, right = left[rows], right[rows]
    return left.astype(np.float64, copy=False), right.astype(np.float64, copy=False)


def _flip_note(left: np.ndarray, right: np.ndarray, peak: float) -> str:
    was, now = int(right.argmax()), int(left.argmax())
    margin = right[was] - right[now]
    return (
        f"the most likely token is {now}, the reference's is {was} by a margin of {margin:.3g}; correct runs move a "
        f"logit by at most {peak:.3g}"
    )


def _discrete(entry: Entry) -> bool:
    return entry.dtype == "bool" or entry.dtype.startswith(("int", "uint"))


def _unexpected(key: SeamKey, array: np.ndarray) -> Finding:
    entry = Entry(
        key=key, step="unknown", group="output", gate="float", shape=tuple(array.shape), dtype=str(array.dtype)
    )
    return Finding(
        entry=entry,
        status="unexpected",
        subject_shape=tuple(array.shape),
        note="the reference has no such value: the seam is unknown, or it was given too often",
    )
