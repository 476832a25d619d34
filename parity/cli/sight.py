"""``parity sight``: right answers about held-out pictures and clips, several engines side by side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import Any

import click
import torch
from rich import box
from rich.table import Table

from parity.cli import console as view
from parity.core.errors import ParityError
from parity.core.verdict import Verdict
from parity.qwen3vl.sight import Answers, ClipForm, Exam, ask_mistralrs, ask_port, ask_reference
from parity.qwen3vl.workbench import Workbench, named_checkpoint
from port import GenerationConfig
from reference.trained import trained_checkpoint
from reference.world.exam import Item, exam

WANTED = 0.95
_SHOWN = 12


def sight(
    *,
    model: str | None,
    pictures: int,
    clips: int,
    seed: int,
    engines: tuple[str, ...],
    threads: int | None,
    as_json: bool,
) -> int:
    """Carry the command out: PARITY when the port answers as the reference does, and both see well enough."""
    if threads:
        torch.set_num_threads(threads)
    if pictures + clips == 0:
        raise ParityError("there is nothing to ask about; give --pictures or --clips")
    folder = trained_checkpoint() if model is None else named_checkpoint(model)
    items = exam(pictures=pictures, clips=clips, seed=seed)
    bench, config = Workbench(), GenerationConfig.from_folder(folder)
    found: list[Answers] = []
    # mistral.rs reads an MP4 through the ffmpeg program alone; all engines get the same files.
    form: ClipForm = "gif" if "mistralrs" in engines and shutil.which("ffmpeg") is None else "mp4"
    with Exam(items, form) as asked, view.steps(len(engines), quiet=as_json) as step:
        for engine in engines:
            step(engine)
            if engine == "reference":
                reference, processor = bench.reference(folder, "float32"), bench.processor(folder, "float32")
                reference.use_attention("sdpa")
                found.append(ask_reference(asked, reference, processor, config.eos_token_ids))
            elif engine == "port":
                front = bench.port_front(folder)
                found.append(ask_port(asked, bench.port(folder, "float32"), front.processor, config))
            else:
                found.append(ask_mistralrs(asked, folder))
    document = {"clip_form": form, **sight_document(items, found)}
    verdict = Verdict[document["verdict"]]
    with view.printing() as console:
        if as_json:
            click.echo(json.dumps(document))
        else:
            console.print(_table(document["engines"]))
            if clips:
                console.print(f"clips as {form.upper()} files")
            for line in document["disagreements"][:_SHOWN]:
                console.print(view.plain(_sentence(line)), soft_wrap=True)
            console.print(f"{view.coloured(verdict.name)}  {document['reason']}")
    return verdict.exit_code


def sight_document(items: Sequence[Item], found: Sequence[Answers]) -> dict[str, Any]:
    """Summaries, the questions on which engines disagree, and a verdict over reference and port."""
    summaries = [answers.summary(items) for answers in found]
    disagreements = []
    for place, item in enumerate(items):
        given = {answers.engine: answers.answers[place] for answers in found if answers.answers[place] is not None}
        if len(set(given.values())) > 1:
            question = {"kind": item.kind, "question": item.question.text, "right": item.question.answer}
            disagreements.append({"number": place, **question, "answers": given})
    verdict, reason = _judged(found, summaries)
    return {
        "questions": len(items),
        "engines": summaries,
        "disagreements": disagreements,
        "verdict": verdict.name,
        "reason": reason,
    }


def _judged(found: Sequence[Answers], summaries: Sequence[dict[str, Any]]) -> tuple[Verdict, str]:
    """mistral.rs is measured, not judged: it deviates in ways that are known."""
    own = [answers for answers in found if not answers.engine.startswith("mistral.rs")]
    if len(own) < 2:
        return Verdict.INCOMPLETE, "reference and port were not both asked"
    differing = sum(left != right for left, right in zip(own[0].answers, own[1].answers, strict=True))
    if differing:
        return Verdict.DIVERGED, f"the port gives {differing} other answers than the reference"
    accuracy = min(summary["accuracy"] for summary in summaries[: len(own)])
    if accuracy < WANTED:
        return Verdict.DIVERGED, f"only {accuracy:.1%} of the answers are right, {WANTED:.0%} are wanted"
    return Verdict.PARITY, f"the same answers by reference and port, {accuracy:.1%} right"


def _table(summaries: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("right answers")
    for summary in summaries:
        table.add_column(summary["engine"], justify="right")
    kinds = sorted({kind for summary in summaries for kind in summary["by_kind"]})
    for kind in kinds:
        cells = [summary["by_kind"].get(kind) for summary in summaries]
        shown = ["not run" if cell is None else f"{cell['accuracy']:.1%} of {cell['questions']}" for cell in cells]
        table.add_row(kind, *shown)
    totals = [
        "not run" if summary["accuracy"] is None else f"{summary['accuracy']:.1%} of {summary['asked']}"
        for summary in summaries
    ]
    table.add_row("all", *totals)
    if any(summary["not_run"] for summary in summaries):
        table.add_row("not run", *(str(summary["not_run"]) for summary in summaries))
    return table


def _sentence(line: dict[str, Any]) -> str:
    given = "; ".join(f"{engine}: {answer}" for engine, answer in line["answers"].items())
    return f"question {line['number']} ({line['kind']}): {line['question']} right: {line['right']}; {given}"
