"""Builds the document of a diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parity.bundles.bundle import Bundle
from parity.bundles.judging import total
from parity.diagnosis.diagnose import Diagnosed, Explanation, headline, taken_away
from parity.diagnosis.power import Power
from parity.diagnosis.symptoms import Symptoms
from parity.diagnosis.telling_apart import NextInput
from parity.documents.base import document, finite, judgement_section, side_section, verdict_section
from parity.mutants.base import Mutant


def diagnosis_document(
    bundle: Bundle,
    found: Sequence[Diagnosed],
    *,
    subject: str,
    hypotheses: int,
    command: str,
    environment: Mapping[str, Any],
    seconds: float,
    power: Sequence[Power] = (),
    inputs: Sequence[NextInput] = (),
) -> dict[str, Any]:
    """Return the document. ``command`` reproduces what was seen; ``hypotheses`` is the number of known mistakes."""
    conclusion = headline(found, hypotheses)
    return document(
        "diagnosis",
        environment,
        bundle={"path": str(bundle.folder), "sha256": bundle.sha256},
        subject=subject,
        hypotheses=hypotheses,
        conclusion={"status": _status(found), "text": conclusion},
        traces=[_trace(item) for item in found],
        bug_report=bug_report(found, hypotheses=hypotheses, command=command, bundle=bundle),
        totals={
            "runs": sum(item.cost.runs for item in found),
            "runs_begun": sum(item.cost.started for item in found),
            "passes": sum(item.cost.passes for item in found),
            "seconds": seconds,
        },
        power=[_power(one) for one in power],
        next_inputs=[_input(one) for one in inputs],
        verdict=verdict_section(*total([item.judged for item in found])),
    )


_DETAILED = 3  # causes that a bug report describes


def bug_report(found: Sequence[Diagnosed], *, hypotheses: int, command: str, bundle: Bundle) -> str:
    """Return a paragraph for a bug report: the engine, what was seen, the likely cause, how to see it again."""
    diverged = [item for item in found if item.diverged]
    if not diverged:
        return "Nothing diverged."
    first = diverged[0]
    assert first.judged.subject is not None
    side = first.judged.subject
    engine = " ".join(part for part in (side.producer, side.detail, f"({side.dtype})") if part)
    lines = [f"{engine} differs from transformers {bundle.versions.get('transformers', '')} on Qwen3-VL."]
    for item in diverged:
        if item.symptoms is not None:
            lines.append(f"Case {item.judged.case}: {item.symptoms.sentence()}.")
    # The figures of a cause are those of the first case that it explains.
    causes = {one.ids: one for item in reversed(diverged) for one in reversed(item.explanations)}
    for ids, one in list(reversed(causes.items()))[:_DETAILED]:
        titles = "; and ".join(mutant.title for mutant in one.mutants)
        lines.append(
            f"Likely cause ({' with '.join(ids)}): {titles}. With it planted in a correct port, the worst row at the "
            f"first divergence falls from {_figure(one.figure_before)} to {_figure(one.figure_after)}, and "
            f"{one.rows_explained} of {one.rows_failed} failing rows are explained."
        )
        known = [mutant for mutant in one.mutants if mutant.real]
        lines += [f"The same mistake was made before: {mutant.source}." for mutant in known]
    if len(causes) > 1:
        lines.append(f"The evidence does not tell {len(causes)} causes apart.")
    if not causes:
        lines.append(f"None of {hypotheses} known mistakes explains it.")
    for item in diverged:
        if len(item.chain) > 1:
            titles = "; ".join(mutant.title for mutant in item.chain[-1].mutants)
            lines.append(f"Of {item.judged.case}, {taken_away(item.chain)}. These are: {titles}.")
    lines.append(f"To see it again: {command} (bundle sha256 {bundle.sha256}).")
    return " ".join(lines)


def _figure(value: float | None) -> str:
    return "not comparable" if value is None else f"{value:.2g}"


def _status(found: Sequence[Diagnosed]) -> str:
    diverged = [item for item in found if item.diverged]
    if not diverged:
        return "nothing"
    return "explained" if all(item.explanations for item in diverged) else "unexplained"


def _trace(item: Diagnosed) -> dict[str, Any]:
    judged = item.judged
    return {
        "case": judged.case,
        "stage": judged.stage,
        "subject": None if judged.subject is None else side_section(judged.subject),
        "verdict": judgement_section(judged.judgement),
        "symptoms": None if item.symptoms is None else _symptoms(item.symptoms),
        "tried": [] if item.found is None else list(item.found.tried),
        "explanations": [_explanation(one) for one in item.explanations],
        "nearest": None if item.nearest is None else _explanation(item.nearest),
        "cost": {"runs": item.cost.runs, "runs_begun": item.cost.started, "passes": item.cost.passes},
    }


def _symptoms(found: Symptoms) -> dict[str, Any]:
    return {
        "seam": found.seam,
        "call": found.call,
        "step": found.step,
        "after": found.after,
        "not_given": found.not_given,
        "components": list(found.components),
        "kinds": list(found.kinds),
        "sound_kinds": list(found.sound_kinds),
        "steps": list(found.steps),
        "rows_failed": found.rows_failed,
        "rows": found.rows,
        "worst_row": found.worst_row,
    }


def _explanation(one: Explanation) -> dict[str, Any]:
    return {
        "mistakes": [_mistake(mutant) for mutant in one.mutants],
        "ratio_before": finite(one.before),
        "ratio_after": finite(one.after),
        "figure_before": finite(one.figure_before),
        "figure_after": finite(one.figure_after),
        "worst_after": finite(one.worst),
        "rows_failed": one.rows_failed,
        "rows_explained": one.rows_explained,
        "share": one.share,
        "stopped": None if one.stopped is None else str(one.stopped),
    }


def _mistake(mutant: Mutant) -> dict[str, Any]:
    return {
        "id": mutant.id,
        "title": mutant.title,
        "component": mutant.component,
        "source": mutant.source,
        "real": mutant.real,
    }


def _power(found: Power) -> dict[str, Any]:
    """What evidence would have shown, see ``parity.diagnosis.power``."""
    return {
        "case": found.case,
        "stage": found.stage,
        "text": found.sentence(),
        "shown": list(found.shown),
        "hidden": list(found.hidden),
    }


def _input(found: NextInput) -> dict[str, Any]:
    """A case that tells two explanations apart, see ``parity.diagnosis.telling_apart``."""
    return {
        "case": found.case,
        "hypotheses": [list(ids) for ids in found.hypotheses],
        "separation": found.separation,
        "row": found.row,
        "step": found.step,
        "left": None if found.left is None else [list(ids) for ids in found.left],
        "text": found.sentence(),
    }
