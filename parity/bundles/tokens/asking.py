"""Asks an engine the question of a bundle's case, and writes its tokens as ``blackbox`` reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from parity.bundles.bundle import BundleCase
from parity.core.errors import ParityError
from parity.engines.questions import Answer, AnsweringEngine, Part, Question
from reference.media import PicturePath, VideoPath


def questions_of(case: BundleCase) -> list[Question]:
    """Return one question for each row."""
    return [Question([part_of(case, part) for part in row]) for row in case.record["rows"]]


def part_of(case: BundleCase, part: Mapping[str, str]) -> Part:
    """Return a part of a row with the place of its file."""
    if part["type"] == "text":
        return part["text"]
    path = case.folder / part["file"]
    return PicturePath(path) if part["type"] == "image" else VideoPath(path)


def ask(engine: AnsweringEngine, case: BundleCase, checkpoint: Path) -> list[Answer]:
    """Ask the engine for as many tokens as the case has steps. Raises ParityError if it cannot be asked."""
    why = engine.unavailable()
    if why is not None:
        raise ParityError(why)
    steps = case.record["decode_steps"] + 1
    return engine.answer(checkpoint, questions_of(case), max_new_tokens=steps, ignore_end=True)


def as_lines(answers: Sequence[Answer], engine: str, case: str) -> str:
    """Return answers as JSONL. ``engine`` is its name and version, ``case`` the bundle's case that was asked."""
    lines = [
        {
            "row": row,
            "step": step,
            "token": token.token_id,
            "logprobs": {str(k): v for k, v in token.top.items()},
            "engine": engine,
            "case": case,
        }
        for row, answer in enumerate(answers)
        for step, token in enumerate(answer.tokens)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)
