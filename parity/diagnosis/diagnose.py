"""Diagnoses the traces of an engine: judges them by a bundle, and searches the known mistakes for the cause."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from parity.bundles.bundle import FLOORED, Bundle, BundleCase
from parity.bundles.judging import Judged, Selection, judge_folder
from parity.bundles.tokens.blackbox import JudgedTokens
from parity.core.digest import checkpoint_digest
from parity.core.errors import ParityError
from parity.core.trace import Description, SeamKey
from parity.core.verdict import Judgement, Verdict
from parity.diagnosis.differences import HYPOTHESES
from parity.diagnosis.evidence import APART, Evidence, TraceEvidence, failing_rows
from parity.diagnosis.logprobs import LogprobEvidence
from parity.diagnosis.planted import Cost, PlantedRuns
from parity.diagnosis.search import Found, Search, Trial, attempt, explained_rows
from parity.diagnosis.symptoms import Symptoms, symptoms, symptoms_of_tokens
from parity.mutants.base import Mutant

Progress = Callable[[str], None]
_WORTH = 0.01  # share of the failing rows that the nearest mistake explains, for a sentence to name it
_SHOWN = 5  # causes that a sentence names


@dataclass(frozen=True)
class Explanation:
    """Mistakes that explain all or a part of a trace.

    ``before`` and ``after`` are the ratios at the first divergence, of the reference and of the port with the mistakes;
    ``worst`` is the largest ratio of any value after, ``largest`` the largest figure. ``stopped`` is the first value
    that is not explained.
    """

    mutants: tuple[Mutant, ...]
    before: float
    after: float
    figure_before: float | None
    figure_after: float | None
    worst: float
    largest: float | None
    rows_failed: int
    rows_explained: int
    stopped: SeamKey | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(mutant.id for mutant in self.mutants)

    @property
    def share(self) -> float:
        return self.rows_explained / self.rows_failed if self.rows_failed else 0.0


@dataclass(frozen=True)
class Diagnosed:
    """The diagnosis of one trace, or of the tokens of one case. It is empty, but for the verdict, without a divergence.

    ``evidence`` is what was compared, if anything was. ``chain`` says how much known mistakes take away, one after the
    other, where none explains a black box: first without any.
    """

    judged: Judged
    evidence: Evidence | None = field(default=None, repr=False)
    found: Found | None = None
    symptoms: Symptoms | None = None
    explanations: Sequence[Explanation] = ()
    nearest: Explanation | None = None
    chain: Sequence[Explanation] = ()
    cost: Cost = field(default_factory=Cost)

    @property
    def diverged(self) -> bool:
        return self.found is not None


def diagnose(
    bundle: Bundle,
    subject: Path,
    selection: Selection,
    *,
    checkpoints: Sequence[Path] = (),
    library: Sequence[Mutant] = HYPOTHESES,
    progress: Progress = lambda _what: None,
) -> list[Diagnosed]:
    """Judge a subject's traces, and diagnose those that diverged.

    ``checkpoints`` are folders of checkpoints that the bundle does not hold. Raises ParityError if one is missing.
    """
    results = judge_folder(bundle, subject, selection)
    found = [_diagnosed(bundle, result, checkpoints, library, progress) for result in results]
    return _agreeing(bundle, found, checkpoints)


def _diagnosed(
    bundle: Bundle, result: Judged, checkpoints: Sequence[Path], library: Sequence[Mutant], progress: Progress
) -> Diagnosed:
    evidence = evidence_of(result)
    if evidence is None or result.judgement.verdict is not Verdict.DIVERGED:
        return Diagnosed(result, evidence)
    runs = runs_of(bundle, result, checkpoints)
    progress(f"{result.case}, {result.stage}: trying known mistakes")
    search = Search(evidence, result.stage, runs)
    if search.first is None:  # only values that no run has, such as one that was given too often
        return Diagnosed(result, evidence)
    found = search(library)
    return explained(result, evidence, search, found, runs.cost)


def diagnose_tokens(
    bundle: Bundle,
    judged: Sequence[JudgedTokens],
    *,
    checkpoints: Sequence[Path] = (),
    library: Sequence[Mutant] = HYPOTHESES,
) -> list[Diagnosed]:
    """Diagnose an engine that gave only log-probabilities, from the places at which they are of the same context.

    ``judged`` are its tokens of one or several cases: a mistake that another case contradicts is dropped.
    """
    found = [_diagnosed_tokens(bundle, one, checkpoints, library) for one in judged]
    return _agreeing(bundle, found, checkpoints)


def tokens_result(judged: JudgedTokens) -> Judged:
    """Return the verdict of tokens in the form that traces have."""
    reference, _ = judged.compared
    side = Description(judged.engine, "tokens", judged.dtype, judged.case)
    verdict = Judgement(judged.verdict, judged.reason, None, 0, 0, 0)
    return Judged(judged.case, "model", verdict, side, reference.description)


def _diagnosed_tokens(
    bundle: Bundle, judged: JudgedTokens, checkpoints: Sequence[Path], library: Sequence[Mutant]
) -> Diagnosed:
    reference, floors = judged.compared
    result = tokens_result(judged)
    evidence = LogprobEvidence(judged.given, reference, floors)
    if judged.verdict is not Verdict.DIVERGED:
        return Diagnosed(result, evidence)
    if not judged.given:
        raise ParityError("a diagnosis needs log-probabilities; the file has tokens alone")
    runs = runs_of(bundle, result, checkpoints)
    search = Search(evidence, "model", runs)
    if search.first is None:
        return Diagnosed(result, evidence)
    found = search(library, beside=True)
    chain = [] if found.explanations else [explanation(evidence, one, found.first) for one in search.chain(found)]
    return Diagnosed(
        result,
        evidence,
        found,
        symptoms_of_tokens(evidence.before, reference),
        [explanation(evidence, trial, found.first) for trial in found.explanations],
        nearest=chain[-1] if len(chain) > 1 else None,
        chain=chain,
        cost=runs.cost,
    )


def explained(result: Judged, evidence: TraceEvidence, search: Search, found: Found, cost: Cost) -> Diagnosed:
    """Add figures to what a search found."""
    assert found.first is not None
    nearest = None if found.nearest is None else explanation(evidence, search.whole(found.nearest.mutants), found.first)
    return Diagnosed(
        result,
        evidence,
        found,
        symptoms(result.findings, found.first),
        [explanation(evidence, trial, found.first) for trial in found.explanations],
        nearest,
        cost=cost,
    )


def evidence_of(result: Judged) -> TraceEvidence | None:
    """Return what a judged trace gave, or None if it was not compared."""
    if result.compared is None:
        return None
    subject, reference, floors = result.compared
    known = {finding.entry.key: finding for finding in result.findings if finding.compared}
    return TraceEvidence(subject, reference, floors, known)


def runs_of(
    bundle: Bundle, result: Judged, checkpoints: Sequence[Path], *, may_change_nothing: bool = False
) -> PlantedRuns:
    """Return the runs of the port on the case of a result. Raises ParityError without its checkpoint."""
    case = bundle.cases[result.case]
    assert result.subject is not None
    dtype = result.subject.dtype if result.stage in FLOORED else "float32"
    folder = checkpoint_of(case, checkpoints)
    return PlantedRuns(case, folder, dtype=dtype, may_change_nothing=may_change_nothing)


def checkpoint_of(case: BundleCase, checkpoints: Sequence[Path]) -> Path:
    """Return the folder of a case's checkpoint: in the bundle, or one of ``checkpoints``. Raises ParityError."""
    own = case.record["checkpoint"]["folder"]
    if own is not None:
        return case.folder / str(own)
    folder = next((place for place in checkpoints if checkpoint_digest(place) == case.checkpoint), None)
    if folder is None:
        raise ParityError(
            f"{case.name} needs the checkpoint {case.record['checkpoint']['name']} (sha256 {case.checkpoint}), which "
            "is not in the bundle; give its folder with --checkpoint, or make the bundle with --with-checkpoint"
        )
    return folder


