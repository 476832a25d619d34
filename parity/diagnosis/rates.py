"""How often a diagnosis names the right mistake, and how often a wrong one. Run by ``nox -s diagnose``.

Every known mistake is planted in the port, which runs with other kernels than the hypotheses do: so a trial is that of
a foreign engine with the same mistake, whose rounding differs. Each is diagnosed from a full trace, from a coarse one,
and from log-probabilities alone; once with all known mistakes, and once with the right one taken out.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.bundles.bundle import Bundle, BundleCase
from parity.bundles.checks import check_stage
from parity.core.floors import Floors
from parity.core.trace import Description, MemoryTrace, SeamKey, Trace
from parity.core.values import ValuesTrace
from parity.diagnosis.evidence import Evidence, TraceEvidence, only
from parity.diagnosis.logprobs import LogprobEvidence, likeliest
from parity.diagnosis.planted import Enough, OnValue, PlantedRuns
from parity.diagnosis.search import Search
from parity.kernels.registry import make_kernels
from parity.mutants.base import Mutant
from parity.mutants.registry import ALL
from parity.seams.promise import promise
from parity.seams.spec import Expected

FULL, COARSE, BLACK_BOX = "full", "coarse", "black box"
TARGETS = {FULL: 0.95, COARSE: 0.85, BLACK_BOX: 0.80}
NONE_TARGET = 0.90
_KEPT = 2**30  # bytes of traces that are kept


@dataclass(frozen=True)
class Trial:
    """One mistake, diagnosed from one kind of evidence.

    ``named`` are the hypotheses that explain it, the nearest first; ``without`` those that are left when the right one
    is taken out; ``pairs`` those that are named then if two mistakes are planted together as well, None if that was not
    tried. ``diverged``: the evidence shows that something is wrong.
    """

    case: str
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


@dataclass
class _Kept:
    """Runs of which the values are kept: all of a few, and those of coarse traces of all."""

    runs: PlantedRuns
    wanted: frozenset[SeamKey]
    whole: float = 0.0
    _held: OrderedDict[tuple[tuple[str, ...], str], dict[SeamKey, np.ndarray]] = field(default_factory=OrderedDict)

    def expected(self, stage: str) -> list[Expected]:
        return self.runs.expected(stage)

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
    case: BundleCase,
    mutants: Sequence[Mutant],
    kinds: Sequence[str],
    *,
    until: float = float("inf"),
    pairs: int = 0,
) -> list[Trial]:
    """Diagnose every mistake on a case, until a time (``time.monotonic``).

    For the first ``pairs`` mistakes that a black box shows, two mistakes are tried together as well.
    """
    own = case.record["checkpoint"]["folder"]
    assert own is not None
    runs = PlantedRuns(case, case.folder / own, dtype="float32")
    stored, floors = check_stage(case, "model", "float32")
    reference = _in_memory(stored)
    floors.yardstick = reference
    coarse = frozenset(promise("coarse").keys(reference.entries()))
    kept = _Kept(runs, coarse)
    kernels = make_kernels("split")
    found: list[Trial] = []
    for mutant in mutants:
        if time.monotonic() > until:
            break
        values: dict[SeamKey, np.ndarray] = {}
        runs.run((mutant,), "model", values.__setitem__, kernels=kernels)
        evidences = _evidences(values, reference, floors, coarse)
        for kind in kinds:
            if mutant.stage == "processor" and kind != BLACK_BOX:
                continue
            before = runs.cost.runs
            search = Search(evidences[kind], "model", runs if kind == FULL else kept)
            if search.first is None:
                found.append(Trial(case.name, mutant.id, kind, False))
                continue
            named = search(ALL, second=kind != BLACK_BOX)
            cost = runs.cost.runs - before
            rest = search([other for other in ALL if other is not mutant], second=kind != BLACK_BOX)
            cost = cost if kind == FULL else 0.0
            together = None
            if kind == BLACK_BOX and not _names(rest) and sum(trial.pairs is not None for trial in found) < pairs:
                together = _names(search([other for other in ALL if other is not mutant], beside=True))
            found.append(Trial(case.name, mutant.id, kind, True, _names(named), _names(rest), cost, together))
            print(_line(found[-1]), flush=True)
    return found


def sound(case: BundleCase, kinds: Sequence[str]) -> list[Trial]:
    """Diagnose the port without a mistake, with other kernels. Nothing may be named."""
    own = case.record["checkpoint"]["folder"]
    assert own is not None
    runs = PlantedRuns(case, case.folder / own, dtype="float32")
    reference, floors = check_stage(case, "model", "float32")
    values = runs.values((), "model", kernels=make_kernels("split"))
    evidences = _evidences(values, reference, floors, frozenset(promise("coarse").keys(reference.entries())))
    return [
        Trial(case.name, "", kind, search.first is not None, _names(search(ALL)))
        for kind in kinds
        for search in [Search(evidences[kind], "model", runs)]
    ]


def _evidences(
    values: Mapping[SeamKey, np.ndarray], reference: Trace, floors: Floors, coarse: frozenset[SeamKey]
) -> dict[str, Evidence]:
    subject = ValuesTrace(Description("port with a mistake", "", "float32", "case"), values)
    whole = TraceEvidence(subject, reference, floors)
    return {
        FULL: whole,
        COARSE: only(whole, list(coarse)),
        BLACK_BOX: LogprobEvidence(likeliest(values, reference), reference, floors),
    }


def _in_memory(trace: Trace) -> MemoryTrace:
    held = MemoryTrace(trace.description)
    for entry in trace:
        held.add(entry, trace.read(entry.key))
    for key in {entry.rows for entry in trace if entry.rows is not None}:
        held.add_labels(key, trace.labels(key))
    return held


def _names(found: Any) -> list[str]:
    return ["+".join(mutant.id for mutant in trial.mutants) for trial in found.explanations]


def _line(trial: Trial) -> str:
    named = " or ".join(trial.named[:4]) or "none"
    without = " or ".join(trial.without[:4]) or "none"
    mark = "right" if trial.right else "WRONG" if trial.named else "missed"
    pairs = "" if trial.pairs is None else f"; with pairs: {' or '.join(trial.pairs[:4]) or 'none'}"
    text = f"{trial.case} {trial.kind}: {trial.mutant}: {mark}: {named}; without it: {without}{pairs}"
    return f"{text}; {trial.runs:.1f} runs"


def summary(found: Sequence[Trial]) -> dict[str, Any]:
    """Return the rates of each kind of evidence, with their numbers of trials."""
    result: dict[str, Any] = {}
    for kind in TARGETS:
        shown = [trial for trial in found if trial.kind == kind and trial.diverged and trial.mutant]
        if not shown:
            continue
        count = len(shown)
        classes = Counter(tuple(sorted(trial.named)) for trial in shown if trial.right and len(trial.named) > 1)
        result[kind] = {
            "trials": count,
            "not shown by the evidence": sum(t.kind == kind and not t.diverged and bool(t.mutant) for t in found),
            "top-1, in a class of indistinguishable ones": sum(trial.right for trial in shown) / count,
            "top-1, the first of its class": sum(trial.first for trial in shown) / count,
            "top-3": sum(trial.top_3 for trial in shown) / count,
            "named alone": sum(trial.right and len(trial.named) == 1 for trial in shown) / count,
            "named wrongly": sum(bool(trial.named) and not trial.right for trial in shown) / count,
            "none of these, without the right one": sum(trial.none for trial in shown) / count,
            "none, or only what the evidence cannot tell from it": sum(t.none_or_same for t in shown) / count,
            "pairs tried without the right one": len(tried := [t for t in shown if t.pairs is not None]),
            "pairs named wrongly": sum(bool(trial.pairs) for trial in tried),
            "mean runs": float(np.mean([trial.runs for trial in shown])),
            "largest runs": max(trial.runs for trial in shown),
            "classes": {" | ".join(names): number for names, number in classes.most_common()},
        }
    correct = [trial for trial in found if not trial.mutant]
    if correct:
        result["correct subjects"] = {"trials": len(correct), "named": sum(bool(trial.named) for trial in correct)}
    return result


def failures(rates: Mapping[str, Any]) -> list[str]:
    """Return what misses its target, in words."""
    missed = []
    for kind, target in TARGETS.items():
        if kind in rates:
            for name, wanted in (
                ("top-1, in a class of indistinguishable ones", target),
                ("none, or only what the evidence cannot tell from it", NONE_TARGET),
            ):
                if rates[kind][name] < wanted:
                    missed.append(f"{kind}: {name} is {rates[kind][name]:.3f}, at least {wanted:.2f} is wanted")
    if rates.get("correct subjects", {}).get("named"):
        missed.append("a mistake is named for a correct subject")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="a bundle with its checkpoints")
    parser.add_argument("--case", action="append", help="a case; default: all")
    parser.add_argument("--kind", action="append", choices=list(TARGETS))
    parser.add_argument("--minutes", type=float, default=1e6, help="time for each case")
    parser.add_argument("--pairs", type=int, default=0, help="black boxes of each case for which pairs are tried too")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the mistakes")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bundle, kinds = Bundle(given.bundle), given.kind or list(TARGETS)
    planted = [mutant for mutant in ALL if mutant.stage != "weights"]
    random.Random(given.seed).shuffle(planted)
    found: list[Trial] = []
    for name, case in bundle.cases.items():
        if "model" in case.stages and name in (given.case or [name]):
            found += sound(case, kinds)
            until = time.monotonic() + 60 * given.minutes
            found += trials(case, planted, kinds, until=until, pairs=given.pairs)
    rates = summary(found)
    text = json.dumps(rates, indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    missed = failures(rates)
    print("\n".join(missed) or "every target is reached")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
