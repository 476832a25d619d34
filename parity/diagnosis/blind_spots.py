"""Blind spots: the known mistakes that a run could not have shown, because of the input or the dtype."""

from __future__ import annotations

from parity.mutants.registry import ALL
from parity.runs.case_run import CaseRun
from parity.runs.traits.traits import traits


def blind_spots(run: CaseRun) -> list[dict[str, str]]:
    """Return id, title and reason of every mutant that this run could not have shown.

    float16 is treated as bfloat16. bfloat16 is coarser, so float16 shows every mistake that bfloat16 shows.
    """
    present = {stage.name: traits(run.case, stage, run.inputs) for stage in run.stages}
    dtype = "bfloat16" if run.dtype in ("float16", "tf32") else run.dtype
    found = []
    for mutant in ALL:
        if mutant.stage not in present:
            why = f"the {mutant.stage} stage was not judged"
        elif absent := sorted(mutant.needs - present[mutant.stage]):
            why = f"the input lacks: {', '.join(absent)}"
        elif mutant.stage == "model" and dtype not in mutant.dtypes:
            why = mutant.invisible
        else:
            continue
        found.append({"id": mutant.id, "title": mutant.title, "why": why})
    return found
