"""Mutants of the processor: planted, run from the files on, and judged before any model runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from parity.core.gates import DEFAULT_GATE
from parity.core.verdict import judge
from parity.qwen3vl.front import Front, FrontEnd, judge_front, reference_front, write_material
from parity.qwen3vl.mutants.base import LOADING, Mutant
from parity.qwen3vl.mutants.trials import Trial, front_traits
from parity.qwen3vl.outcomes import Outcome, check_sound, located, worst_ratio
from parity.qwen3vl.run import RunResult
from parity.qwen3vl.workbench import Workbench, read_config
from port import PortError


@dataclass(frozen=True)
class PreparedFront:
    """A processor trial with all that its mutants share."""

    trial: Trial
    bench: Workbench
    folder: Path
    front: Front
    traits: frozenset[str]


def prepare_front(trial: Trial, bench: Workbench) -> PreparedFront:
    """Run the reference's processor and the sound port's. Raises ParityError where the latter does not pass."""
    folder = bench.checkpoint(trial.case.checkpoint)
    material = write_material(trial.case.rows, trial.case.padding_side)
    front = reference_front(trial.name, material, bench.processor(folder, "float32"), read_config(folder))
    check_sound(trial, _result(front, bench.port_front(folder)))
    return PreparedFront(trial, bench, folder, front, front_traits(trial, front))


def try_front(mutant: Mutant, ready: PreparedFront) -> Outcome:
    """Plant a mutant, process the trial's media and prompts, and take it out again."""
    nothing = Outcome(mutant.id, ready.trial.name, "not applicable", expected=False)
    if not mutant.front:
        return nothing
    outcome = replace(nothing, state="survived", expected=mutant.needs <= ready.traits)
    try:
        with mutant.plant():
            # Loaded anew: some mistakes are made while the configs are read.
            subject = ready.bench.port_front(ready.folder)
            first = located(outcome, mutant, _result(ready.front, subject, alone=False))
            if first.state == "at seam":
                return first
            result = _result(ready.front, subject)
    except PortError as refused:
        return replace(outcome, state="elsewhere", seam=LOADING, step=LOADING, error=str(refused))
    exact = all(finding.mismatches == 0 for finding in result.findings)
    return located(replace(outcome, worst=worst_ratio(result), identical=exact), mutant, result)


def _result(front: Front, subject: FrontEnd, *, alone: bool = True) -> RunResult:
    found = judge_front(front, subject, alone=alone)
    return RunResult(found.findings, judge(found.findings, subject_error=found.error), DEFAULT_GATE, found.error)
