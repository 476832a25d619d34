"""Two readings of every seam: accumulated (the subject on its own) and isolated (on the reference's inputs).

Isolated over its gate: the fault is in this very part. Only accumulated over its gate: it came from upstream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from parity.core.compare import Finding, Isolated

STARTS_HERE = "starts here"
FROM_UPSTREAM = "comes from upstream"
NOISE = "noise"


def combine_readings(accumulated: Sequence[Finding], isolated: Sequence[Finding]) -> list[Finding]:
    """The accumulated findings, each with its isolated figures and the sentence that the two add up to.

    A reading that is within its accumulated gate and over its isolated one has failed all the same: the gate of
    one part alone is the sharper.
    """
    alone = {finding.entry.key: finding for finding in isolated}
    return [_combined(finding, alone.get(finding.entry.key)) for finding in accumulated]


def _combined(finding: Finding, alone: Finding | None) -> Finding:
    if alone is None or not alone.compared:
        return finding
    figures = Isolated(alone.status, alone.figure, alone.gate, alone.ratio, alone.worst_row)
    if alone.passed:
        reading = NOISE if finding.passed else FROM_UPSTREAM
        return replace(finding, isolated=figures, reading=reading)
    status = alone.status if finding.passed else finding.status
    return replace(finding, status=status, isolated=figures, reading=STARTS_HERE)
