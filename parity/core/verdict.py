"""Verdicts over all findings. Missing evidence never gives PARITY."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from parity.core.compare import STARTS_HERE, Finding


class Verdict(Enum):
    """The four verdicts with their exit codes."""

    PARITY = 0
    DIVERGED = 1
    INVALID = 2
    INCOMPLETE = 3

    @property
    def exit_code(self) -> int:
        return self.value


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason and its counts."""

    verdict: Verdict
    reason: str
    first_divergence: int | None
    seams_expected: int
    seams_compared: int
    rows_compared: int

    @property
    def not_compared(self) -> int:
        return self.seams_expected - self.seams_compared


_SHOWN = 5  # names in a message
FAILED = ("diverged", "nonfinite", "shape_mismatch", "unexpected")


def judge(findings: Sequence[Finding], *, subject_error: str | None = None, loaded: bool = True) -> Judgement:
    """Return the verdict over findings.

    It is INVALID if the reference has NaN or there is nothing to compare, DIVERGED if a finding failed or the subject
    raised (``subject_error``), INCOMPLETE if an expected value was not compared, and otherwise PARITY. Not ``loaded``:
    the subject raised before its first seam.
    """
    expected = [finding for finding in findings if finding.status != "unexpected"]
    compared = [finding for finding in expected if finding.compared]
    rows = sum(finding.rows for finding in compared)
    first = _first_failed(findings)
    left_out = [finding for finding in expected if not finding.compared]

    def judgement(verdict: Verdict, reason: str, at: int | None = None) -> Judgement:
        return Judgement(verdict, reason, at, len(expected), len(compared), rows)

    broken = next((f for f in findings if f.status == "nonfinite" and f.side == "reference"), None)
    if broken is not None:
        return judgement(Verdict.INVALID, f"the reference itself holds NaN or Inf at {broken.entry.key}")
    if not expected:
        return judgement(Verdict.INVALID, "there is nothing to compare: the reference trace is empty")
    if first is not None:
        return judgement(Verdict.DIVERGED, _where(findings[first]) + _bracket(findings, first), first)
    if not loaded:
        return judgement(Verdict.DIVERGED, f"first divergence at loading: {subject_error}")
    if subject_error is not None:
        missing = next((i for i, finding in enumerate(findings) if finding.status == "missing"), None)
        return judgement(Verdict.DIVERGED, f"the subject failed: {subject_error}", missing)
    if not compared or rows == 0:
        return judgement(Verdict.INCOMPLETE, "no seam was compared")
    if left_out:
        names = ", ".join(str(finding.entry.key) for finding in left_out[:_SHOWN])
        if len(left_out) <= _SHOWN:
            return judgement(Verdict.INCOMPLETE, f"{len(left_out)} of {len(expected)} seams not compared: {names}")
        worst = max((finding.ratio or 0.0 for finding in compared), default=0.0)
        return judgement(
            Verdict.INCOMPLETE,
            f"{len(compared)} of {len(expected)} seams given, all within their gates, worst {worst:.2g}; not compared: "
            f"{names} and {len(left_out) - _SHOWN} more",
        )
    return judgement(Verdict.PARITY, f"all {len(compared)} seams ({rows} rows) are within their gates")


def _first_failed(findings: Sequence[Finding]) -> int | None:
    """Return the first finding at which a fault starts. Without an isolated comparison, the first that failed."""
    failed = [index for index, finding in enumerate(findings) if finding.status in FAILED]
    starts = [index for index in failed if findings[index].origin == STARTS_HERE]
    return min(starts or failed, default=None)


def combine(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst of the verdicts, or INCOMPLETE if there are none."""
    for verdict in (Verdict.INVALID, Verdict.DIVERGED, Verdict.INCOMPLETE):
        if verdict in verdicts:
            return verdict
    return Verdict.PARITY if verdicts else Verdict.INCOMPLETE


def _bracket(findings: Sequence[Finding], first: int) -> str:
    """Say between which values a fault lies, if those right before the first divergence were not given."""
    before = first
    while before > 0 and not findings[before - 1].compared:
        before -= 1
    if before == first or findings[first].status == "unexpected":
        return ""
    place = str(findings[first].entry.key)
    gap = f"{first - before} seam{'s' if first - before > 1 else ''} between"
    verb = "were" if first - before > 1 else "was"
    if before == 0:
        return f"; wrong at {place}, and {first - before} before it {verb} not given"
    return f"; good at {findings[before - 1].entry.key}, wrong at {place}; {gap} {verb} not given"


def _where(finding: Finding) -> str:
    name, step = finding.entry.key.name, finding.entry.step
    place = f"first divergence at {name} ({step})"
    if finding.status == "diverged" and finding.entry.gate == "steps":
        return f"{place}: {finding.note or f'{finding.worst_row} is off by {finding.figure:.3g} steps'}"
    if finding.status == "diverged" and finding.mismatches is not None:
        return f"{place}: {finding.mismatches} numbers differ, {finding.worst_row}"
    if finding.status == "diverged" and finding.ratio is not None and finding.ratio > 1:
        why = f" ({finding.note})" if finding.note else ""
        return f"{place}: {finding.worst_row} is at {finding.ratio:.3g} times its gate{why}"
    if finding.status == "diverged" and finding.isolated is not None and finding.isolated.ratio is not None:
        alone = finding.isolated
        return f"{place}: in the isolated comparison {alone.worst_row} is at {alone.ratio:.3g} times its gate"
    return f"{place}: {finding.note or finding.status}"
