"""Plants known mistakes in a port with other kernels, and diagnoses what it gives on one case. See ``rates``."""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.bundles.bundle import Bundle, BundleCase
from parity.bundles.checks import check_stage
from parity.core.errors import ParityError
from parity.core.trace import Description, MemoryTrace, SeamKey, Trace
from parity.core.values import ValuesTrace
from parity.diagnosis.differences import HYPOTHESES
from parity.diagnosis.evidence import Evidence, TraceEvidence, only
from parity.diagnosis.logprobs import LogprobEvidence, likeliest
from parity.diagnosis.planted import GENERATION, MODEL, PROCESSOR, Enough, OnValue, PlantedRuns
from parity.diagnosis.search import Found, Search
from parity.kernels.registry import make_kernels
from parity.mutants.base import Mutant
from parity.seams.promise import promise
from parity.seams.spec import Expected
from parity.workers import state
from parity.workers.base import Task

FULL, COARSE, BLACK_BOX = "full", "coarse", "black box"
# The stages that each kind of evidence is given of.
STAGES = {FULL: (PROCESSOR, MODEL, GENERATION), COARSE: (MODEL,), BLACK_BOX: (MODEL,)}


@dataclass(frozen=True)
class Trial:
    """One mistake, diagnosed from one kind of evidence. It is empty for a correct subject.

    ``named`` are the hypotheses that explain it, the nearest first; ``without`` those that are left when the right one
    is taken out; ``pairs`` those that are named then if two mistakes are planted together as well, None if that was not
    tried. ``diverged``: the evidence shows that something is wrong.
    """

    case: str
    stage: str
    mutant: str
    kind: str
    diverged: bool
    named: Sequence[str] = ()
    without: Sequence[str] = ()
    runs: float = 0.0
    pairs: Sequence[str] | None = None

    @property
    def right(self) -> bool:
        return self.mutant in self.named

    @property
    def first(self) -> bool:
        return bool(self.named) and self.named[0] == self.mutant

    @property
    def top_3(self) -> bool:
        return self.mutant in self.named[:3]

    @property
    def none(self) -> bool:
        """Nothing is named without the right one."""
        return not self.without

    @property
    def none_or_same(self) -> bool:
        """Nothing is named without the right one but what the evidence cannot tell from it."""
        return set(self.without) <= set(self.named)

    def line(self) -> str:
        """Return it in words."""
        if not self.diverged:
            return f"{self.case}, {self.stage}, {self.kind}: {self.mutant}: not shown"
        named = " or ".join(self.named[:4]) or "none"
        without = " or ".join(self.without[:4]) or "none"
        mark = "right" if self.right else "WRONG" if self.named else "missed"
        pairs = "" if self.pairs is None else f"; with pairs: {' or '.join(self.pairs[:4]) or 'none'}"
        text = f"{self.case}, {self.stage}, {self.kind}: {self.mutant}: {mark}: {named}; without it: {without}{pairs}"
        return f"{text}; {self.runs:.1f} runs"


def measure(task: Task) -> list[dict[str, Any]]:
    """Do the trials of one case, stage and kind of evidence, in whatever process this is called. Returns them as data.

    The mistakes come in an order that ``seed`` gives, until ``minutes`` are over. For the first ``pairs`` mistakes that
    a black box shows, two mistakes are tried together as well.
    """
    torch.set_num_threads(1)
    case = Bundle(Path(task["bundle"])).cases[task["case"]]
    stage, kind = task["stage"], task["kind"]
    stages = (PROCESSOR, MODEL) if kind == BLACK_BOX else (stage,)
    planted = [mutant for mutant in HYPOTHESES if mutant.stage in stages and mutant.id in task["mutants"]]
    random.Random(task["seed"]).shuffle(planted)
    until = time.monotonic() + 60 * task["minutes"]
    found = [_sound(case, stage, kind)]
    for trial in trials(case, stage, kind, planted, until=until, pairs=task["pairs"]):
        found.append(trial)
        state.say(trial.line())
    return [asdict(trial) for trial in found]


