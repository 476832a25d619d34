"""The accumulated and the isolated comparison of every seam, added up.

In the accumulated comparison the subject runs on its own; in the isolated one each part is fed the reference's inputs.
Over the isolated gate, the fault is in this very part. Over the accumulated gate alone, it came from upstream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from parity.core.compare import FROM_UPSTREAM, NOISE, STARTS_HERE, Finding, Isolated


def combine_comparisons(accumulated: Sequence[Finding], isolated: Sequence[Finding]) -> list[Finding]:
    """The accumulated findings, each with its isolated figures and its origin.

    A value that is within its accumulated gate and over its isolated one has failed all the same: the isolated gate
    is the narrower.
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
    # A NaN that only the isolated comparison shows still needs its side.
    return replace(finding, status=status, side=finding.side or alone.side, isolated=figures, origin=STARTS_HERE)
