"""The kinds of report document. A new kind is a module here, its schema, and one line in this list."""

from __future__ import annotations

from reports.kinds import (
    activations,
    bench,
    blackbox,
    calibration,
    comparison,
    diagnosis,
    difference,
    exam,
    history,
    judgement,
    mutants,
    processor,
    run,
    signoff,
    suite,
    tokens,
)
from reports.kinds.base import Kind

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        run.KIND,
        suite.KIND,
        signoff.KIND,
        difference.KIND,
        history.KIND,
        mutants.KIND,
        exam.KIND,
        calibration.KIND,
        processor.KIND,
        comparison.KIND,
        judgement.KIND,
        blackbox.KIND,
        diagnosis.KIND,
        tokens.KIND,
        activations.KIND,
        bench.KIND,
    )
}
