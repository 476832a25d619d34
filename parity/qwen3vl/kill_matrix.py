"""Mutants against trials: which mistakes the gates catch, on which inputs, and whether at the right seam.

A trial's yardstick is measured once, and the sound port is run on it once. A mutant's readings that equal the sound
port's bit for bit need no judging, and a run stops when nothing can come earlier than the divergence that it found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from parity.core.compare import Comparison, Finding
from parity.core.errors import ParityError
from parity.core.gates import DEFAULT_GATE, FloatGate
from parity.core.trace import SeamKey
from parity.core.verdict import judge
from parity.dtypes import DTYPES
from parity.qwen3vl.engines import PortEngine, Session, TensorMap, run_steps
from parity.qwen3vl.front_matrix import prepare_front, try_front
from parity.qwen3vl.inputs import CaseInputs
from parity.qwen3vl.mutants.base import LOADING, Mutant
from parity.qwen3vl.mutants.trials import Trial, traits
from parity.qwen3vl.outcomes import Outcome, State, check_sound, located, worst_ratio
from parity.qwen3vl.recorder import Recorder
from parity.qwen3vl.run import RunResult, run_subject
from parity.qwen3vl.weights_check import check_weights
from parity.qwen3vl.workbench import Workbench
from parity.qwen3vl.yardstick import Yardstick, measure_yardstick
from port import PortError, Qwen3VL, listening, load_model
from reference.model import ReferenceModel

Fate = Literal["caught", "survived", "invisible", "not exposed"]
_OTHER_STEPS = 2  # decode steps of the requests that disturb the traced one


@dataclass(frozen=True)
class Line:
    """One mutant over all trials."""

    mutant: Mutant
    fate: Fate
    outcomes: tuple[Outcome, ...]

    @property
    def caught_by(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.caught]

    @property
    def localised(self) -> bool:
        """Caught, and at the planted seam by every trial that caught it."""
        return bool(self.caught_by) and all(outcome.state == "at seam" for outcome in self.caught_by)

    @property
    def missed_by(self) -> list[Outcome]:
        """Trials that have what the mistake needs, and let it through."""
        return [outcome for outcome in self.outcomes if outcome.expected and not outcome.caught]


@dataclass(frozen=True)
class Matrix:
    """``trials`` maps each trial to its forwards."""

    dtype: str
    trials: dict[str, int]
    lines: tuple[Line, ...]

    def of(self, *fates: Fate) -> list[Line]:
        return [line for line in self.lines if line.fate in fates]

    @property
    def kill_rate(self) -> float:
        """Caught mutants among those that must be caught in this dtype."""
        due = self.of("caught", "survived", "not exposed")
        return len(self.of("caught")) / len(due) if due else 0.0

    @property
    def localisation_rate(self) -> float:
        caught = self.of("caught")
        return sum(line.localised for line in caught) / len(caught) if caught else 0.0

    @property
    def proven(self) -> bool:
        """Every mutant that changes the function in this dtype was caught, and there were any."""
        return bool(self.of("caught")) and not self.of("survived", "not exposed")


class _Enough(Exception):
    """Nothing that is still to come can be earlier than the divergence that was found."""


class _Judging:
    """Judges the readings that differ from the sound port's; raises _Enough when the first divergence is known."""

    def __init__(self, ready: Prepared) -> None:
        _, yardstick = ready.request
        self._comparison = Comparison(yardstick.trace, yardstick.floors, DEFAULT_GATE)
        self._sound = ready.sound
        self._order = {key: at for at, key in enumerate(ready.sound)}
        self._waiting = set(self._order)  # expected readings that have not been given
        self._first = len(self._order) + 1  # place of the first divergence so far; readings after it don't matter
        self.judged: dict[SeamKey, Finding] = {}

    def __call__(self, key: SeamKey, array: np.ndarray) -> None:
        self._waiting.discard(key)
        known = self._sound.get(key)
        at = self._order.get(key, len(self._order))
        if at < self._first and not (known is not None and _same_bits(array, known.array)):
            finding = self.judged[key] = self._comparison.judge(key, array)
            if known is not None and not finding.passed:
                self._first = at
        if self._first < len(self._order) and all(self._order[key] > self._first for key in self._waiting):
            raise _Enough

    def findings(self, why_missing: str) -> list[Finding]:
        """Those of the sound port, but for what was judged and what is missing; then what is unexpected."""
        found = [
            Finding(reading.finding.entry, "missing", why_missing)
            if key in self._waiting
            else self.judged.get(key, reading.finding)
            for key, reading in self._sound.items()
        ]
        return found + [finding for key, finding in self.judged.items() if key not in self._sound]


@dataclass(frozen=True)
class SoundReading:
    """One reading of the sound port, with its finding."""

    array: np.ndarray
    finding: Finding


