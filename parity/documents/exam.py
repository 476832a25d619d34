"""Builds the document of an exam: right answers of several engines, and questions on which they disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parity.answers.exam import Answers, ClipForm, exam_verdict
from parity.documents.base import document, verdict_section
from reference.world.exam import Item


def exam_document(
    items: Sequence[Item], found: Sequence[Answers], *, clip_form: ClipForm, environment: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the document. ``found`` has the answers of each engine to ``items``."""
    return document(
        "exam",
        environment,
        clip_form=clip_form,
        questions=len(items),
        engines=[_engine(answers, items) for answers in found],
        disagreements=_disagreements(items, found),
        verdict=verdict_section(*exam_verdict(items, found)),
    )


def _engine(answers: Answers, items: Sequence[Item]) -> dict[str, Any]:
    asked = len(answers.asked(items))
    return {
        "engine": answers.title,
        "asked": asked,
        "not_run": len(items) - asked,
        "why_not_run": answers.why,
        "right": sum(answers.right(items)),
        "accuracy": answers.accuracy(items),
        "by_kind": answers.by_kind(items),
    }


def _disagreements(items: Sequence[Item], found: Sequence[Answers]) -> list[dict[str, Any]]:
    lines = []
    for place, item in enumerate(items):
        given = {answers.title: answers.answers[place] for answers in found if answers.answers[place] is not None}
        if len(set(given.values())) > 1:
            question = {"kind": item.kind, "question": item.question.text, "right": item.question.answer}
            lines.append({"number": place, **question, "answers": given})
    return lines
