"""``parity diagnose``: names the known mistakes that explain what an engine gave. Needs torch, not transformers."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from parity.bundles.blackbox import judge_tokens, read_steps, the_case
from parity.bundles.bundle import Bundle
from parity.bundles.judging import Selection
from parity.bundles.layout import Layout
from parity.cli import console as view
from parity.cli.command import finish, here
from parity.cli.progress import progress_bar
from parity.core.errors import ParityError
from parity.diagnosis.diagnose import Diagnosed, diagnose, diagnose_tokens, evidence_of, runs_of
from parity.diagnosis.differences import HYPOTHESES
from parity.diagnosis.power import Power, power
from parity.documents.diagnosis import diagnosis_document
from parity.seams.promise import promise


@dataclass(frozen=True)
class DiagnoseOptions:
    """The options of ``parity diagnose``."""

    bundle: Path
    subject: Path | None
    tokens: Path | None
    cases: tuple[str, ...]
    stages: tuple[str, ...]
    dtype: str | None
    checkpoints: tuple[Path, ...]
    sha256: str | None
    expect: str
    layout: Path | None
    out: Path | None
    threads: int | None
    as_json: bool
    power: bool = False


def diagnose_subject(options: DiagnoseOptions) -> int:
    """Run the command. Returns the exit code of the verdict."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.power and options.tokens is not None:
        raise ParityError("--power is for traces; of tokens, the margins in the report say how little they prove")
    bundle = Bundle(options.bundle, sha256=options.sha256)
    layout = None if options.layout is None else Layout(options.layout)
    start = time.perf_counter()
    with progress_bar(2 * len(bundle.cases), quiet=options.as_json) as step:
        if options.tokens is not None:
            found = [_of_tokens(bundle, options, options.tokens)]
        elif options.subject is not None:
            selection = Selection(options.cases, options.stages, options.dtype, promise(options.expect), layout)
            found = diagnose(bundle, options.subject, selection, checkpoints=options.checkpoints, progress=step)
        else:
            raise ParityError("name the SUBJECT's traces, or its tokens with --tokens")
    document = diagnosis_document(
        bundle,
        found,
        subject=str(options.tokens or options.subject),
        hypotheses=len(HYPOTHESES),
        command=shlex.join(["parity", "diagnose", str(options.bundle), *_words(options)]),
        environment=here(threads=torch.get_num_threads()),
        seconds=round(time.perf_counter() - start, 2),
        power=_power(bundle, options, found) if options.power else [],
    )
    return finish(document, lambda console: _show(console, document), as_json=options.as_json, out=options.out)


def _power(bundle: Bundle, options: DiagnoseOptions, found: Sequence[Diagnosed]) -> list[Power]:
    measured = []
    for item in found:
        evidence = evidence_of(item.judged)
        if evidence is not None:
            runs = runs_of(bundle, item.judged, options.checkpoints)
            given = set(evidence.before)
            measured.append(power(runs, item.judged.stage, given, evidence.reference, evidence.floors))
    return measured


def _words(options: DiagnoseOptions) -> list[str]:
    return [str(options.subject)] if options.tokens is None else ["--tokens", str(options.tokens)]


def _of_tokens(bundle: Bundle, options: DiagnoseOptions, tokens: Path) -> Diagnosed:
    if options.subject is not None:
        raise ParityError("give either the SUBJECT's traces or --tokens")
    case = the_case(bundle, options.cases)
    judged = judge_tokens(case, read_steps(tokens), options.dtype or case.dtypes[0])
    return diagnose_tokens(bundle, judged, checkpoints=options.checkpoints)


def _show(console: Console, document: dict[str, Any]) -> None:
    lines = [
        (trace, cause, one)
        for trace in document["traces"]
        for cause, group in (("cause", trace["explanations"]), ("nearest", [trace["nearest"]]))
        for one in group
        if one is not None
    ]
    if lines:
        console.print(_table(lines))
    for one in document["power"]:
        console.print(view.plain(one["text"]), soft_wrap=True)
    totals = document["totals"]
    console.print(view.plain(document["conclusion"]["text"]), soft_wrap=True)
    console.print(
        f"{totals['runs_begun']} runs begun, {totals['runs']:.1f} whole runs of the port in all, {totals['passes']} "
        f"forward passes, {totals['seconds']:.1f} s"
    )
    if document["conclusion"]["status"] != "nothing":
        console.print(view.plain(f"\nFor a bug report:\n{document['bug_report']}\n"), soft_wrap=True)
    console.print(view.verdict_line(document["verdict"]), soft_wrap=True)


def _table(lines: list[tuple[dict[str, Any], str, dict[str, Any]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("case", "role", "mistake", "what it is", "who made it", "before", "after", "rows explained"):
        right = name in ("before", "after", "rows explained")
        table.add_column(name, justify="right" if right else "left", no_wrap=name in ("role", "before", "after"))
    for trace, role, one in lines:
        table.add_row(
            view.plain(trace["case"]),
            role,
            "\n".join(mistake["id"] for mistake in one["mistakes"]),
            "\n".join(mistake["title"] for mistake in one["mistakes"]),
            "\n".join(mistake["source"] for mistake in one["mistakes"]),
            _number(one["figure_before"]),
            _number(one["figure_after"]),
            f"{one['rows_explained']} of {one['rows_failed']}",
        )
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"