@dataclass
class Prepared:
    """A trial with all that its mutants share; ``inputs`` and what goes with them are None for a weights check."""

    trial: Trial
    folder: Path
    dtype: str
    reference: ReferenceModel
    traits: frozenset[str]
    model: Qwen3VL
    inputs: CaseInputs | None = None
    yardstick: Yardstick | None = None
    before: Sequence[TensorMap] = ()
    between: Sequence[TensorMap] = ()
    sound: dict[SeamKey, SoundReading] = field(default_factory=dict)

    @property
    def request(self) -> tuple[CaseInputs, Yardstick]:
        """What a forward trial runs on."""
        if self.inputs is None or self.yardstick is None:
            raise ParityError(f"{self.trial.name} checks weights; there is no request to run")
        return self.inputs, self.yardstick

    @property
    def forwards(self) -> int:
        """Forward passes of the subject in one run of this trial."""
        if self.inputs is None:
            return 1
        others = (len(self.before) + len(self.between)) * (_OTHER_STEPS + 1)
        return self.inputs.decode_steps + self.inputs.chunks + others


class _Disturbed(PortEngine):
    """The port, serving other requests before a request and between its prefill and its first decode step."""

    def __init__(self, model: Qwen3VL, ready: Prepared) -> None:
        super().__init__(model, chunk=ready.trial.case.chunk)
        self._ready = ready

    def session(self, inputs: TensorMap, *, steps: int) -> Session:
        self._serve(self._ready.before)
        return _Interrupted(super().session(inputs, steps=steps), lambda: self._serve(self._ready.between))

    def _serve(self, requests: Sequence[TensorMap]) -> None:
        with listening(lambda _name, tensor: tensor):  # the listener of the traced request must not hear them
            for inputs in requests:
                with suppress(Exception):  # what breaks on them too is judged on the traced request
                    run_steps(super().session(inputs, steps=_OTHER_STEPS), inputs, None, steps=_OTHER_STEPS)


class _Interrupted:
    """A session with something in between its prefill and its first decode step."""

    def __init__(self, session: Session, between: Callable[[], None]) -> None:
        self._session = session
        self._between: Callable[[], None] | None = between

    def prefill(self) -> Tensor:
        return self._session.prefill()

    def decode(self, token_ids: Tensor) -> Tensor:
        if self._between is not None:
            self._between()
            self._between = None
        return self._session.decode(token_ids)


def prepare(trial: Trial, bench: Workbench, *, dtype: str) -> Prepared:
    """Measure the trial's yardstick and run the sound port on it. Raises ParityError where that does not pass."""
    case = trial.case
    folder = bench.checkpoint(case.checkpoint)
    if case.check == "weights":
        ready = Prepared(
            trial,
            folder,
            dtype,
            bench.reference(folder, "float32"),
            traits(trial, None, None),
            bench.port(folder, "float32"),
        )
        check_sound(trial, check_weights(folder, case.checkpoint.dtype, ready.reference))
        return ready
    reference = bench.reference(bench.for_reference(case.checkpoint), dtype)
    inputs = bench.inputs(case, folder, dtype)
    yardstick = measure_yardstick(inputs, reference, progress=lambda _what: None)
    ready = Prepared(
        trial,
        folder,
        dtype,
        reference,
        traits(trial, inputs, yardstick.trace),
        load_model(folder, dtype=DTYPES[dtype]),
        inputs,
        yardstick,
        [bench.inputs(other, folder, dtype).tensors for other in trial.before],
        [bench.inputs(other, folder, dtype).tensors for other in trial.between],
    )
    ready.sound = _sound_readings(ready)
    return ready


def _sound_readings(ready: Prepared) -> dict[SeamKey, SoundReading]:
    inputs, yardstick = ready.request
    comparison = Comparison(yardstick.trace, yardstick.floors, DEFAULT_GATE)
    readings: dict[SeamKey, SoundReading] = {}

    def keep(key: SeamKey, array: np.ndarray) -> None:
        readings[key] = SoundReading(array, comparison.judge(key, array))

    _run(ready, ready.model, keep)
    check_sound(ready.trial, RunResult(comparison.findings(), judge(comparison.findings()), DEFAULT_GATE))
    return {item.key: readings[item.key] for item in inputs.expected}


def _run(ready: Prepared, model: Qwen3VL, on_reading: Callable[[SeamKey, np.ndarray], object]) -> None:
    inputs, yardstick = ready.request
    sink = Recorder(inputs.expected, on_reading, chunks=inputs.chunks)
    _Disturbed(model, ready).trace(inputs.tensors, yardstick.tokens, steps=inputs.decode_steps, sink=sink)


