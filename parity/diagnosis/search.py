"""Finds the known mistakes that explain what a subject gave.

Each known mistake is a hypothesis. The port runs with the mistake planted, and its values are compared with the
subject's while they are made. A hypothesis explains the evidence only if every value that the subject gave is within
the gate of the hypothesis' value: at the first divergence, before it and after it. It is dropped at the first value
that is not. If a mistake explains the first divergence but not what comes later, it is planted together with a second
one. What explains a part only is never called the cause.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Protocol

import numpy as np

from parity.core.trace import SeamKey
from parity.diagnosis.evidence import APART, Evidence, Residue, failing_rows, first_failing
from parity.diagnosis.planted import Enough, OnValue
from parity.mutants.base import Mutant, seam_pattern
from parity.seams.spec import Expected

_SECOND = 3  # mistakes that are tried together with a second one
_PAIRS = 36  # pairs of mistakes that are tried in all
_MEASURED = 3  # mistakes whose own rounding is measured
_CLOSE = 0.25  # a mistake is close if it leaves at most a quarter of what is wrong
_SLIGHTLY = 2.0  # or a ratio that is not far above 1
_SURELY = 0.5  # of the gate may be left by two mistakes that explain a black box: there are many pairs
_LEFT = 0.5  # of what is wrong may be left by an explanation
_CLASS = 4.0  # an explanation that leaves this many times as much as the best one is dropped
_NOISE = 0.05  # a ratio below which two explanations are equally good
_CHAIN = 4  # mistakes that are planted together at most, to see how much known ones take away
# Each of them leaves at most so much of what the others leave. A change that has nothing to do with what is left would
# have to point the same way as it by chance, over all log-probabilities of the case.
_STEP = 0.7
_REACH = 1.7  # a mistake that moves more than so many times what is left cannot do that
_NEAR = 0.5  # a mistake is near if it takes away at least half of the first divergence
# A mistake in the model shows in generation at the logits; all that follows goes on with the reference's.
_MADE_BY_THE_MODEL = "generation.logits"
# The seams of the model that a mistake in the processor changes first.
_FED = ("input_ids", "attention_mask", "image_pixels", "image_grid_thw", "video_pixels", "video_grid_thw")


class Runs(Protocol):
    """Runs the port with mistakes planted, see ``planted.PlantedRuns``."""

    def expected(self, stage: str) -> list[Expected]: ...

    def shows(self, mutant: Mutant) -> bool: ...

    def run(self, mutants: Sequence[Mutant], stage: str, on_value: OnValue) -> str | None: ...

    def spread(self, mutants: Sequence[Mutant], stage: str) -> Mapping[SeamKey, float]: ...


@dataclass(frozen=True)
class Trial:
    """One hypothesis, tried. ``stopped`` is the first value that it does not explain, None if it explains all.

    ``at_first`` is the residue at the first divergence; None if the run did not come so far. ``residues`` are those of
    every value up to where it stopped.
    """

    mutants: tuple[Mutant, ...]
    residues: Mapping[SeamKey, Residue]
    at_first: Residue | None
    stopped: SeamKey | None
    error: str | None = None

    @property
    def explains(self) -> bool:
        return self.stopped is None

    @property
    def worst(self) -> float:
        """The largest ratio of any value."""
        return max((residue.ratio for residue in self.residues.values()), default=math.inf)

    @property
    def typical(self) -> float:
        """The mean ratio of all values. Of two that explain the evidence, the nearer one has the smaller mean."""
        ratios = [residue.ratio for residue in self.residues.values()]
        return float(np.mean(ratios)) if ratios else math.inf


@dataclass(frozen=True)
class Found:
    """The result of a search.

    ``explanations`` explain all evidence and cannot be told apart by it; the nearest is first. ``nearest`` is the
    hypothesis that explains most of the first divergence, if none explains all.
    """

    stage: str
    first: SeamKey | None
    hypotheses: int
    tried: tuple[str, ...] = ()
    explanations: tuple[Trial, ...] = ()
    nearest: Trial | None = None
    trials: tuple[Trial, ...] = field(default=(), repr=False)


class Search:
    """Searches libraries of mistakes for those that explain the evidence of one stage. What was tried is kept."""

    def __init__(self, evidence: Evidence, stage: str, runs: Runs) -> None:
        self.evidence, self.stage, self.runs = evidence, stage, runs
        self.first = first_failing(evidence)
        self._tried: dict[tuple[str, ...], Trial] = {}
        self._spreads: dict[tuple[str, ...], Mapping[SeamKey, float]] = {}

    def __call__(self, library: Sequence[Mutant], *, second: bool = True, beside: bool = False) -> Found:
        """Search a library. With ``second``, also for a second mistake where one alone does not explain all.

        With ``beside``, the second one may be any: a black box does not show where the first one stops explaining.
        """
        if self.first is None:
            return Found(self.stage, None, len(library))
        passed = frozenset(key for key, residue in self.evidence.before.items() if residue.passed)
        possible = self._plausible(self.first, passed, library)
        trials: list[Trial] = []
        explanations: list[Trial] = []
        for group in self._by_traits(possible):
            if not explanations:
                trials += self._each([(mutant,) for mutant in group], self.first)
                explanations = [trial for trial in trials if trial.explains]
        if not explanations and (second or beside):
            seconds = self._beside_the_nearest(trials) if beside else self._with_a_second(library, trials)
            trials += seconds
            explanations = [trial for trial in seconds if trial.explains and (not beside or trial.worst <= _SURELY)]
        return Found(
            self.stage,
            self.first,
            len(library),
            tuple(dict.fromkeys(mutant.id for trial in trials for mutant in trial.mutants)),
            _best(explanations),
            None if explanations else _nearest(self.evidence, trials, self.first),
            tuple(trials),
        )

    def whole(self, mutants: tuple[Mutant, ...]) -> Trial:
        """Try mistakes to the end of the run, whatever the values show."""
        assert self.first is not None
        spread = self._spreads.get(_ids(mutants), {})
        return attempt(self.evidence, self.stage, self.runs, mutants, self.first, spread=spread, whole=True)

    def chain(self, found: Found) -> list[Trial]:
        """Plant one mistake after the other, each time the one that leaves least.

        Returns the trial without a mistake and one for each step, all to the end of the run. It says how much of what a
        black box shows known mistakes take away; that is not yet an explanation.
        """
        steps = [self.whole(())]
        alone = {trial.mutants: self.whole(trial.mutants) for trial in found.trials if len(trial.mutants) == 1}
        moved = {one: trial.typical for one, trial in alone.items() if trial.typical != steps[0].typical}
        tried = dict(alone)
        while len(steps) <= _CHAIN:
            best = min(tried.values(), key=lambda trial: trial.typical, default=None)
            if best is None or not best.typical <= _STEP * steps[-1].typical:
                break
            steps.append(best)
            tried = {
                one: self.whole((*best.mutants, *one))
                for one, typical in moved.items()
                if one[0] not in best.mutants and typical - steps[0].typical <= _REACH * best.typical
            }
        return steps

    def _by_traits(self, mutants: Sequence[Mutant]) -> list[list[Mutant]]:
        """Return the mistakes that the case must show, and then the rest, for when none of those explains the evidence.

        A case may show a mistake although it lacks what the mistake needs to be caught in any case. Where the value
        right before the first divergence was given, hardly any two mistakes look alike, and the first explanation is
        enough. Other evidence, such as a black box, tells less, and all are tried.
        """
        assert self.first is not None
        keys = [item.key for item in self.runs.expected(self.stage)]
        at = keys.index(self.first)
        if at and keys[at - 1] not in self.evidence.before:
            return [list(mutants)]
        return [[mutant for mutant in mutants if self.runs.shows(mutant) == shown] for shown in (True, False)]

    def _plausible(self, first: SeamKey, passed: frozenset[SeamKey], library: Sequence[Mutant]) -> list[Mutant]:
        return plausible(self.evidence, self.stage, first, passed, library, self.runs.expected(self.stage))

    def _each(self, hypotheses: Sequence[tuple[Mutant, ...]], first: SeamKey) -> list[Trial]:
        for mutants in hypotheses:
            if _ids(mutants) not in self._tried:
                self._tried[_ids(mutants)] = attempt(self.evidence, self.stage, self.runs, mutants, first)
        trials = [self._tried[_ids(mutants)] for mutants in hypotheses]
        if any(trial.explains for trial in trials):
            return trials
        close = [trial for trial in trials if _ids(trial.mutants) not in self._spreads and self._is_close(trial, first)]
        close.sort(key=lambda trial: -self.evidence.order[_stop(trial)])
        for trial in close[:_MEASURED]:
            ids = _ids(trial.mutants)
            spread = self._spreads[ids] = self.runs.spread(trial.mutants, self.stage)
            self._tried[ids] = attempt(self.evidence, self.stage, self.runs, trial.mutants, first, spread=spread)
        return [self._tried[_ids(mutants)] for mutants in hypotheses]

    def _is_close(self, trial: Trial, first: SeamKey) -> bool:
        """Whether rounding with the mistakes planted might be what a trial leaves unexplained.

        They must explain three quarters of the first divergence, and of the value at which the trial stopped.
        """
        if trial.stopped is None or trial.at_first is None:
            return False
        before, after = self.evidence.before, trial.residues.get(trial.stopped, APART)
        if not math.isfinite(after.ratio):  # an exact value, or one of another shape: rounding changes neither
            return False
        at_first = trial.at_first.passed or trial.at_first.ratio <= _CLOSE * before[first].ratio
        return at_first and after.ratio <= max(_CLOSE * before[trial.stopped].ratio, _SLIGHTLY)

    def _beside_the_nearest(self, trials: Sequence[Trial]) -> list[Trial]:
        """Plant the mistake that explains most, together with each other one that changes what was given."""
        assert self.first is not None
        nearest, before = _nearest(self.evidence, trials, self.first), self.evidence.before[self.first]
        if nearest is None:
            return []
        others = [
            trial.mutants[0]
            for trial in trials
            if trial.error is None and (trial.at_first is None or trial.at_first.figure != before.figure)
        ]
        pairs = [(*nearest.mutants, other) for other in others if other not in nearest.mutants]
        return self._each(pairs, self.first)

    def _with_a_second(self, library: Sequence[Mutant], trials: Sequence[Trial]) -> list[Trial]:
        """Plant mistakes that explain the first divergence, and look for a second one where they stop explaining."""
        partial = [trial for trial in trials if trial.stopped is not None and _explains_first(trial)]
        partial.sort(key=lambda trial: -self.evidence.order[_stop(trial)])
        found: list[Trial] = []
        for trial in partial[:_SECOND]:
            at = _stop(trial)
            passed = frozenset(key for key, residue in trial.residues.items() if residue.passed)
            pairs = [
                (*trial.mutants, second)
                for second in self._plausible(at, passed, library)
                if second not in trial.mutants and self.runs.shows(second)
            ]
            found += self._each(pairs[: _PAIRS - len(found)], at)
        return found


def _best(explanations: Sequence[Trial]) -> tuple[Trial, ...]:
    """Return the explanations that leave about as little as the best one, the nearest first."""
    nearest = sorted(explanations, key=lambda trial: trial.typical)
    least = min((trial.worst for trial in nearest), default=0.0)
    return tuple(trial for trial in nearest if trial.worst <= max(_CLASS * least, _NOISE))


def _ids(mutants: Sequence[Mutant]) -> tuple[str, ...]:
    return tuple(mutant.id for mutant in mutants)


def _explains_first(trial: Trial) -> bool:
    return trial.at_first is not None and trial.at_first.passed


def plausible(
    evidence: Evidence,
    stage: str,
    first: SeamKey,
    passed: frozenset[SeamKey],
    library: Sequence[Mutant],
    expected: Sequence[Expected],
) -> list[Mutant]:
    """Return the mistakes that can make ``first`` the first divergence.

    A mistake is made at a seam that comes no later, and at which the subject is not known to be right.
    """
    steps = {item.key: item.step for item in expected}
    last = evidence.order[first]
    open_keys = [key for key, at in evidence.order.items() if at <= last and key not in passed]
    fed = any(key.name in _FED for key in open_keys)
    made = any(key.name == _MADE_BY_THE_MODEL for key in open_keys)

    def possible(mutant: Mutant) -> bool:
        if mutant.stage == "processor" and stage == "model":
            return fed
        if mutant.stage == "model" and stage == "generation":
            return made
        if mutant.stage != stage or mutant.is_at("loading", "loading"):
            return False
        pattern = seam_pattern(mutant.seam)
        return any(pattern.fullmatch(key.name) and fnmatchcase(steps[key], mutant.step) for key in open_keys)

    return [mutant for mutant in library if possible(mutant)]


def attempt(
    evidence: Evidence,
    stage: str,
    runs: Runs,
    mutants: tuple[Mutant, ...],
    first: SeamKey,
    *,
    spread: Mapping[SeamKey, float] | None = None,
    whole: bool = False,
) -> Trial:
    """Run the port with mistakes planted until a value shows that they do not explain the evidence.

    ``spread`` is how far runs with these mistakes are from each other by rounding. With ``whole``, the run goes on to
    its end.
    """
    wide = spread or {}
    residues: dict[SeamKey, Residue] = {}
    failed: list[SeamKey] = []
    waiting = set(evidence.before)

    def on_value(key: SeamKey, array: np.ndarray) -> None:
        if key not in waiting:
            return
        waiting.discard(key)
        residues[key] = _improved(evidence.before[key], evidence.residue(key, array, wide.get(key, 0.0)))
        if not residues[key].passed:
            failed.append(key)
        if not whole and (failed or not waiting):
            raise Enough

    error = runs.run(mutants, stage, on_value)
    if (whole or not failed) and waiting:  # the run ended early, or failed
        failed += sorted(waiting, key=lambda key: evidence.order[key])
        residues |= dict.fromkeys(waiting, APART)
    stopped = min(failed, key=lambda key: evidence.order[key], default=None)
    return Trial(mutants, residues, residues.get(first), stopped, error)


def _improved(before: Residue, after: Residue) -> Residue:
    """A failing value is only explained if the mistakes take away at least half of what is wrong.

    A subject that is just over its gate would otherwise be within two gates of a port without any mistake.
    """
    if before.passed or not after.passed or before.figure is None or after.figure is None:
        return after
    return after if after.figure <= _LEFT * before.figure else replace(after, passed=False)


def explained_rows(evidence: Evidence, trial: Trial) -> int:
    """Return how many of the failing rows a whole trial explains."""
    left = 0
    for key, residue in evidence.before.items():
        if not residue.passed:
            after = trial.residues.get(key, APART)
            rows = max(1, residue.rows_failed)
            left += 0 if after.passed else min(rows, max(1, after.rows_failed)) if after.rows else rows
    return failing_rows(evidence.before) - left


def _stop(trial: Trial) -> SeamKey:
    assert trial.stopped is not None
    return trial.stopped


def _nearest(evidence: Evidence, trials: Sequence[Trial], first: SeamKey) -> Trial | None:
    """The trial that explains the most: the first divergence and as much as possible after it, or most of it."""
    single = [trial for trial in trials if len(trial.mutants) == 1 and trial.at_first is not None]
    before = evidence.before[first].ratio
    near = [
        trial
        for trial in single
        if trial.at_first is not None and (trial.at_first.passed or trial.at_first.ratio < _NEAR * before)
    ]
    if not near:
        return None

    def key(trial: Trial) -> tuple[bool, int, float]:
        assert trial.at_first is not None
        reached = evidence.order[trial.stopped] if trial.stopped is not None else len(evidence.order)
        return trial.at_first.passed, reached if trial.at_first.passed else 0, -trial.at_first.ratio

    return max(near, key=key)
