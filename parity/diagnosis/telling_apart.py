"""Finds the input that tells two hypotheses apart, for an engine that gives log-probabilities and can be asked again.

Mistakes that explain one case alike may give different log-probabilities on another. The port runs with each of the two
likeliest planted on every other case of the bundle. The case on which the two are furthest apart is the next to ask.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parity.bundles.bundle import Bundle, BundleCase
from parity.bundles.checks import check_stage
from parity.bundles.tokens.blackbox import JudgedTokens, gate_of
from parity.core.errors import ParityError
from parity.core.verdict import Verdict
from parity.diagnosis.diagnose import Diagnosed, Explanation, checkpoint_of, explanation, only, runs_of, tokens_result
from parity.diagnosis.evidence import first_failing
from parity.diagnosis.logprobs import BETWEEN_RUNS, LogprobEvidence, likeliest
from parity.diagnosis.planted import MODEL, PlantedRuns
from parity.diagnosis.search import Found, attempt
from parity.diagnosis.symptoms import symptoms_of_tokens

# An engine may be so far from its hypothesis, so two that are further apart than this cannot both explain it.
APART = 2 * BETWEEN_RUNS

Ask = Callable[[BundleCase, Path], JudgedTokens]


@dataclass(frozen=True)
class NextInput:
    """The case that tells two hypotheses apart.

    ``separation`` is their largest difference, in gates, and ``row`` and ``step`` are where it is. ``left`` are the
    hypotheses that explain what the engine gave there; None if it was not asked.
    """

    case: str
    hypotheses: tuple[tuple[str, ...], tuple[str, ...]]
    separation: float
    row: int
    step: int
    left: tuple[tuple[str, ...], ...] | None = None

    def sentence(self) -> str:
        """Return what was found, in one sentence."""
        one, other = (" with ".join(ids) for ids in self.hypotheses)
        text = f"{self.case} tells {one} and {other} apart: they differ by {self.separation:,.3g} gates there"
        if self.left is None:
            return f"{text}; ask the engine about it"
        names = " or ".join(" with ".join(ids) for ids in self.left)
        return f"{text}; what the engine gave there {f'leaves {names}' if names else 'is none of them'}"


def tell_apart(
    bundle: Bundle, found: Sequence[Diagnosed], *, checkpoints: Sequence[Path] = (), ask: Ask | None = None
) -> tuple[list[Diagnosed], list[NextInput]]:
    """Look for inputs that tell explanations apart, and ask the engine about them with ``ask``.

    Without ``ask``, only the first is returned. Returns the diagnoses, with those of what was asked, and the inputs.
    """
    diagnoses, inputs = list(found), list[NextInput]()
    while (at := next((at for at, item in enumerate(diagnoses) if len(item.explanations) > 1), None)) is not None:
        item = diagnoses[at]
        proposed = next_input(bundle, item, checkpoints, without={one.judged.case for one in diagnoses})
        if proposed is None or ask is None:
            inputs += [] if proposed is None else [proposed]
            break
        case = bundle.cases[proposed.case]
        answer = ask(case, checkpoint_of(case, checkpoints))
        asked, left = _tried(bundle, answer, item.explanations, checkpoints)
        inputs.append(replace(proposed, left=left))
        rejected = replace(item, explanations=(), nearest=item.explanations[0])
        diagnoses[at] = only(item, left) if left else rejected
        diagnoses.append(asked)
    return diagnoses, inputs


def next_input(
    bundle: Bundle, item: Diagnosed, checkpoints: Sequence[Path], *, without: Collection[str]
) -> NextInput | None:
    """Return the case on which the two likeliest explanations differ most, or None if none tells them apart.

    The cost of the diagnosis grows by these runs. Cases with videos are left out, as engines are asked about pictures
    and text; so is a case whose checkpoint is not there.
    """
    one, other = item.explanations[:2]
    assert item.judged.subject is not None
    dtype = item.judged.subject.dtype
    proposed = []
    for name, case in bundle.cases.items():
        if name not in without and dtype in case.dtypes and _askable(case, checkpoints):
            folder = checkpoint_of(case, checkpoints)
            runs = PlantedRuns(case, folder, dtype=dtype, may_change_nothing=True)
            proposed.append(_separation(case, runs, one, other))
            item.cost.add(runs.cost)
    best = max((each for each in proposed if each is not None), key=lambda each: each.separation, default=None)
    return best if best is not None and best.separation > APART else None


def _askable(case: BundleCase, checkpoints: Sequence[Path]) -> bool:
    if case.count("video"):
        return False
    try:
        checkpoint_of(case, checkpoints)
    except ParityError:
        return False
    return True


def _separation(case: BundleCase, runs: PlantedRuns, one: Explanation, other: Explanation) -> NextInput | None:
    """The place at which the two differ most. None if either fails to run on the case."""
    reference, floors = check_stage(case, MODEL, runs.dtype)
    first = likeliest(runs.values(one.mutants, MODEL), reference)
    second = LogprobEvidence(first, reference, floors).off(runs.values(other.mutants, MODEL))
    ratios = {place: off / gate_of(reference, floors, place) for place, off in second.items()}
    if not ratios:
        return None
    place = max(ratios, key=lambda at: ratios[at])
    return NextInput(case.name, (one.ids, other.ids), ratios[place], place.row, place.call)


def _tried(
    bundle: Bundle, judged: JudgedTokens, explanations: Sequence[Explanation], checkpoints: Sequence[Path]
) -> tuple[Diagnosed, tuple[tuple[str, ...], ...]]:
    """Try explanations on what the engine gave on another case. Returns its diagnosis, and those that explain it."""
    if not judged.given:
        raise ParityError("a diagnosis needs log-probabilities; the engine gives tokens alone")
    result = tokens_result(judged)
    reference, floors = judged.compared
    evidence = LogprobEvidence(judged.given, reference, floors)
    failing = first_failing(evidence)
    first = failing or next(iter(evidence.before))
    runs = runs_of(bundle, result, checkpoints, may_change_nothing=True)
    trials = [attempt(evidence, MODEL, runs, each.mutants, first) for each in explanations]
    explaining = [trial for trial in trials if trial.explains]
    left = tuple(tuple(mutant.id for mutant in trial.mutants) for trial in explaining)
    if failing is None or judged.verdict is not Verdict.DIVERGED:
        return Diagnosed(result, evidence, cost=runs.cost), left
    tried = tuple(dict.fromkeys(name for each in explanations for name in each.ids))
    diagnosed = Diagnosed(
        result,
        evidence,
        Found(MODEL, first, len(explanations), tried),
        symptoms_of_tokens(evidence.before, reference),
        [explanation(evidence, trial, first) for trial in explaining],
        cost=runs.cost,
    )
    return diagnosed, left