def explanation(evidence: Evidence, trial: Trial, first: SeamKey | None) -> Explanation:
    """Add figures to a trial. ``first`` is the first divergence."""
    assert first is not None
    before, after = evidence.before[first], trial.residues.get(first, APART)
    return Explanation(
        trial.mutants,
        before.ratio,
        after.ratio,
        before.figure,
        after.figure,
        trial.worst,
        max((one.figure for one in trial.residues.values() if one.figure is not None), default=None),
        failing_rows(evidence.before),
        explained_rows(evidence, trial),
        trial.stopped,
    )


def _agreeing(bundle: Bundle, found: Sequence[Diagnosed], checkpoints: Sequence[Path]) -> list[Diagnosed]:
    """Drop explanations that the other traces of the same stage contradict."""
    kept = list(found)
    for stage in ("processor", *FLOORED):
        group = [at for at, item in enumerate(found) if item.judged.stage == stage]
        named = [{one.ids for one in found[at].explanations} for at in group if found[at].explanations]
        common = set.intersection(*named) if named else set()
        if len(named) > 1 and common:
            kept = [only(item, common) if item.judged.stage == stage else item for item in kept]
        sound = [at for at in group if found[at].judged.judgement.verdict in (Verdict.PARITY, Verdict.INCOMPLETE)]
        ids = {one.ids: one.mutants for at in group for one in kept[at].explanations}
        if len(ids) > 1 and sound:
            fitting = {
                key for key, mutants in ids.items() if _fits(bundle, mutants, [found[at] for at in sound], checkpoints)
            }
            if fitting:
                kept = [only(item, fitting) if item.judged.stage == stage else item for item in kept]
    return kept


