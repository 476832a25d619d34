"""Judges the traces of an engine by a bundle. Before a number is judged, each trace must belong to the bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from parity.bundles.bundle import FLOORED, Bundle, BundleCase
from parity.bundles.checks import check_stage
from parity.bundles.layouts.fitting import LAST_ONLY, fitted, is_part
from parity.bundles.layouts.layout import Layout
from parity.bundles.layouts.relayout import Moved, moved, only_here
from parity.core.bare import SUFFIX, BareTrace
from parity.core.compare import Comparison, Finding, compare
from parity.core.errors import ParityError
from parity.core.floors import Floors
from parity.core.folder import MANIFEST, FolderTrace
from parity.core.gates import DEFAULT_GATE
from parity.core.trace import Description, SeamKey, Trace
from parity.core.verdict import FAILED, Judgement, Verdict, combine, judge
from parity.seams.names import check_names
from parity.seams.promise import EVERYTHING, Promise

_SUBJECT = "subject"  # as `parity run --traces` names them: subject, subject-processor
_DEPTH = 2  # FOLDER/CASE/subject-processor
# An engine that does not name its checkpoint must show that it has the bundle's: by the inputs and by its embeddings.
_IDS, _MASK, _EMBEDDINGS = SeamKey("input_ids", 0), SeamKey("attention_mask", 0), SeamKey("text.embed_tokens", 0)
_MEDIA = (("image_pixels", "image_grid_thw"), ("video_pixels", "video_grid_thw"))


@dataclass(frozen=True)
class Selection:
    """What is judged. Empty: every case, or every stage. ``dtype`` is the dtype that the subject must have.

    ``promise`` is what the model's traces must give, and ``layout`` maps the engine's own names and axes.
    """

    cases: Sequence[str] = ()
    stages: Sequence[str] = ()
    dtype: str | None = None
    promise: Promise = EVERYTHING
    layout: Layout | None = None


@dataclass(frozen=True)
class Judged:
    """The result for one case and stage. ``subject`` and ``reference`` are None if there is no such trace.

    ``compared`` are the subject's trace, the reference's and the floors, if they were compared.
    """

    case: str
    stage: str
    judgement: Judgement
    subject: Description | None = None
    reference: Description | None = None
    floor_runs: Sequence[str] = ()
    findings: Sequence[Finding] = field(default_factory=list)
    compared: tuple[Trace, Trace, Floors] | None = field(default=None, repr=False)


def judge_folder(bundle: Bundle, folder: Path, selection: Selection) -> list[Judged]:
    """Judge a trace, or every trace below a folder. Results are in the order of the bundle's cases.

    A single trace is judged alone. Otherwise every selected case and stage must have a trace, or it is INCOMPLETE.
    Raises ParityError for folders that are no traces, and for a bundle that cannot be what it says it is.
    """
    unknown = [name for name in selection.cases if name not in bundle.cases]
    if unknown:
        raise ParityError(f"the bundle has no case {', '.join(unknown)}; it has {', '.join(bundle.cases)}")
    places = list(trace_places(folder))
    if not places:
        raise ParityError(
            f"{folder} has no trace; a trace is a folder with a {MANIFEST}, or a {SUFFIX} file with tensors named "
            "seam#call"
        )
    alone = places == [folder]
    traces: dict[tuple[str, str, str], Trace] = {}
    opened: dict[tuple[str, str, str], Path] = {}
    results: list[Judged] = []
    for place in places:
        trace = _laid_out(open_trace(place, bundle, selection), selection.layout)
        name, stage = case_of(trace, bundle, selection), stage_of(trace)
        if not alone and not _selected(name, stage, bundle, selection):
            continue
        key = (name, stage, trace.description.dtype)
        if key in traces:
            raise ParityError(f"{opened[key]} and {place} are both {stage} traces of {name} in {key[2]}; keep one")
        traces[key], opened[key] = trace, place
    for case in bundle.cases.values():
        for stage in case.stages:
            found = [trace for (name, of, _), trace in traces.items() if (name, of) == (case.name, stage)]
            results += [_judged(case, stage, trace, selection) for trace in found]
            if not found and not alone and _selected(case.name, stage, bundle, selection):
                results.append(_missing(case, stage, folder))
    results += [
        _refused(trace.description, stage, _foreign(name, stage, bundle))
        for (name, stage, _), trace in traces.items()
        if name not in bundle.cases or stage not in bundle.cases[name].stages
    ]
    return results


def total(results: Sequence[Judged]) -> tuple[Verdict, str]:
    """Return the worst verdict and its reason."""
    verdict = combine([result.judgement.verdict for result in results])
    worst = [result for result in results if result.judgement.verdict is verdict]
    if len(results) == 1:
        return verdict, results[0].judgement.reason
    first = f"{worst[0].case}, {worst[0].stage}: {worst[0].judgement.reason}" if worst else "nothing was judged"
    if verdict is Verdict.PARITY:
        first = "every seam is within its gate"
    return verdict, f"{len(worst)} of {len(results)} stages: {first}"


def open_trace(place: Path, bundle: Bundle, selection: Selection) -> Trace:
    """Open a trace folder or a bare trace.

    A bare trace that names no case has the one case of ``selection`` or of the bundle, or that of its file's name.
    """
    if place.suffix != SUFFIX:
        return FolderTrace(place)
    names = selection.cases or tuple(bundle.cases)
    return BareTrace(place, case=names[0] if len(names) == 1 else place.stem)


def _laid_out(trace: Trace, layout: Layout | None) -> Trace:
    return trace if layout is None else layout.apply(trace)


def trace_places(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield the traces at or below a folder. If some are named ``subject``, the others beside them are not.

    A trace is a folder with a manifest, or a bare trace: a safetensors file that is named itself or lies in the folder.
    """
    if (folder / MANIFEST).exists() or (folder.suffix == SUFFIX and folder.is_file()):
        yield folder
        return
    if depth == 0 or not folder.is_dir():
        return
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    subjects = [path for path in below if path.name == _SUBJECT or path.name.startswith(f"{_SUBJECT}-")]
    for path in subjects or below:
        yield from trace_places(path, depth - 1)
    if depth == _DEPTH:
        yield from sorted(path for path in folder.glob(f"*{SUFFIX}") if path.is_file())


