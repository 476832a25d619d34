"""``python -m reference.training --out FOLDER``: trains the small model and writes it if it passes the exam."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from transformers.utils import logging as hf_logging

from reference.model import ReferenceModel
from reference.processor import ReferenceProcessor
from reference.training.evaluate import reference_answers
from reference.training.export import write_provenance, write_weights
from reference.training.loop import train
from reference.training.model import write_small_files
from reference.training.recipe import Recipe
from reference.world.exam import by_kind, exam

WANTED = 0.95
EXAM = {"pictures": 150, "clips": 60, "seed": 20_000}


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if the checkpoint was written, 1 if too many answers were wrong."""
    parser = argparse.ArgumentParser(prog="python -m reference.training", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint; replaced on success")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--processes", type=int, default=2, help="processes; they share the rows")
    options = parser.parse_args(arguments)
    hf_logging.set_verbosity_error()
    recipe = replace(Recipe(), seed=options.seed, steps=options.steps)
    start = time.perf_counter()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{options.out.name}-", dir=options.out.parent))
    try:
        write_small_files(work)
        model = train(work, recipe, _printing(recipe.steps, start), processes=options.processes)
        write_weights(model, work)
        trained = time.perf_counter() - start
        items = exam(**EXAM)
        answers = reference_answers(ReferenceModel.load(work), ReferenceProcessor.load(work), items)
        right = [answer == item.question.answer for answer, item in zip(answers, items, strict=True)]
        accuracy, kinds = sum(right) / len(right), by_kind(items, right)
        print(f"trained in {trained:.0f} s; {accuracy:.1%} of {len(items)} answers are right")
        for kind, found in kinds.items():
            print(f"  {kind}: {found['accuracy']:.1%} of {found['questions']}")
        if accuracy < WANTED:
            print(f"at least {WANTED:.0%} must be right: nothing is written to {options.out}", file=sys.stderr)
            return 1
        facts = {
            "recipe": asdict(recipe),
            "processes": options.processes,
            "seconds": {"training": round(trained), "all": round(time.perf_counter() - start)},
            "exam": {**EXAM, "questions": len(items)},
            "accuracy": round(accuracy, 4),
            "accuracy_by_kind": kinds,
        }
        write_provenance(work, facts)
        work.chmod(0o755)
        if options.out.exists():
            shutil.rmtree(options.out)
        os.replace(work, options.out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


def _printing(steps: int, start: float) -> Callable[[int, float], None]:
    losses: list[float] = []

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        if (step + 1) % 50 == 0:
            mean = sum(losses[-50:]) / len(losses[-50:])
            print(f"step {step + 1} of {steps}, {time.perf_counter() - start:.0f} s, loss {mean:.3f}", flush=True)

    return on_step


if __name__ == "__main__":
    sys.exit(main())
