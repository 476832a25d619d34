"""One mutant on one case: it is planted, run, judged and taken out again.

The yardstick of a case and the correct port's run are computed once. A mutant's values that equal the correct port's
bit for bit are not judged again, and a run stops once no earlier divergence than the one found is possible.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from parity.cases.case import Case
from parity.core.compare import Comparison, Finding
from parity.core.errors import ParityError
from parity.core.gates import FloatGate
from parity.core.trace import SeamKey
from parity.core.verdict import Verdict, judge
from parity.engines.base import Engine
from parity.engines.busy import BusyPortEngine
from parity.engines.calls import PortCalls
from parity.engines.dtypes import DTYPES
from parity.engines.generation import PortGeneration
from parity.engines.port import PortWeights
from parity.engines.refusals import PortRefusals, bad_inputs
from parity.mutants.base import LOADING, Mutant
from parity.mutants.outcomes import Outcome, State, located, worst_ratio
from parity.runs.case_run import Result, prepare_stages
from parity.runs.loader import Loader, plain_config
from parity.runs.stages.generation_stage import GenerationStage
from parity.runs.stages.stage import Stage, attempt, judge_stage
from parity.runs.traits.traits import traits
from port import PortError, Qwen3VL, load_model

_FORWARDS_BEFORE = 3  # a prefill and two decode steps of each request before the case


class BrokenPort(ParityError):
    """The port fails a case without any mutant, so that no mutant can be judged on it."""


@dataclass(frozen=True)
class CorrectValue:
    """One value of the correct port, with its finding."""

    array: np.ndarray
    finding: Finding


@dataclass
class Prepared:
    """A case's last stage with everything that its mutants share.

    ``subject(anew)`` gives the port as the engine of the stage; with ``anew`` it loads weights and configs again, so
    that mistakes in loading take effect. ``forwards`` is the number of forward passes of the model in one run.
    """

    case: Case
    dtype: str
    stage: Stage[Any]
    traits: frozenset[str]
    subject: Callable[[bool], Engine]
    forwards: int
    correct: dict[SeamKey, CorrectValue] = field(default_factory=dict)


def prepare(case: Case, loader: Loader, *, dtype: str) -> Prepared:
    """Measure the case's yardstick and run the correct port on it. Raises BrokenPort if the port does not pass."""
    folder = loader.checkpoint(case.checkpoint)
    inputs, stages = prepare_stages(case, loader, dtype=dtype, folder=folder, own=True, config=plain_config(folder))
    stage = stages[-1]
    models: list[Qwen3VL] = []  # the correct one, loaded once
    others = loader.other_requests(case, folder)

    def subject(anew: bool) -> Engine:
        if stage.name == "processor":  # some mistakes are made while its configs are read
            return loader.port_processor(folder, case)
        if stage.name == "weights":  # loads anew when it runs
            own = case.checkpoint.dtype
            return PortWeights(lambda: load_model(folder, dtype=DTYPES[own]), own)
        if stage.name == "refusals":
            return PortRefusals(folder, bad_inputs(case))
        model = load_model(folder, dtype=DTYPES[dtype]) if anew or not models else models[0]
        if not anew:
            models[:] = [model]
        if stage.name == "generation":
            return PortGeneration(model, loader.port_processor(folder).processor, others, chunk=case.chunk)
        if stage.name == "calls":
            return PortCalls(model)
        return BusyPortEngine(model, others, chunk=case.chunk)

    forwards = 1 if stage.name == "weights" else 0
    if stage.name == "model" and inputs is not None:
        between = len(case.between) * (1 + case.decode_steps)
        forwards = case.decode_steps + inputs.chunks + _FORWARDS_BEFORE * len(case.before) + between
    if isinstance(stage, GenerationStage):
        forwards = sum(len(each.tokens) for each in stage.planned)
    ready = Prepared(case, dtype, stage, traits(case, stage, inputs), subject, forwards)
    ready.correct = _correct_values(ready)
    return ready


def _correct_values(ready: Prepared) -> dict[SeamKey, CorrectValue]:
    stage = ready.stage
    comparison = Comparison(stage.yardstick.trace, stage.yardstick.floors, stage.yardstick.gate)
    values: dict[SeamKey, CorrectValue] = {}

    def keep(key: SeamKey, array: np.ndarray) -> None:
        values[key] = CorrectValue(array, comparison.judge(key, array))

    try:
        error = attempt(stage, ready.subject(False), stage.recorder(keep))
    except (ParityError, OSError, MemoryError):
        raise
    except Exception as raised:  # a port may fail in any way while it loads
        error = f"{type(raised).__name__}: {raised}"
    judgement = judge(comparison.findings(), subject_error=error)
    if judgement.verdict is not Verdict.PARITY:
        raise BrokenPort(
            f"the port without a mistake does not pass {ready.case.name}: {judgement.reason}; "
            "mutants can only be judged against a correct port, so fix the port first"
        )
    return {item.key: values[item.key] for item in stage.expected}


