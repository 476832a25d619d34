"""How often a diagnosis names the right mistake, and how often a wrong one. Run by ``nox -s diagnose``.

Every known mistake is planted in the port, which runs with other kernels than the hypotheses do: so a trial is that of
a foreign engine with the same mistake, whose rounding differs. Each is diagnosed from full traces of the processor, the
model and the generation, from a coarse trace of the model, and from log-probabilities alone; once with all known
mistakes, and once with the right one taken out.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.bundles.bundle import Bundle
from parity.diagnosis.differences import HYPOTHESES
from parity.diagnosis.measuring import BLACK_BOX, COARSE, FULL, STAGES, Trial, measure
from parity.workers.base import Task, run_tasks
from parity.workers.choose import make_workers

TARGETS = {FULL: 0.95, COARSE: 0.85, BLACK_BOX: 0.80}
NONE_TARGET = 0.90


def tasks_of(bundle: Bundle, given: argparse.Namespace) -> Iterator[Task]:
    """Yield a task for each case, stage and kind of evidence. The longest come first."""
    for kind in given.kind or sorted(TARGETS):
        for case in bundle.cases.values():
            for stage in STAGES[kind]:
                if stage in case.stages and case.name in (given.case or [case.name]):
                    yield {
                        "bundle": str(given.bundle),
                        "case": case.name,
                        "stage": stage,
                        "kind": kind,
                        "mutants": given.mutant or [mutant.id for mutant in HYPOTHESES],
                        "minutes": given.minutes,
                        "pairs": given.pairs,
                        "seed": given.seed,
                        "group": case.checkpoint,
                        "label": f"{case.name}, {stage}, {kind}",
                    }


def summary(found: Sequence[Trial]) -> dict[str, Any]:
    """Return the rates of each kind of evidence and of each stage of full traces, with their numbers of trials."""
    result: dict[str, Any] = {}
    for kind in TARGETS:
        of_kind = [trial for trial in found if trial.kind == kind and trial.mutant]
        if any(trial.diverged for trial in of_kind):
            result[kind] = _rates(of_kind)
            stages = {stage: [trial for trial in of_kind if trial.stage == stage] for stage in STAGES[kind]}
            result[kind]["stages"] = {
                stage: _rates(group) for stage, group in stages.items() if any(trial.diverged for trial in group)
            }
    correct = [trial for trial in found if not trial.mutant]
    if correct:
        result["correct subjects"] = {"trials": len(correct), "named": sum(bool(trial.named) for trial in correct)}
    return result


def _rates(found: Sequence[Trial]) -> dict[str, Any]:
    shown = [trial for trial in found if trial.diverged]
    count = len(shown)
    classes = Counter(tuple(sorted(trial.named)) for trial in shown if trial.right and len(trial.named) > 1)
    tried = [trial for trial in shown if trial.pairs is not None]
    return {
        "trials": count,
        "not shown by the evidence": len(found) - count,
        "top-1, in a class of indistinguishable ones": sum(trial.right for trial in shown) / count,
        "top-1, the first of its class": sum(trial.first for trial in shown) / count,
        "top-3": sum(trial.top_3 for trial in shown) / count,
        "named alone": sum(trial.right and len(trial.named) == 1 for trial in shown) / count,
        "named wrongly": sum(bool(trial.named) and not trial.right for trial in shown) / count,
        "none of these, without the right one": sum(trial.none for trial in shown) / count,
        "none, or only what the evidence cannot tell from it": sum(trial.none_or_same for trial in shown) / count,
        "pairs tried without the right one": len(tried),
        "pairs named wrongly": sum(bool(trial.pairs) for trial in tried),
        "mean runs": float(np.mean([trial.runs for trial in shown])),
        "largest runs": max(trial.runs for trial in shown),
        "classes": {" | ".join(names): number for names, number in classes.most_common()},
        "wrong or missed": [trial.line() for trial in shown if not (trial.right and trial.none_or_same)],
    }


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
    parser.add_argument("--mutant", action="append", help="a mistake to plant; default: all")
    parser.add_argument("--minutes", type=float, default=1e6, help="time for each case, stage and kind")
    parser.add_argument("--pairs", type=int, default=0, help="black boxes of each case for which pairs are tried too")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the mistakes")
    parser.add_argument("--workers", type=int, default=1, help="processes, with one thread each")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found: list[Trial] = []
    with make_workers(given.workers, None, lambda: None) as workers:
        workers.watch(lambda line: print(line, flush=True))
        for _, answer in run_tasks(workers, measure, list(tasks_of(Bundle(given.bundle), given))):
            found += [Trial(**trial) for trial in answer]
            if given.out is not None:  # a run that is stopped has what it found
                given.out.write_text(json.dumps(summary(found), indent=1) + "\n", encoding="utf-8")
    rates = summary(found)
    print(json.dumps(rates, indent=1))
    missed = failures(rates)
    print("\n".join(missed) or "every target is reached")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