@dataclass
class _Kept:
    """Runs of which the values of coarse traces are kept."""

    runs: PlantedRuns
    wanted: frozenset[SeamKey]
    _held: OrderedDict[tuple[tuple[str, ...], str], dict[SeamKey, np.ndarray]] = field(default_factory=OrderedDict)

    def expected(self, stage: str) -> list[Expected]:
        return self.runs.expected(stage)

    def shows(self, mutant: Mutant) -> bool:
        return self.runs.shows(mutant)

    def spread(self, mutants: Sequence[Mutant], stage: str) -> Mapping[SeamKey, float]:
        return self.runs.spread(mutants, stage)

    def run(self, mutants: Sequence[Mutant], stage: str, on_value: OnValue) -> str | None:
        if len(mutants) > 1:
            return self.runs.run(mutants, stage, on_value)
        ids = (tuple(mutant.id for mutant in mutants), stage)
        if ids not in self._held:
            values: dict[SeamKey, np.ndarray] = {}

            def keep(key: SeamKey, array: np.ndarray) -> None:
                if key in self.wanted:
                    values[key] = array

            self.runs.run(mutants, stage, keep)
            self._held[ids] = values
        try:
            for key, array in self._held[ids].items():
                on_value(key, array)
        except Enough:
            pass
        return None


def trials(
    case: BundleCase, stage: str, kind: str, mutants: Sequence[Mutant], *, until: float = float("inf"), pairs: int = 0
) -> Iterator[Trial]:
    """Diagnose every mistake on a case, until a time (``time.monotonic``). See ``measure``."""
    given = _Given(case, stage, kind)
    for mutant in mutants:
        if time.monotonic() > until:
            return
        evidence = given.evidence(given.runs.values((mutant,), stage, kernels=make_kernels("split")))
        given.runs.forget_media()
        before = given.runs.cost.runs
        search = Search(evidence, stage, given.searched)
        if search.first is None:
            yield Trial(case.name, stage, mutant.id, kind, False)
            continue
        others = [other for other in HYPOTHESES if other is not mutant]
        named = _names(search(HYPOTHESES, second=kind != BLACK_BOX))
        cost = given.runs.cost.runs - before if kind == FULL else 0.0
        without = _names(search(others, second=kind != BLACK_BOX))
        together = None
        if pairs and kind == BLACK_BOX and not without:
            pairs -= 1
            together = _names(search(others, beside=True))
        yield Trial(case.name, stage, mutant.id, kind, True, named, without, cost, together)


def _sound(case: BundleCase, stage: str, kind: str) -> Trial:
    """Diagnose the port without a mistake, with other kernels. Nothing may be named. Raises ParityError if it fails."""
    given = _Given(case, stage, kind)
    values: dict[SeamKey, np.ndarray] = {}
    error = given.runs.run((), stage, values.__setitem__, kernels=make_kernels("split"))
    if error is not None:
        raise ParityError(f"{case.name}, {stage}: the port fails with other kernels and no mistake: {error}")
    search = Search(given.evidence(values), stage, given.runs)
    named = [] if search.first is None else _names(search(HYPOTHESES))
    return Trial(case.name, stage, "", kind, search.first is not None, named)


class _Given:
    """What a subject gives of a stage, and the runs that its evidence is compared with."""

    def __init__(self, case: BundleCase, stage: str, kind: str) -> None:
        own = case.record["checkpoint"]["folder"]
        assert own is not None
        self._kind = kind
        self.runs = PlantedRuns(case, case.folder / own, dtype="float32")
        stored, self._floors = check_stage(case, stage, "float32")
        self._reference = self._floors.yardstick = in_memory(stored)
        self._coarse = frozenset(promise("coarse").keys(stored.entries()))
        self.searched = self.runs if kind == FULL else _Kept(self.runs, self._coarse)

    def evidence(self, values: Mapping[SeamKey, np.ndarray]) -> Evidence:
        """Return what is seen of a run's values."""
        if self._kind == BLACK_BOX:
            return LogprobEvidence(likeliest(values, self._reference), self._reference, self._floors)
        subject = ValuesTrace(Description("port with a mistake", "", "float32", "case"), values)
        whole = TraceEvidence(subject, self._reference, self._floors)
        return whole if self._kind == FULL else only(whole, list(self._coarse))


def in_memory(trace: Trace) -> MemoryTrace:
    held = MemoryTrace(trace.description)
    for entry in trace:
        held.add(entry, trace.read(entry.key))
    for key in {entry.rows for entry in trace if entry.rows is not None}:
        held.add_labels(key, trace.labels(key))
    return held


def _names(found: Found) -> list[str]:
    return ["+".join(mutant.id for mutant in trial.mutants) for trial in found.explanations]
