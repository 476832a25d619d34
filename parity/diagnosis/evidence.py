"""Evidence: what a subject gave, how far it is from the reference, and how far from any other run.

A hypothesis explains a value if the subject is within the gate of the hypothesis' own value. Two correct runs may each
be a gate away from the yardstick, so two runs with the same mistake may be two gates from each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from parity.core.compare import Comparison, Finding
from parity.core.floors import Floors
from parity.core.gates import DEFAULT_GATE, FloatGate
from parity.core.metrics import as_rows, row_errors
from parity.core.part import PartOfTrace
from parity.core.trace import Entry, SeamKey, Trace

BETWEEN_RUNS = FloatGate(m=2 * DEFAULT_GATE.m, ulps=2 * DEFAULT_GATE.ulps)


@dataclass(frozen=True)
class Residue:
    """How far a subject's value is from another run's.

    ``ratio`` is that of the worst row over its gate; infinite where the two cannot be compared. ``figure`` is its
    relative error, or the count of numbers that differ.
    """

    passed: bool
    rows: int
    rows_failed: int
    ratio: float
    figure: float | None = None

    @classmethod
    def of(cls, finding: Finding) -> Residue:
        passed = finding.status in ("ok", "not_compared")
        ratio = finding.ratio if finding.ratio is not None else 0.0 if passed else math.inf
        return cls(passed, finding.rows, finding.rows_failed, ratio, finding.figure)


APART = Residue(passed=False, rows=0, rows_failed=0, ratio=math.inf)


class Evidence(Protocol):
    """What a subject gave on one case."""

    @property
    def order(self) -> Mapping[SeamKey, int]:
        """The place of every value that a complete trace has."""
        ...

    @property
    def before(self) -> Mapping[SeamKey, Residue]:
        """How far each value that the subject gave is from the reference, in the order of the computation."""
        ...

    def residue(self, key: SeamKey, array: np.ndarray, spread: float = 0.0) -> Residue:
        """Return how far the subject is from another run's value.

        ``spread`` is how far correct runs with the other run's mistakes are from each other, if that is wider than the
        floors.
        """
        ...

    def entry(self, key: SeamKey) -> Entry:
        """Return the reference's description of a value."""
        ...


@dataclass(frozen=True)
class TraceEvidence:
    """The values of a trace, of one stage of a case. ``known`` are the findings, if the trace was judged before."""

    subject: Trace
    reference: Trace
    floors: Floors
    known: Mapping[SeamKey, Finding] | None = None

    @cached_property
    def order(self) -> Mapping[SeamKey, int]:
        return {key: at for at, key in enumerate(self.reference.entries())}

    @cached_property
    def findings(self) -> Mapping[SeamKey, Finding]:
        """The comparison with the reference, of every value that both have."""
        if self.known is not None:
            return {key: self.known[key] for key in self.reference.entries() if key in self.known}
        comparison = Comparison(self.reference, self.floors, DEFAULT_GATE)
        given = [key for key in self.reference.entries() if key in self.subject.entries()]
        return {key: comparison.judge(key, self.subject.read(key)) for key in given}

    @cached_property
    def before(self) -> Mapping[SeamKey, Residue]:
        return {key: Residue.of(finding) for key, finding in self.findings.items()}

    def entry(self, key: SeamKey) -> Entry:
        return self.reference.entries()[key]

    def residue(self, key: SeamKey, array: np.ndarray, spread: float = 0.0) -> Residue:
        entry, own = self.entry(key), self.subject.read(key)
        if own.shape != array.shape or (own.dtype.kind in "biu") != (array.dtype.kind in "biu"):
            return APART
        if array.shape != entry.shape:
            return self._of_other_shape(entry, own, array, spread)
        own, array = _without_shared_gaps(own, array)
        yardstick = _Instead(self.reference, self._labels, key, array)
        floors = self.floors if spread == 0 else _Wider(self.floors, spread)
        return Residue.of(Comparison(yardstick, floors, BETWEEN_RUNS).judge(key, own))

    @cached_property
    def _labels(self) -> dict[SeamKey, np.ndarray]:
        keys = {entry.rows for entry in self.reference if entry.rows is not None}
        return {key: self.reference.labels(key) for key in keys}

    def _of_other_shape(self, entry: Entry, own: np.ndarray, other: np.ndarray, spread: float) -> Residue:
        """Both have the same shape, but not the reference's. The typical floor of the reference's rows is used."""
        if entry.gate != "float":
            differing = int((own != other).sum())
            return Residue(differing == 0, 1, int(differing > 0), math.inf if differing else 0.0, float(differing))
        if own.ndim <= max(entry.token_axes, default=-1):
            return APART
        own, other = _without_shared_gaps(own, other)
        errors = row_errors(as_rows(own, entry.token_axes), as_rows(other, entry.token_axes))
        floor = max(spread, float(np.median(self.floors.spread(entry))))
        ratios = errors / BETWEEN_RUNS.rows(np.full(1, floor), self.floors.dtype(entry))
        worst = float(ratios.max(initial=0.0))
        failed = int((~(ratios <= 1)).sum())
        return Residue(failed == 0, len(ratios), failed, worst, float(errors.max(initial=0.0)))


class _Wider(Floors):
    """Floors of which none is below a spread."""

    def __init__(self, floors: Floors, spread: float) -> None:
        super().__init__(floors.yardstick)
        self._floors, self._least = floors, spread

    def rows(self, entry: Entry, compared: np.ndarray) -> np.ndarray:
        return np.where(compared, np.maximum(self._floors.rows(entry, compared), self._least), 0.0)

    def peaks(self, entry: Entry) -> np.ndarray:
        return np.full_like(self._floors.peaks(entry), np.inf)

    def dtype(self, entry: Entry) -> str:
        return self._floors.dtype(entry)


class _Instead(Trace):
    """The reference with the numbers of one value replaced."""

    def __init__(self, reference: Trace, labels: Mapping[SeamKey, np.ndarray], key: SeamKey, array: np.ndarray) -> None:
        self.description = reference.description
        self._entries = {key: reference.entries()[key]}
        self._labels, self._array = labels, array

    def entries(self) -> Mapping[SeamKey, Entry]:
        return self._entries

    def read(self, key: SeamKey) -> np.ndarray:
        return self._array

    def labels(self, key: SeamKey) -> np.ndarray:
        return self._labels[key]


def _without_shared_gaps(own: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replace NaN and Inf by 0 where both have the same: a mistake may make them, and they are then explained."""
    if own.dtype.kind in "biu":
        return own, other
    left, right = own.astype(np.float64), other.astype(np.float64)
    gaps = (np.isnan(left) & np.isnan(right)) | (np.isinf(left) & (left == right))
    if not gaps.any():
        return own, other
    left[gaps] = right[gaps] = 0
    return left, right


def first_failing(evidence: Evidence) -> SeamKey | None:
    """Return the first value, in the order of the computation, that is not within its gate."""
    return next((key for key, residue in evidence.before.items() if not residue.passed), None)


def failing_rows(residues: Mapping[SeamKey, Residue]) -> int:
    """Return the number of failing rows. A value that fails as a whole counts as one."""
    return sum(max(1, residue.rows_failed) for residue in residues.values() if not residue.passed)


def only(evidence: TraceEvidence, keys: Sequence[SeamKey]) -> TraceEvidence:
    """Return the evidence that a trace with only these values gives."""
    return replace(evidence, subject=PartOfTrace(evidence.subject, keys), known=None)