def stage_of(trace: Trace) -> str:
    """Return the stage of a trace by its seams."""
    for stage in ("processor", "generation"):
        if all(entry.key.name.startswith(f"{stage}.") for entry in trace):
            return stage
    return "model"


def case_of(trace: Trace, bundle: Bundle, selection: Selection) -> str:
    """Return the case that a trace names, or else the one that is selected."""
    name = trace.description.case
    return selection.cases[0] if name not in bundle.cases and len(selection.cases) == 1 else name


def _selected(name: str, stage: str, bundle: Bundle, selection: Selection) -> bool:
    known = name not in bundle.cases or not selection.cases or name in selection.cases
    return known and (not selection.stages or stage in selection.stages)


def _judged(case: BundleCase, stage: str, trace: Trace, selection: Selection) -> Judged:
    described = trace.description
    refusal = _binding(case, stage, described, selection)
    if refusal is not None:
        return _refused(described, stage, refusal, case.name)
    dtype = described.dtype if stage in FLOORED else "any dtype"
    reference, floors = check_stage(case, stage, dtype)
    check_names(trace, reference, of_any_model=True)  # first, as a misspelt name may be one that binds the trace
    fitting: Trace = reference
    if stage == "model":
        trace, fitting = fitted(trace, reference, causal=selection.layout is not None and selection.layout.causal)
        refusal = None if described.checkpoint is not None else _bound_by_values(trace, reference, floors)
        if refusal is not None:
            return _refused(described, stage, refusal, case.name)
    check_names(trace, reference)
    findings = compare(trace, Comparison(fitting, floors, DEFAULT_GATE))
    runs = case.part(dtype, stage)["floor_runs"] if stage in FLOORED else []
    findings, judgement = _judgement(findings, stage, trace, fitting, floors, selection.promise)
    compared = (trace, fitting, floors)
    return Judged(case.name, stage, judgement, described, reference.description, runs, findings, compared)


def _judgement(
    findings: Sequence[Finding], stage: str, trace: Trace, reference: Trace, floors: Floors, promised: Promise
) -> tuple[list[Finding], Judgement]:
    """Return the findings that count under a promise, and the verdict over them."""
    wanted = promised.keys(reference.entries()) if stage == "model" else set(reference.entries())
    counted = [finding for finding in findings if finding.status != "missing" or finding.entry.key in wanted]
    if promised is EVERYTHING:
        counted = [_in_part(finding) for finding in counted]
    verdict = judge(counted)
    if verdict.verdict is Verdict.DIVERGED:  # the seams that were not given show where the fault may lie
        counted = list(findings)
        verdict = judge(counted)
    left_out = len(findings) - len(counted)
    if verdict.verdict is Verdict.PARITY and left_out:
        reason = f"{verdict.reason}; {left_out} other seams were not promised (--expect {promised.name})"
        return counted, replace(verdict, reason=reason)
    if verdict.verdict is not Verdict.DIVERGED:
        return counted, verdict
    return counted, _laid_out_differently(counted, verdict, moved(findings, trace, reference, floors))