def try_mutant(mutant: Mutant, ready: Prepared) -> Outcome:
    """Plant a mutant, run it on a prepared trial and take it out again."""
    expected = mutant.needs <= ready.traits and ready.dtype in mutant.dtypes
    nothing = Outcome(mutant.id, ready.trial.name, "not applicable", expected=False)
    if mutant.front or ("weights" in mutant.needs) != (ready.inputs is None):
        return nothing
    outcome = replace(nothing, state="survived", expected=expected)
    if ready.inputs is None or ready.yardstick is None:
        with mutant.plant():
            result = check_weights(ready.folder, ready.trial.case.checkpoint.dtype, ready.reference)
        return located(outcome, mutant, result)
    try:
        with mutant.plant():
            model = load_model(ready.folder, dtype=DTYPES[ready.dtype]) if mutant.loads else ready.model
            outcome = _judged_run(outcome, mutant, ready, model)
    except PortError as refused:
        state: State = "at seam" if mutant.is_at(LOADING, LOADING) else "elsewhere"
        return replace(outcome, state=state, seam=LOADING, step=LOADING, error=str(refused))
    if outcome.state == "at seam" or outcome.identical or outcome.error is not None:
        return outcome
    # The reading of each part alone has narrower gates and knows where a fault starts. Planted anew: fresh state.
    with mutant.plant():
        subject = _Disturbed(model, ready)
        result = run_subject(ready.inputs, subject, ready.yardstick, progress=lambda _what: None)
    outcome = located(
        replace(outcome, state="survived", seam=None, step=None, worst=worst_ratio(result)), mutant, result
    )
    return outcome if outcome.caught else replace(outcome, floors=_floors_off(mutant, ready, model))


def _floors_off(mutant: Mutant, ready: Prepared, model: Qwen3VL) -> float:
    """How far the planted seam lies off, read alone, against a gate of the floor itself and one ulp."""
    inputs, yardstick = ready.request
    comparison = Comparison(yardstick.trace, yardstick.isolated_floors, FloatGate(m=1.0, ulps=1.0))
    found: list[float] = []

    def on_reading(key: SeamKey, array: np.ndarray) -> None:
        entry = yardstick.trace.entries().get(key)
        if entry is not None and mutant.is_at(key.name, entry.step):
            found.append(comparison.judge(key, array).ratio or 0.0)

    sink = Recorder(inputs.expected, on_reading, chunks=inputs.chunks, instead=yardstick.trace)
    with mutant.plant():
        _Disturbed(model, ready).trace(inputs.tensors, yardstick.tokens, steps=inputs.decode_steps, sink=sink)
    return max(found, default=math.inf)  # no reading of the planted seam proves nothing


def _judged_run(outcome: Outcome, mutant: Mutant, ready: Prepared, model: Qwen3VL) -> Outcome:
    judging, error = _Judging(ready), None
    try:
        _run(ready, model, judging)
    except _Enough:
        pass
    except Exception as raised:  # a mutant may break in any way
        error = f"{type(raised).__name__}: {raised}"
    findings = judging.findings("the mutant did not give this seam" if error is None else error)
    result = RunResult(findings, judge(findings, subject_error=error), DEFAULT_GATE, error)
    outcome = located(outcome, mutant, result)
    if outcome.state == "survived":
        outcome = replace(outcome, worst=0.0, identical=not judging.judged)
    return outcome


def kill_matrix(
    mutants: Sequence[Mutant],
    trials: Sequence[Trial],
    bench: Workbench,
    *,
    dtype: str,
    progress: Callable[[str], None] = lambda _what: None,
) -> Matrix:
    """Try every mutant on every trial. Raises ParityError where the sound port itself does not pass a trial."""
    outcomes: dict[str, list[Outcome]] = {mutant.id: [] for mutant in mutants}
    forwards: dict[str, int] = {}
    with _one_thread():
        for trial in trials:
            progress(f"{trial.name}: yardstick")
            attempt: Callable[[Mutant], Outcome]
            if trial.front:
                attempt, forwards[trial.name] = partial(try_front, ready=prepare_front(trial, bench)), 0
            else:
                ready = prepare(trial, bench, dtype=dtype)
                attempt, forwards[trial.name] = partial(try_mutant, ready=ready), ready.forwards
            for mutant in mutants:
                progress(f"{trial.name}: {mutant.id}")
                outcomes[mutant.id].append(attempt(mutant))
    lines = [Line(mutant, fate(mutant, outcomes[mutant.id], dtype), tuple(outcomes[mutant.id])) for mutant in mutants]
    return Matrix(dtype, forwards, tuple(lines))


def fate(mutant: Mutant, outcomes: Sequence[Outcome], dtype: str) -> Fate:
    """Caught by any trial; else a survivor, unless it cannot show in this dtype or on these trials.

    Being called invisible is not enough: what lies off by more than its floor on any trial has survived.
    """
    if any(outcome.caught for outcome in outcomes):
        return "caught"
    if dtype not in mutant.dtypes:
        return "invisible" if all(outcome.is_noise for outcome in outcomes) else "survived"
    return "survived" if any(outcome.expected for outcome in outcomes) else "not exposed"


def smallest_cover(matrix: Matrix) -> list[str]:
    """Few trials that catch all that any trial catches: greedily the one that adds most, then the cheapest."""
    left = {line.mutant.id: {outcome.trial for outcome in line.caught_by} for line in matrix.of("caught")}
    cover: list[str] = []
    while left:
        best = max(matrix.trials, key=lambda trial: (sum(trial in by for by in left.values()), -matrix.trials[trial]))
        cover.append(best)
        left = {mutant: by for mutant, by in left.items() if best not in by}
    return cover


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and bits are then the same from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
