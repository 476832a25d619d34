"""``parity exam``: asks several engines the same questions about held-out pictures and clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from parity.answers.exam import Answers, ClipForm, Exam
from parity.cli import console as view
from parity.cli.command import finish, here
from parity.cli.progress import progress_bar
from parity.documents.exam import exam_document
from parity.engines.registry import engine
from parity.runs.named import named_checkpoint
from reference.trained import trained_checkpoint
from reference.world.exam import exam as exam_items

_SHOWN = 12


def exam(
    *,
    model: str | None,
    pictures: int,
    clips: int,
    seed: int,
    names: tuple[str, ...],
    out: Path | None,
    threads: int | None,
    as_json: bool,
) -> int:
    """Run the command. PARITY if port and reference give the same answers, and enough of them are right."""
    if threads:
        torch.set_num_threads(threads)
    folder = trained_checkpoint() if model is None else named_checkpoint(model)
    items = exam_items(pictures=pictures, clips=clips, seed=seed)
    engines = {name: engine(name) for name in dict.fromkeys(names)}
    # All engines get the same files.
    form: ClipForm = "mp4" if all(one.reads_mp4() for one in engines.values()) else "gif"
    found: list[Answers] = []
    with Exam(items, form) as asked, progress_bar(len(engines), quiet=as_json) as step:
        for name, one in engines.items():
            step(one.title)
            found.append(asked.ask(name, one, folder))
    document = exam_document(items, found, clip_form=form, environment=here(threads=torch.get_num_threads(), seed=seed))
    return finish(document, lambda console: _show(console, document, clips), as_json=as_json, out=out)


def _show(console: Console, document: dict[str, Any], clips: int) -> None:
    console.print(_table(document["engines"]))
    if clips:
        console.print(f"clips as {document['clip_form'].upper()} files")
    for line in document["disagreements"][:_SHOWN]:
        console.print(view.plain(_sentence(line)), soft_wrap=True)
    console.print(view.verdict_line(document["verdict"]), soft_wrap=True)


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
    given = "; ".join(f"{title}: {answer}" for title, answer in line["answers"].items())
    return f"question {line['number']} ({line['kind']}): {line['question']} right: {line['right']}; {given}"