def _in_part(finding: Finding) -> Finding:
    """A value of which only a part was given is not compared as a whole, unless it failed."""
    if not is_part(finding.entry) or not finding.passed:
        return finding
    return replace(finding, status="not_compared", note=f"{LAST_ONLY} only, and right there")


def _laid_out_differently(findings: Sequence[Finding], verdict: Judgement, moves: Sequence[Moved]) -> Judgement:
    """Say so where a trace is laid out differently. If that is all, the trace cannot be judged as it is."""
    shown = "; ".join(f"{one.seam} matches {one.move}" for one in moves)
    explained = {finding.entry.key for one in moves for finding in one.findings}
    failed = [finding for finding in findings if finding.status in FAILED]
    if moves and all(finding.entry.key in explained for finding in failed):
        reason = f"the trace is laid out differently, nothing says that the model is wrong: {shown}; give --layout"
        return replace(verdict, verdict=Verdict.INVALID, reason=reason, first_divergence=None)
    if moves:
        left = [
            replace(finding, status="not_compared") if finding.entry.key in explained else finding
            for finding in findings
        ]
        rest = judge(left)
        return replace(rest, reason=f"{rest.reason} (besides, the trace is laid out differently: {shown})")
    alone = only_here(findings)
    if alone is not None:
        hint = f"only {alone} is off and everything made of it is right: it may be laid out differently in the trace"
        return replace(verdict, reason=f"{verdict.reason} ({hint})")
    return verdict


def _binding(case: BundleCase, stage: str, subject: Description, selection: Selection) -> str | None:
    """Return why a trace does not belong to a case, with both values, or None."""
    if selection.cases and case.name not in selection.cases:
        return f"the subject has the case {case.name!r}, --case asks for {', '.join(map(repr, selection.cases))}"
    if selection.stages and stage not in selection.stages:
        return f"the subject has the stage {stage}, --stage asks for {', '.join(selection.stages)}"
    if subject.checkpoint is not None and subject.checkpoint != case.checkpoint:
        return (
            f"the subject has the checkpoint {subject.checkpoint}, the bundle {case.checkpoint}; judge one checkpoint"
        )
    if stage not in FLOORED:
        return None
    if selection.dtype is not None and subject.dtype != selection.dtype:
        return f"the subject has the dtype {subject.dtype}, --dtype asks for {selection.dtype}"
    if subject.dtype not in case.dtypes:
        return (
            f"the subject has the dtype {subject.dtype}, the bundle has floors for {', '.join(case.dtypes)}; run the "
            "engine in one of them, or make the bundle with the subject's"
        )
    return None


def _bound_by_values(subject: Trace, reference: Trace, floors: Floors) -> str | None:
    """Return why a subject without a checkpoint cannot be one of the bundle's, or None."""
    needed = [_IDS, _MASK, _EMBEDDINGS]
    for pixels, grids in _MEDIA:
        if SeamKey(grids, 0) in reference.entries():
            given = SeamKey(pixels, 0) in subject.entries()
            needed.append(SeamKey(pixels if given else grids, 0))
    comparison = Comparison(reference, floors, DEFAULT_GATE)
    for key in needed:
        if key not in subject.entries():
            return f"the subject names no checkpoint and does not give {key}, so nothing binds it to the bundle"
        finding = comparison.judge(key, subject.read(key))
        if not finding.passed:
            return f"the subject names no checkpoint, and its {key} is not the bundle's; another prompt or checkpoint?"
    return None


def _foreign(name: str, stage: str, bundle: Bundle) -> str:
    if name in bundle.cases:
        return f"the subject is a {stage} trace, the bundle's {name} has {', '.join(bundle.cases[name].stages)}"
    return f"the subject has the case {name!r}, the bundle {', '.join(map(repr, bundle.cases))}; name it with --case"


def _refused(subject: Description, stage: str, reason: str, case: str | None = None) -> Judged:
    return Judged(case or subject.case, stage, Judgement(Verdict.INVALID, reason, None, 0, 0, 0), subject)


def _missing(case: BundleCase, stage: str, folder: Path) -> Judged:
    expected = len(case.reference(stage, case.dtypes_of(stage)[0]))
    reason = f"{folder} has no {stage} trace of {case.name}"
    return Judged(case.name, stage, Judgement(Verdict.INCOMPLETE, reason, None, expected, 0, 0))