def try_mutant(mutant: Mutant, ready: Prepared) -> Outcome:
    """Plant a mutant, run it on a prepared case and take it out again."""
    outcome = Outcome(mutant.id, ready.case.name, "not applicable", expected=False)
    if mutant.stage != ready.stage.name:
        return outcome
    expected = mutant.needs <= ready.traits and (ready.stage.name != "model" or ready.dtype in mutant.dtypes)
    outcome = replace(outcome, state="survived", expected=expected)
    try:
        with mutant.plant():
            subject = ready.subject(mutant.loads)
            outcome = _judged_run(outcome, mutant, ready, subject)
    except PortError as refused:
        state: State = "at seam" if mutant.is_at(LOADING, LOADING) else "elsewhere"
        return replace(outcome, state=state, seam=LOADING, step=LOADING, error=str(refused))
    decided = outcome.state == "at seam" or outcome.identical or outcome.error is not None
    if decided or ready.stage.yardstick.isolated_floors is None:
        return outcome
    # The isolated comparison has narrower gates and shows where a mistake starts. Plant again for fresh state.
    with mutant.plant():
        result = Result.of([judge_stage(ready.stage, subject)])
    outcome = replace(outcome, state="survived", seam=None, step=None, worst=worst_ratio(result))
    outcome = located(outcome, mutant, result)
    return outcome if outcome.caught else replace(outcome, floors=_floors_off(mutant, ready, subject))


def _judged_run(outcome: Outcome, mutant: Mutant, ready: Prepared, subject: Engine) -> Outcome:
    judging, error = _Judging(ready), None
    try:
        ready.stage.run(subject, ready.stage.recorder(judging))
    except _Enough:
        pass
    except Exception as raised:  # a mutant may fail in any way
        error = f"{type(raised).__name__}: {raised}"
    findings = judging.findings("the mutant did not reach this seam" if error is None else error)
    result = Result(findings, judge(findings, subject_error=error), error)
    outcome = located(outcome, mutant, result)
    if outcome.state == "survived":
        outcome = replace(outcome, worst=0.0, identical=not judging.judged)
    return outcome


def _floors_off(mutant: Mutant, ready: Prepared, subject: Engine) -> float:
    """The largest ratio of the planted seam in the isolated comparison, with a gate of one floor and one ulp."""
    yardstick = ready.stage.yardstick
    assert yardstick.isolated_floors is not None
    comparison = Comparison(yardstick.trace, yardstick.isolated_floors, FloatGate(m=1.0, ulps=1.0))
    found: list[float] = []

    def on_value(key: SeamKey, array: np.ndarray) -> None:
        entry = yardstick.trace.entries().get(key)
        if entry is not None and mutant.is_at(key.name, entry.step):
            finding = comparison.judge(key, array)
            found.append(finding.ratio if finding.ratio is not None else 0.0 if finding.passed else math.inf)

    with mutant.plant():
        ready.stage.run(subject, ready.stage.recorder(on_value, isolated=True))
    return max(found, default=math.inf)  # without a value of the planted seam nothing is shown


class _Enough(Exception):
    """The first divergence is known: every value that is still to come is after it."""


class _Judging:
    """Judges the values that differ from the correct port's; raises _Enough when the first divergence is known."""

    def __init__(self, ready: Prepared) -> None:
        yardstick = ready.stage.yardstick
        self._comparison = Comparison(yardstick.trace, yardstick.floors, yardstick.gate)
        self._correct = ready.correct
        self._order = {key: at for at, key in enumerate(ready.correct)}
        self._waiting = set(self._order)  # expected values that have not come yet
        self._first = len(self._order) + 1  # place of the first divergence so far; values after it don't matter
        self.judged: dict[SeamKey, Finding] = {}

    def __call__(self, key: SeamKey, array: np.ndarray) -> None:
        self._waiting.discard(key)
        known = self._correct.get(key)
        at = self._order.get(key, len(self._order))
        if at < self._first and not (known is not None and _same_bits(array, known.array)):
            finding = self.judged[key] = self._comparison.judge(key, array)
            if known is not None and not finding.passed:
                self._first = at
        if self._first < len(self._order) and all(self._order[key] > self._first for key in self._waiting):
            raise _Enough

    def findings(self, why_missing: str) -> list[Finding]:
        """One finding per expected value (judged, missing or the correct port's), then those of unexpected values."""
        found = [
            Finding(value.finding.entry, "missing", why_missing)
            if key in self._waiting
            else self.judged.get(key, value.finding)
            for key, value in self._correct.items()
        ]
        return found + [finding for key, finding in self.judged.items() if key not in self._correct]


def _same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
