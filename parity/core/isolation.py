"""Combines the accumulated and the isolated comparison of every seam.

In the accumulated comparison the subject runs on its own inputs; in the isolated one each part is fed the reference's
inputs. If a part exceeds its isolated gate, the fault starts there. If it only exceeds its accumulated gate, the fault
comes from upstream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from parity.core.compare import FROM_UPSTREAM, NOISE, STARTS_HERE, Finding, Isolated


def combine_comparisons(accumulated: Sequence[Finding], isolated: Sequence[Finding]) -> list[Finding]:
    """Return the accumulated findings with their isolated figures and their origins.

    A value also fails if it only exceeds its isolated gate, which is narrower.
    """
    alone = {finding.entry.key: finding for finding in isolated}
    return [_combined(finding, alone.get(finding.entry.key)) for finding in accumulated]


def _combined(finding: Finding, alone: Finding | None) -> Finding:
    if alone is None or not alone.compared:
        return finding
    figures = Isolated(alone.status, alone.figure, alone.gate, alone.ratio, alone.worst_row)
    if alone.passed:
        return replace(finding, isolated=figures, origin=NOISE if finding.passed else FROM_UPSTREAM)
    status = alone.status if finding.passed else finding.status
    # If only the isolated comparison has a NaN, the finding still needs its side.
    return replace(finding, status=status, side=finding.side or alone.side, isolated=figures, origin=STARTS_HERE)