def _fits(bundle: Bundle, mutants: tuple[Mutant, ...], sound: Sequence[Diagnosed], checkpoints: Sequence[Path]) -> bool:
    """Whether mistakes leave the traces as they are that did not diverge."""
    for item in sound:
        if item.evidence is not None and item.evidence.before:
            runs = runs_of(bundle, item.judged, checkpoints, may_change_nothing=True)
            if not attempt(item.evidence, item.judged.stage, runs, mutants, next(iter(item.evidence.before))).explains:
                return False
    return True


def only(item: Diagnosed, ids: Collection[tuple[str, ...]]) -> Diagnosed:
    """Return a diagnosis with some of its explanations alone, or as it is if it has none of them."""
    left = [one for one in item.explanations if one.ids in ids]
    return replace(item, explanations=left) if left else item


def headline(found: Sequence[Diagnosed], hypotheses: int) -> str:
    """Return the diagnosis in one sentence."""
    diverged = [item for item in found if item.diverged]
    if not diverged:
        return "nothing diverged, so there is no mistake to name"
    parts: dict[str, None] = {}
    for item in diverged:
        if item.explanations:
            names = [" together with ".join(one.ids) for one in item.explanations]
            class_ = " (the evidence does not tell them apart)" if len(names) > 1 else ""
            more = f" or {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            parts[f"explained by {' or '.join(names[:_SHOWN])}{more}{class_}"] = None
        else:
            parts[_unexplained(item, hypotheses)] = None
    return "; ".join(parts)


def _unexplained(item: Diagnosed, hypotheses: int) -> str:
    text = f"{item.judged.case}: none of {hypotheses} known mistakes explains it"
    if len(item.chain) > 1:
        text += f"; {taken_away(item.chain)}"
    elif item.nearest is not None and item.nearest.share >= _WORTH:
        text += (
            f"; the nearest is {' with '.join(item.nearest.ids)}, which leaves {100 * (1 - item.nearest.share):.0f} % "
            "of the failing rows"
        )
    return f"{text}; {item.symptoms.sentence()}" if item.symptoms is not None else text


def taken_away(chain: Sequence[Explanation]) -> str:
    """Return in words what known mistakes take away of a black box, one after the other."""
    start, first, *others = chain
    words = [f"to {first.largest or 0:.2g} with {first.ids[0]}"]
    words += [f"to {one.largest or 0:.2g} with {one.ids[-1]} as well" for one in others]
    largest = f"its largest difference, {start.largest or 0:.2g} nats"
    return f"{largest}, falls {', '.join(words)}; what is left has no name"


def by_id(found: Sequence[Diagnosed]) -> Mapping[tuple[str, ...], Explanation]:
    """Return every explanation once."""
    return {one.ids: one for item in found for one in item.explanations}
